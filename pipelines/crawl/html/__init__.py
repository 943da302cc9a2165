"""Converts HTML to plain text, at a bounded cost; README.md explains how."""
