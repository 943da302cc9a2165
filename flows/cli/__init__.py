"""The `mswitch` command."""
