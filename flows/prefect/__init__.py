"""Flows on a Prefect server: settings, forms, steps that follow jobs, costs, deployments."""
