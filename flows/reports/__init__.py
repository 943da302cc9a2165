"""Reports on finished runs as pages, JSON and CSV; and the page of a corpus."""
