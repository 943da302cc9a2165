"""Supervised tasks with real labels: from a corpus that is there, and from Debian's packages."""
