"""Turns crawl files into corpus, vocabulary, example shards and statistics, on Apache Beam."""
