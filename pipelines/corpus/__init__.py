"""The corpus stage: crawl files in, a deduplicated corpus by language out."""
