"""Rules on single pages; `mswitch.pipelines.corpus.recipes` puts them in order."""
