"""Real input to try things on: small crawls in WET and WARC."""

from pipelines.samples.gflanguages import write_debian_sample, write_gflanguages_sample

__all__ = ["write_debian_sample", "write_gflanguages_sample"]
