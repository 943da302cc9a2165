"""Rules on the length of pages and lines: mC4's, and the same by script.

A page needs three lines of 200 characters. In some scripts (`scripts`) these may be shorter: as
long as it takes to say what three lines of 200 characters of English say.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from pipelines.compiled import compiled
from pipelines.corpus.rules.base import Limits, Rule, check_range
from pipelines.corpus.rules.scripts import (
    LEAST_LENGTH_FACTOR,
    LENGTH_FACTORS,
    length_factor,
)
from pipelines.corpus.rules.text_script import writing_system
from pipelines.crawl.html_blocks import find_blocks
from pipelines.crawl.html_tokens import Markup
from pipelines.crawl.text_lines import third_longest_line
from pipelines.records import Page

#: How much of a page tells its script.
_SCRIPT_CHARACTERS = 4000

#: A page with fewer characters of the scripts that need shorter lines is taken for not written in
#: them: links to its translations have a few each.
_LEAST_DENSE_CHARACTERS = 50
_FACTORS = (1.0, *sorted(set(LENGTH_FACTORS.values()) - {1.0}))


@dataclasses.dataclass(frozen=True)
class MaxLength(Rule):
    """Drops overlong pages (c4_utils.is_valid_length).

    Attributes:
        max_page_characters: most characters of a page.
    """

    name: ClassVar[str] = "length"
    max_page_characters: int = 190_000

    def __post_init__(self):
        check_range(self, {"max_page_characters": (1, None)})

    def reason(self, page: Page) -> str | None:
        """Return `too_long`, or None."""
        most = self.max_page_characters
        # No text has more characters than bytes.
        return "too_long" if len(page.utf8) > most and len(page.text) > most else None

    def describe(self, page: Page) -> dict[str, int]:
        """Return its length."""
        return {"characters": len(page.text)}

    def limits(self) -> Limits:
        """Return what is allowed."""
        return {"characters": (None, self.max_page_characters)}


@dataclasses.dataclass(frozen=True)
class Paragraphs(Rule):
    """Drops pages without paragraphs (c4_utils.paragraph_filter).

    Attributes:
        min_lines: pages with fewer lines are dropped.
        min_long_line_characters: a page's third-longest line (its shortest, where it has fewer
            than three) needs this many characters.
    """

    name: ClassVar[str] = "paragraphs"
    min_lines: int = 3
    min_long_line_characters: int = 200

    def __post_init__(self):
        check_range(self, {"min_lines": (1, None), "min_long_line_characters": (0, None)})

    def reason(self, page: Page) -> str | None:
        """Return `too_few_lines`, `short_lines` or None."""
        if page.utf8.count(b"\n") + 1 < self.min_lines:
            return "too_few_lines"
        limit = self.min_long_line_characters
        return "short_lines" if third_longest_line(page.utf8, limit) < limit else None

    def describe(self, page: Page) -> dict[str, int]:
        """Return how many lines there are, and the length of the third-longest."""
        longest = third_longest_line(page.utf8, len(page.utf8))
        return {"lines": page.utf8.count(b"\n") + 1, "third_longest_line": longest}

    def limits(self) -> Limits:
        """Return what is allowed; of a third-longest line, in most scripts."""
        least = self.min_long_line_characters
        return {"lines": (self.min_lines, None), "third_longest_line": (least, None)}


@dataclasses.dataclass(frozen=True)
class ParagraphsByScript(Paragraphs):
    """The same rule with lines that are shorter in dense scripts, before extraction if possible."""

    def reason(self, page: Page) -> str | None:
        """Return `too_few_lines`, `short_lines` or None.

        The script is found only for pages that have paragraphs in some scripts and none in others.
        """
        if page.utf8.count(b"\n") + 1 < self.min_lines:
            return "too_few_lines"
        limit = self.min_long_line_characters
        longest = third_longest_line(page.utf8, limit)
        if longest >= limit:
            return None
        if longest < _least(limit):
            return "short_lines"
        factor = length_factor(writing_system(page.text[:_SCRIPT_CHARACTERS]))
        return "short_lines" if longest < round(limit * factor) else None

    def html_reason(self, html: Markup) -> str | None:
        """Return `short_blocks` if too few blocks of a page could be a paragraph."""
        needed, limit = min(3, self.min_lines), self.min_long_line_characters
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
