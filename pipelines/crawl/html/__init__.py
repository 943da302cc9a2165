"""HTML to plain text, at a bounded price; README.md says how."""
