"""Example shards to seqio tasks, mixtures and deterministic batches."""
