"""Reads crawl files: archives in any state, and the text of their pages."""
