"""`mswitch deploy`: put the flows, their schedules and notifications on a Prefect server."""
