"""Tasks and mixtures of seqio: registered from examples, or read into some."""
