"""Filters on whole pages: each names the reason to drop a page, or None to keep it."""

from pipelines.crawl.text_lines import third_longest_line

#: Reasons of `paragraph_reason` by the number that stands for them in `PAGE_SCHEMA`.
PARAGRAPH_REASONS = (None, "too_few_lines", "short_lines")


def length_reason(utf8: bytes, max_characters: int = 190_000) -> str | None:
    """Drop overlong pages (c4_utils.is_valid_length)."""
    # No text has more characters than bytes.
    overlong = len(utf8) > max_characters and len(utf8.decode()) > max_characters
    return "too_long" if overlong else None


def paragraph_reason(
    utf8: bytes, min_lines: int = 3, min_long_line_characters: int = 200
) -> str | None:
    """Drop pages without paragraphs (c4_utils.paragraph_filter).

    A page needs `min_lines` lines, and its third-longest line (its shortest, where it has fewer
    than three) needs `min_long_line_characters` characters.
    """
    if utf8.count(b"\n") + 1 < min_lines:
        return "too_few_lines"
    if third_longest_line(utf8, min_long_line_characters) < min_long_line_characters:
        return "short_lines"
    return None
