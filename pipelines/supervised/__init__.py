"""Supervised tasks: rows of text and what a model shall answer, as an examples directory."""
