"""The paragraph rule of profile `modern`: mC4's, by script, and before extraction where possible.

A page needs three lines of 200 characters (`CorpusConfig`), which are fewer in some scripts
(`scripts`): as much as is said in three lines of 200 characters of English.
"""

import numpy as np

from pipelines.compiled import compiled
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.modern.scripts import (
    LEAST_LENGTH_FACTOR,
    LENGTH_FACTORS,
    length_factor,
)
from pipelines.corpus.modern.text_script import writing_system
from pipelines.crawl.html_blocks import find_blocks
from pipelines.crawl.html_tokens import Markup
from pipelines.crawl.text_lines import third_longest_line

#: How much of a page tells its script.
_SCRIPT_CHARACTERS = 4000

#: A page with fewer characters of the scripts that need shorter lines is taken for not written in
#: them: links to its translations have a few each.
_LEAST_DENSE_CHARACTERS = 50
_FACTORS = (1.0, *sorted(set(LENGTH_FACTORS.values()) - {1.0}))


def paragraph_reason(text: str, config: CorpusConfig) -> str | None:
    """Name the reason to drop a page without paragraphs, or None.

    The script is found only for pages that have paragraphs in some scripts and none in others.
    """
    if text.count("\n") + 1 < config.min_lines:
        return "too_few_lines"
    limit = config.min_long_line_characters
    longest = third_longest_line(text.encode(), limit)
    if longest >= limit:
        return None
    if longest < _least(limit):
        return "short_lines"
    factor = length_factor(writing_system(text[:_SCRIPT_CHARACTERS]))
    return "short_lines" if longest < round(limit * factor) else None


def html_without_paragraphs(html: Markup, config: CorpusConfig) -> str | None:
    """Name the reason not to extract the text of a page: too few blocks could be a paragraph.

    Args:
        html: the page.
        config: has the limits.
    """
    needed, limit = min(3, config.min_lines), config.min_long_line_characters
    blocks = find_blocks(html)
    if blocks is None:
        return None
    counts = blocks.long_lines([max(1, round(limit * factor)) for factor in _FACTORS])
    if counts[0] >= needed:
        return None
    # Its script decides.
    if max(counts) >= needed:
        fewest = min(_LEAST_DENSE_CHARACTERS, needed * _least(limit))
        if counts[_FACTORS.index(_least_factor(html.utf8, fewest))] >= needed:
            return None
    return "short_blocks"


def _least(limit: int) -> int:
    return round(limit * LEAST_LENGTH_FACTOR)


def _least_factor(html: np.ndarray, fewest: int) -> float:
    """Return the least length factor of the scripts that a page may be written in.

    By the first byte of a character: U+0580 to U+07FF; kana, with CJK punctuation; Han, with rare
    forms and signs above U+F000; and Hangul. Between lie Indic and other scripts that need as many
    characters as English; and rare forms (Hangul in parts, Arabic beyond its first blocks), whose
    pages are held to the limit of English. A page with as much kana or Hangul as Han is taken for
    not written in Han alone.

    Args:
        html: the page in UTF-8, uint8 [bytes].
        fewest: with fewer characters of a script, it is not written in it.
    """
    near_east, kana, han, hangul = _count_scripts(html)
    factors = [1.0]
    if han >= fewest and han > max(kana, hangul):
        factors.append(LENGTH_FACTORS["Hani"])
    if han + kana + hangul >= fewest:
        factors.append(LENGTH_FACTORS["Jpan"])
    if near_east >= fewest:
        factors.append(LENGTH_FACTORS["Arab"])
    return min(factors)


@compiled
def _count_scripts(html: np.ndarray) -> tuple[int, int, int, int]:
    """Count bytes that begin characters of the Near East, kana, Han and Hangul."""
    near_east = kana = han = hangul = 0
    for code in html:
        near_east += (code >= 0xD6) & (code < 0xE0)
        kana += code == 0xE3
        han += (code >= 0xE4) & (code < 0xEA) | (code >= 0xEE)
        hangul += (code >= 0xEA) & (code < 0xEE)
    return near_east, kana, han, hangul
