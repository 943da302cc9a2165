"""The flows that `mswitch deploy` gives to a server, one a file."""
