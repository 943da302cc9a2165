"""The statistics page of a corpus: what is in it, what was dropped, and where it comes from."""
