"""Prefect's flows, one a file: the demo's, and those that `mswitch deploy` gives to a server."""
