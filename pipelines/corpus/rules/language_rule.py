"""Base of rules that identify languages: decides which pages stay."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, find_code, languages, parse_codes
from mswitch.pipelines.records import Page


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageRule(Rule):
    """Labels pages with their language and drops those in others; define `identify`.

    Attributes:
        languages: codes to keep (an entry may name several, with commas; aliases work); None keeps
            all of `known`.
        keep_und: keep pages whose language is uncertain, as language `und`; default: true, unless
            `languages` is given.
    """

    name: ClassVar[str] = "language"
    find: ClassVar[Callable[[str], str | None]] = staticmethod(find_code)
    languages: tuple[str, ...] | None = None
    keep_und: bool | None = None

    def __post_init__(self):
        if self.languages is not None:
            given = [code for entry in self.languages for code in entry.split(",") if code]
            object.__setattr__(self, "languages", parse_codes(given, self.find))
        if not self.kept:
            raise UserError("no language is chosen: give at least one, or keep_und")

    @functools.cached_property
    def kept(self) -> frozenset[str]:
        """Labels of pages that are kept."""
        kept = self.known() if self.languages is None else self.languages
        keep_und = self.languages is None if self.keep_und is None else self.keep_und
        return frozenset(kept) | ({UNDETERMINED} if keep_und else set())

    def known(self) -> Iterable[str]:
        """Return the codes that are kept if `languages` is None."""
        return languages()

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the language of a page, or `und` if it is uncertain, and a score from 0 to 1."""
        raise NotImplementedError

    def reason(self, page: Page) -> str | None:
        """Label a page; return a reason to drop it unless its label is kept."""
        page.lang, page.lang_score = self.identify(page)
        return self._by_label(page)

    def known_reasons(
        self, pages: Sequence[Page], changed: Collection[str]
    ) -> Sequence[str | None] | None:
        """Judge by the stored label, if only the kept languages have changed."""
        labelled = {*changed} <= {"languages", "keep_und"}
        return [self._by_label(page) for page in pages] if labelled else None

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Name settings that keep more labels, or may give a dropped page a label that is kept."""
        labels = sorted(was.keys() & {"languages", "keep_und"})
        before = self.change({name: was[name] for name in labels})
        wider = [] if self.kept <= before.kept else labels
        others = {name: value for name, value in was.items() if name not in labels}
        # With any other setting, a page may become `und`, which may be kept.
        return wider + ([*others] if UNDETERMINED in self.kept else super().find_looser(others))

    def _by_label(self, page: Page) -> str | None:
        if page.lang in self.kept:
            return None
        return "undetermined_language" if page.lang == UNDETERMINED else "other_language"

    def detail(self, page: Page) -> str:
        """Return the guess with its score, then the text."""
        return f"{page.lang} {page.lang_score:.3f}: {page.text}"

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the guess, its score and the columns of the rule."""
        return {"lang": page.lang, "lang_score": page.lang_score, **super().describe(page)}
