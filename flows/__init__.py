"""Prefect flows, per-language speed-up reports and the `mswitch` command."""
