"""seqio tasks, mixtures, deterministic batches and metrics, from shards of examples."""
