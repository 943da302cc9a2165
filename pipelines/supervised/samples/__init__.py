"""Supervised tasks with real labels, made from an existing corpus or from Debian's packages."""
