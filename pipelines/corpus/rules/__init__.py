"""Rules on single pages; `pipelines.corpus.recipes` puts them in order."""
