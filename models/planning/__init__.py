"""`mswitch plan`: compile the training step for absent TPUs, and report what it needs."""
