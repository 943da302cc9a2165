"""The report stage: two training runs in, a per-language speed-up report out."""
