"""Filters on whole pages: each names the reason to drop a page, or None to keep it."""

from collections.abc import Sequence

#: Reasons of `paragraph_reason` by the number that stands for them in `PAGE_SCHEMA`.
PARAGRAPH_REASONS = (None, "too_few_lines", "short_lines")


def length_reason(text: str, max_characters: int = 190_000) -> str | None:
    """Drop overlong pages (c4_utils.is_valid_length)."""
    return "too_long" if len(text) > max_characters else None


def paragraph_reason(
    lines: Sequence[str], min_lines: int = 3, min_long_line_characters: int = 200
) -> str | None:
    """Drop pages without paragraphs (c4_utils.paragraph_filter).

    A page needs `min_lines` lines, and its third-longest line (its shortest, where it has fewer
    than three) needs `min_long_line_characters` characters.
    """
    if len(lines) < min_lines:
        return "too_few_lines"
    if third_longest_line(lines) < min_long_line_characters:
        return "short_lines"
    return None


def third_longest_line(lines: Sequence[str]) -> int:
    """Return the length of the third-longest of some lines, of fewer that of the shortest."""
    return sorted(map(len, lines))[-3:][0]
