"""What a Flink cluster needs to run pipelines: a pool of Python workers."""
