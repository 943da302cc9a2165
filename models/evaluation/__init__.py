"""Loss of checkpoints, document by document."""
