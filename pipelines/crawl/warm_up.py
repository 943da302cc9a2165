"""Imported by the process that workers are forked from: compiles, or loads, what all pages need."""

from pipelines.crawl.text_lines import normalize_lines, third_longest_line

normalize_lines("A page.")
third_longest_line(b"A page.", 1)
