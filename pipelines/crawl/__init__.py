"""Crawl files in: archives of any state, and the text of the pages in them."""
