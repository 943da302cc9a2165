"""What finished runs are worth, as pages, JSON and CSV; and the page of a corpus."""
