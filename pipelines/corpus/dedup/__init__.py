"""Deduplication by keys: exact for URLs and lines, MinHash for near-duplicates."""
