"""Deduplication by keys: exact for URLs and lines, MinHash for pages that are nearly the same."""
