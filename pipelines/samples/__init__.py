"""Real input to try things on: small crawls in WET and WARC."""
