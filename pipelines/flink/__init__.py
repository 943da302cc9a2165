"""A pool of Python workers, which a Flink cluster needs to run pipelines."""
