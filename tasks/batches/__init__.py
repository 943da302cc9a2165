"""What feeds training and evaluation, without seqio or TensorFlow."""
