"""Supervised tasks: makes an examples directory from rows of text and expected answers."""
