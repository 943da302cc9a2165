"""Small crawls of real text in WET and WARC, for trials."""
