"""Rules on the length of pages and lines: mC4's rules, and variants that depend on the script.

A page needs three lines of 200 characters. Lines of some scripts (`script_factors`) may be shorter:
as long as is needed to say as much as 200 characters of English.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge

from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.rules.base import Limits, Rule
from mswitch.pipelines.corpus.rules.script_factors import LEAST_LENGTH_FACTOR, find_length_factor
from mswitch.pipelines.corpus.rules.text_script import find_writing_system
from mswitch.pipelines.crawl.text_lines import third_longest_line
from mswitch.pipelines.records import Page

#: Characters at the beginning of a page that decide its script.
_SCRIPT_CHARACTERS = 4000


@dataclasses.dataclass(frozen=True)
class MaxLength(Rule):
    """Drops overlong pages (c4_utils.is_valid_length).

    Attributes:
        max_page_characters: maximum characters of a page.
    """

    name: ClassVar[str] = "length"
    max_page_characters: Annotated[int, Ge(1)] = 190_000

    def __post_init__(self):
        check_fields(self)

    def find_settings(self, reason: str) -> Sequence[str]:
        return ("max_page_characters",)

    def reason(self, page: Page) -> str | None:
        most = self.max_page_characters
        # Compare bytes first, because no text has more characters than bytes.
        return "too_long" if len(page.utf8) > most and len(page.text) > most else None

    def describe(self, page: Page) -> dict[str, int]:
        return {"characters": len(page.text)}

    def limits(self, page: Page | None = None) -> Limits:
        return {"characters": (None, self.max_page_characters)}


@dataclasses.dataclass(frozen=True)
class Paragraphs(Rule):
    """Drops pages without paragraphs (c4_utils.paragraph_filter).

    Attributes:
        min_lines: fewest lines of a page.
        min_long_line_characters: fewest characters of a page's third-longest line, or of its
            shortest line if it has fewer than three.
    """

    name: ClassVar[str] = "paragraphs"
    min_lines: Annotated[int, Ge(1)] = 3
    min_long_line_characters: Annotated[int, Ge(0)] = 200

    def __post_init__(self):
        check_fields(self)

    def find_settings(self, reason: str) -> Sequence[str]:
        return ("min_lines" if reason == "too_few_lines" else "min_long_line_characters",)

    def reason(self, page: Page) -> str | None:
        if page.utf8.count(b"\n") + 1 < self.min_lines:
            return "too_few_lines"
        limit = self.min_long_line_characters
        longest = third_longest_line(page.utf8, limit)
        return "short_lines" if longest < limit and self.is_short(page, longest) else None

    def is_short(self, page: Page, longest: int) -> bool:
        """Return whether to drop a page whose third-longest line, `longest`, is below the limit."""
        return True

    def describe(self, page: Page) -> dict[str, int]:
        longest = third_longest_line(page.utf8, len(page.utf8))
        return {"lines": page.utf8.count(b"\n") + 1, "third_longest_line": longest}

    def limits(self, page: Page | None = None) -> Limits:
        """Return limits on line count and length; dense scripts may have a lower length limit."""
        least = self.min_long_line_characters
        return {"lines": (self.min_lines, None), "third_longest_line": (least, None)}


@dataclasses.dataclass(frozen=True)
class ParagraphsByScript(Paragraphs):
    """Drops pages without paragraphs; the limit on line length is lower in dense scripts."""

    def is_short(self, page: Page, longest: int) -> bool:
        """Return whether the third-longest line is too short; identify the script if necessary."""
        limit = self.min_long_line_characters
        if longest < round(limit * LEAST_LENGTH_FACTOR):
            return True
        factor = find_length_factor(find_writing_system(page.text[:_SCRIPT_CHARACTERS]))
        return longest < round(limit * factor)
