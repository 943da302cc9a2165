"""From a crawl to per-language speed-ups, in four packages."""
