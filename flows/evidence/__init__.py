"""What `mswitch evidence` trains, and for how long."""
