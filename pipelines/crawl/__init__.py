"""Reads crawl files, even damaged archives, and extracts the text of their pages."""
