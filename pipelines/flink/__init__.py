"""A Flink cluster on this machine, to try what runs on a large one; see `cluster`."""
