"""Base of rules that identify languages: decides which pages stay."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.corpus.rules.language_labels import read_label
from mswitch.pipelines.crawl.columns import Column
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, find_code, languages, parse_codes
from mswitch.pipelines.records import Page

#: Private column of a page: its language by the input's label, for comparison with the identified
#: language.
LABEL = "_label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageRule(Rule):
    """Labels pages with their language; drops unwanted languages; subclasses define `identify`.

    Attributes:
        languages: codes to keep (an entry may name several, with commas; aliases work); by default
            all of `known`.
        keep_und: keep pages whose language is uncertain, as language `und`; default: true, unless
            `languages` is given.
        other_languages: also keep pages in languages that the table lacks, unless `languages` is
            given.
        language_from: columns of the input with the label, separated by commas; "" for none.
        language_labels: `trust` takes the label in place of `identify`; `compare` identifies, and
            counts what the labels say.
    """

    name: ClassVar[str] = "language"
    find: ClassVar[Callable[[str], str | None]] = staticmethod(find_code)
    languages: tuple[str, ...] | None = None
    keep_und: bool | None = None
    other_languages: bool = False
    language_from: str = ""
    language_labels: Literal["trust", "compare"] = "trust"

    def __post_init__(self):
        if self.languages is not None:
            given = [code for entry in self.languages for code in entry.split(",") if code]
            object.__setattr__(self, "languages", parse_codes(given, self.find))
        if not self.kept:
            raise UserError("no language is chosen: give at least one, or keep_und")

    @functools.cached_property
    def kept(self) -> frozenset[str]:
        """Language codes of the pages that the rule keeps."""
        kept = self.known() if self.languages is None else self.languages
        keep_und = self.languages is None if self.keep_und is None else self.keep_und
        return frozenset(kept) | ({UNDETERMINED} if keep_und else set())

    def known(self) -> Iterable[str]:
        """Return the codes of the languages that the rule keeps if `languages` is None."""
        return languages()

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the language of a page, or `und` if it is uncertain, and a score from 0 to 1."""
        raise NotImplementedError

    def set_unidentified(self, page: Page) -> None:
        """Set the rule's columns to "" or 0, for a page that the rule does not identify."""
        page.columns |= {n: "" if kind == "string" else 0 for n, kind in self.columns.items()}

    def reason(self, page: Page) -> str | None:
        """Label a page; return a reason to drop it unless its label is kept."""
        label = self._read_label(page) if self.language_from else ""
        if label and self.language_labels == "trust":
            page.lang, page.lang_score = label, float(label != UNDETERMINED)
            self.set_unidentified(page)
        else:
            page.lang, page.lang_score = self.identify(page)
            if label:
                page.columns[LABEL] = label
        return self._by_label(page)

    def _read_label(self, page: Page) -> str:
        names = [Column(path).name for path in self.language_from.split(",")]
        parts = [value for name in names if (value := page.columns.get(name))]
        code = read_label("_".join(map(str, parts)), page.text)
        return code if self.other_languages or code in languages() else UNDETERMINED

    def known_reasons(
        self, pages: Sequence[Page], changed: Collection[str]
    ) -> Sequence[str | None] | None:
        """Judge pages by stored language if only `languages` or `keep_und` changed; else None."""
        labelled = {*changed} <= {"languages", "keep_und"}
        return [self._by_label(page) for page in pages] if labelled else None

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Return the names of changed settings that may make the rule keep more pages.

        A looser setting keeps more languages, or may change the page's label to a kept language.
        """
        labels = sorted(was.keys() & {"languages", "keep_und"})
        before = self.change({name: was[name] for name in labels})
        wider = [] if self.kept <= before.kept else labels
        others = {name: value for name, value in was.items() if name not in labels}
        # If the rule keeps `und`, any changed setting may keep more pages, because it may give
        # the label `und` to a page that was dropped.
        return wider + ([*others] if UNDETERMINED in self.kept else super().find_looser(others))

    def _by_label(self, page: Page) -> str | None:
        every = self.other_languages and self.languages is None
        if page.lang in self.kept or (every and page.lang != UNDETERMINED):
            return None
        return "undetermined_language" if page.lang == UNDETERMINED else "other_language"

    def detail(self, page: Page) -> str:
        """Return the page's language with its score, then the text."""
        return f"{page.lang} {page.lang_score:.3f}: {page.text}"

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the page's language, its score and the columns that this rule adds."""
        return {"lang": page.lang, "lang_score": page.lang_score, **super().describe(page)}
