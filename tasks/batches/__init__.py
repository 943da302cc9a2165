"""Batches for training and evaluation, without seqio or TensorFlow."""
