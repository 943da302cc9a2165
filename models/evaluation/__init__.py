"""Evaluation: the loss of checkpoints, document by document."""
