"""seqio tasks and mixtures: registered from examples, or converted to examples."""
