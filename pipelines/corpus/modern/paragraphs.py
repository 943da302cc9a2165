"""The paragraph rule of profile `modern`: mC4's, by script, and before extraction where possible.

A page needs three lines of 200 characters (`CorpusConfig`), which are fewer in some scripts
(`scripts`): as much as is said in three lines of 200 characters of English.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.filters import third_longest_line
from pipelines.corpus.modern.scripts import LEAST_LENGTH_FACTOR, length_factor
from pipelines.corpus.modern.text_script import writing_system
from pipelines.crawl.html_blocks import find_blocks

#: How much of a page tells its script.
_SCRIPT_CHARACTERS = 4000

#: A page with fewer characters of the scripts that need shorter lines is taken for not written in
#: them: links to its translations have a few each.
_LEAST_DENSE_CHARACTERS = 50


def paragraph_reason(text: str, config: CorpusConfig) -> str | None:
    """Name the reason to drop a page without paragraphs, or None.

    The script is found only for pages that have paragraphs in some scripts and none in others.
    """
    lines = text.split("\n")
    if len(lines) < config.min_lines:
        return "too_few_lines"
    longest, limit = third_longest_line(lines), config.min_long_line_characters
    if longest >= limit:
        return None
    if longest < _least(limit):
        return "short_lines"
    factor = length_factor(writing_system(text[:_SCRIPT_CHARACTERS]))
    return "short_lines" if longest < round(limit * factor) else None


def html_without_paragraphs(pages: Sequence[bytes], config: CorpusConfig) -> list[str | None]:
    """Name the reason not to extract the text of HTML: too few blocks could be a paragraph.

    Args:
        pages: HTML in UTF-8.
        config: has the limits.

    Returns:
        For each page the reason or None.
    """
    blocks = find_blocks(pages)
    needed, limit = min(3, config.min_lines), config.min_long_line_characters
    least = _least(limit)
    without = blocks.long_lines(limit) < needed
    least_dense = min(_LEAST_DENSE_CHARACTERS, needed * least)
    # Their script decides.
    for page in np.flatnonzero(without & (blocks.long_lines(least) >= needed)).tolist():
        without[page] = _dense_characters(pages[page]) < least_dense
    without &= ~blocks.doubtful
    return ["short_blocks" if useless else None for useless in without.tolist()]


def _least(limit: int) -> int:
    return round(limit * LEAST_LENGTH_FACTOR)


def _dense_characters(html: bytes) -> int:
    """Count the characters of scripts that need shorter lines, and some others.

    By the first byte of a character: U+0580 to U+07FF, and U+3000 and above. Between lie Indic and
    other scripts that need as many characters as English, and punctuation; and rare forms (Hangul
    in parts, Arabic beyond its first blocks), whose pages are held to the limit of English.
    """
    if html.isascii():
        return 0
    codes = np.frombuffer(html, np.uint8)
    near_east = np.count_nonzero(codes - np.uint8(0xD6) <= 0xDF - 0xD6)
    return int(near_east + np.count_nonzero(codes >= 0xE3))
