"""The corpus stage: makes a deduplicated corpus by language from crawl files."""
