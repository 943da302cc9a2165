"""Crawl files to corpus, vocabulary, example shards and statistics, on Apache Beam."""
