"""`mswitch plan`: compile the training step for TPUs that are not there, and say what it needs."""
