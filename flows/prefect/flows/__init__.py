"""The flows that `mswitch deploy` puts on a server."""
