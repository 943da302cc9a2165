"""Flows for a Prefect server: what they do, how they are deployed, what a person sees of them."""
