"""Measures quality and repetition of pages in columns, and drops pages by limits on the columns.

The signals are Gopher's (Rae et al. 2021, appendix A.1.1), adapted to scripts without spaces and to
other punctuation; `words` defines a word. The corpus contains the columns, so stricter limits can
be applied to a finished corpus. One core: 16 MB of text per second.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge

from mswitch.pipelines import storage
from mswitch.pipelines.compiled import get_random_seed
from mswitch.pipelines.config_checks import Share, check_fields
from mswitch.pipelines.corpus.rules.base import Limits, ListRule
from mswitch.pipelines.corpus.rules.list_files import read_table
from mswitch.pipelines.corpus.rules.segmenter import LANGUAGES, find_locale, load_icu
from mswitch.pipelines.corpus.rules.stop_words import STOP_WORDS, hash_stop_words, read_stop_words
from mswitch.pipelines.corpus.rules.word_counts import (
    count_distinct,
    count_repeated_characters,
    count_words,
)
from mswitch.pipelines.corpus.rules.words import CLOSER, TERMINAL, Words, cut, cut_pages, mix
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import Page, list_columns

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)

#: Types of the quality columns; columns.csv explains the columns. Shares are between 0 and 1. Pages
#: have no blank lines, so each line is a paragraph. In a script without spaces, a letter counts as
#: one word, or as a fraction of a word if most of the page is in this script. N-gram shares count
#: only characters in words. `top_` columns count only n-grams that occur at least twice.
COLUMNS: Mapping[str, type] = {
    column.removeprefix("q_"): np.dtype(kind).type
    for column, kind in list_columns("quality").items()
}

#: Lowest and highest values of columns, by language.
ByLanguage = dict[str, dict[str, tuple[float, float]]]

_NGRAM_SHARE = re.compile("[0-9]+gram_share")
_BULLETS = [ord(character) for character in "•‣⁃◦▪▫●○■□·*-–—"]
_DOT, _ELLIPSIS, _NEWLINE = ord("."), ord("…"), ord("\n")


def measure_quality(
    words: Words,
    langs: Sequence[str],
    stop_words: Mapping[str, str] = STOP_WORDS,
    locales: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Measure the quality columns (`COLUMNS`) of pages.

    `stop_words` are by language; `locales` are the locales that `words.cut` cut the words in.
    """
    lists = [stop_words.get(lang, "") for lang in langs]
    whole = [bool(locale) for locale in locales] or [False] * len(lists)
    columns = {
        **_measure_words(words),
        "stop_words": _stop_words(words, list(zip(lists, whole, strict=True))),
        **_measure_lines(words),
        **_measure_ngrams(words),
    }
    return {name: columns[name].astype(kind) for name, kind in COLUMNS.items()}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _measure_words(words: Words) -> dict[str, np.ndarray]:
    counts = count_words(words)
    total = counts.words
    spaced = words.letters_per_word == 1
    return {
        "words": np.rint(total),
        "mean_word_length": np.where(spaced, _share(counts.characters, total), 0),
        "symbol_ratio": _share(counts.symbols, total),
        "alphabetic_word_share": _share(counts.with_letter, total),
        "digit_share": _share(counts.digits, counts.visible),
    }


def _stop_words(words: Words, lists: Sequence[tuple[str, bool]]) -> np.ndarray:
    """Count the distinct stop words of each page.

    For each page, `lists` has the stop words, and whether ICU found the page's words.
    """
    known = {
        (listed, whole): hash_stop_words(listed, whole=whole)
        for listed, whole in sorted(set(lists))
        if listed
    }
    numbers = {listed: number for number, listed in enumerate(known)}
    listed = np.concatenate([np.empty(0, np.uint64), *known.values()])
    bounds = np.cumsum([0, *map(len, known.values())])
    list_of_page = np.array([numbers.get(given, -1) for given in lists], np.int64)
    return count_distinct(words.hashes, words.first, listed, bounds, list_of_page)


def _measure_lines(words: Words) -> dict[str, np.ndarray]:
    ends = np.flatnonzero(words.codes == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    pages = len(words.first) - 1
    page_of_line = np.searchsorted(words.page_starts, starts, side="right") - 1
    total = np.bincount(page_of_line, minlength=pages)
    lengths = ends - starts
    last = ends - 1
    for _ in range(2):
        closed = ((words.properties[last] & CLOSER) > 0) & (last > starts)
        last = np.where(closed, last - 1, last)
    dots = words.codes[np.maximum(ends[:, None] - [1, 2, 3], starts[:, None])] == _DOT
    ellipsis = (words.codes[ends - 1] == _ELLIPSIS) | (dots.all(axis=1) & (lengths >= 3))
    again = ~_mark_first(page_of_line, words.characters.hash(starts, ends))

    def share(marked: np.ndarray) -> np.ndarray:
        return _share(np.bincount(page_of_line, marked, pages), total)

    return {
        "bullet_line_share": share(np.isin(words.codes[starts], _BULLETS)),
        "ellipsis_line_share": share(ellipsis),
        "terminal_line_share": share((words.properties[last] & TERMINAL) > 0),
        "third_longest_line": _measure_third_longest(page_of_line, lengths, total),
        "duplicate_line_share": share(again),
        "duplicate_line_character_share": _share(
            np.bincount(page_of_line, again * lengths, pages),
            np.bincount(page_of_line, lengths, pages),
        ),
    }


def _measure_third_longest(pages: np.ndarray, lengths: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the length of each page's third-longest line: int64 [pages], 0 without lines."""
    ordered = lengths[np.lexsort((-lengths, pages))]
    place = np.cumsum(total) - total + np.minimum(total, 3) - 1
    return np.where(total > 0, np.append(ordered, 0)[place], 0)


def _mark_first(pages: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return whether no earlier item on the same page has the same hash: bool [items]."""
    keys = mix(hashes + mix(pages.astype(np.uint64)))
    first = np.ones(len(keys), bool)
    # Sorting is the slowest part, so sort only items that share a hash bucket with another item.
    bits = len(keys).bit_length() + 2
    buckets = (keys >> np.uint64(64 - bits)).view(np.int64)
    shared = np.flatnonzero(np.bincount(buckets, minlength=1 << bits)[buckets] > 1)
    if not len(shared):
        return first
    keys = keys[shared]
    order = np.argsort(keys)
    new = np.ones(len(keys), bool)
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    heads = np.flatnonzero(new)
    order = shared[order]
    first[order] = False
    first[np.minimum.reduceat(order, heads)] = True
    return first


def _measure_ngrams(words: Words) -> dict[str, np.ndarray]:
    lengths = np.concatenate([[0], np.cumsum(words.ends - words.starts)])
    total = np.diff(lengths[words.first])
    ngrams = (*TOP_NGRAMS, *DUPLICATE_NGRAMS)
    units = np.stack([words.units(n) for n in ngrams])
    spans = words.spans
    repeated = count_repeated_characters(
        words.first, lengths, spans.sums, spans.inverses, units, len(TOP_NGRAMS), get_random_seed()
    )
    names = [f"top_{n}gram_share" for n in TOP_NGRAMS]
    names += [f"duplicate_{n}gram_share" for n in DUPLICATE_NGRAMS]
    # Limit shares to 1, because overlapping occurrences of an n-gram are all counted in full.
    shares = [np.minimum(_share(characters, total), 1) for characters in repeated]
    return dict(zip(names, shares, strict=True))


#: Column with the score of a page's language; a file of limits may limit this score too.
LANG_SCORE = "lang_score"
CORPUS_COLUMNS = {f"q_{name}": name for name in COLUMNS}
#: Values that mean "not measured"; limits ignore them.
_UNKNOWN = {"mean_word_length": 0, "stop_words": -1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherQuality(ListRule):
    """Measures a page's quality in columns; drops the page by the first limit that it violates.

    The defaults are Gopher's, with these deviations. Words may be 2 to 14 characters long on
    average, not 3 to 10: in the Declaration of Human Rights they are 3.0 in Korean and 12.4 in
    Malayalam. Stop words count only if they are known. Three limits that Gopher lacks are off.
    `min_terminal_line_share` (FineWeb: 0.12, for English) would drop Thai, which has no full stop.
    `min_third_longest_line` is the limit of `Paragraphs`, which applies before languages are known.
    The third is `max_digit_share`.

    Attributes:
        min_words: lowest number of words of a page.
        max_words: highest number of words of a page.
        min_mean_word_length: lowest mean number of characters per word, if words are separated by
            spaces.
        max_mean_word_length: highest mean number of characters per word, if words are separated by
            spaces.
        max_symbol_ratio: highest number of number signs and ellipses per word.
        max_bullet_line_share: highest share of lines that start with a bullet.
        max_ellipsis_line_share: highest share of lines that end with an ellipsis.
        min_alphabetic_word_share: lowest share of words with a letter.
        min_stop_words: lowest number of distinct stop words.
        max_duplicate_line_share: highest share of lines that occurred earlier on the page.
        max_duplicate_line_character_share: highest share of characters in lines that occurred
            earlier on the page.
        max_top_ngram_shares: highest shares of characters in the most frequent n-gram, for 2, 3 and
            4 words.
        max_duplicate_ngram_shares: highest shares of characters in repeated n-grams, for 5 to 10
            words.
        min_terminal_line_share: lowest share of lines that end a sentence.
        max_digit_share: highest share of digits among a page's characters.
        min_third_longest_line: fewest characters of the third-longest line.
        stop_words: path or URL of a file of stop words by language, which replace ours.
        thresholds: path or URL of a file of limits by language, which replace these (from
            `mswitch corpus fit`).
        segmenter: `icu` finds the words of Burmese, Chinese, Japanese, Khmer, Lao, Thai and Tibetan
            by ICU's dictionaries (needs the extra `segmenter`); "" counts their letters. With it,
            `thresholds` alone limits their mean word length.
        drop: whether to drop pages; if not, only measure them, for `mswitch corpus fit`.
    """

    name: ClassVar[str] = "quality"
    columns: ClassVar[Mapping[str, str]] = list_columns("quality")
    files: ClassVar[tuple[str, ...]] = ("stop_words", "thresholds")
    preload: ClassVar[tuple[str, ...]] = ("mswitch.pipelines.corpus.rules.warm_up",)

    min_words: Annotated[int, Ge(0)] = 50
    max_words: Annotated[int, Ge(0)] = 100_000
    min_mean_word_length: Annotated[float, Ge(0)] = 2
    max_mean_word_length: Annotated[float, Ge(0)] = 14
    max_symbol_ratio: Annotated[float, Ge(0)] = 0.1
    max_bullet_line_share: Share = 0.9
    max_ellipsis_line_share: Share = 0.3
    min_alphabetic_word_share: Share = 0.8
    min_stop_words: Annotated[int, Ge(0)] = 2
    max_duplicate_line_share: Share = 0.3
    max_duplicate_line_character_share: Share = 0.2
    max_top_ngram_shares: tuple[float, ...] = (0.20, 0.18, 0.16)
    max_duplicate_ngram_shares: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    min_terminal_line_share: Share = 0
    max_digit_share: Share = 1
    min_third_longest_line: Annotated[int, Ge(0)] = 0
    stop_words: str = ""
    thresholds: str = ""
    segmenter: Literal["", "icu"] = ""
    drop: bool = True

    def __post_init__(self):
        check_fields(self, self.name)
        for name, lengths in (
            ("max_top_ngram_shares", TOP_NGRAMS),
            ("max_duplicate_ngram_shares", DUPLICATE_NGRAMS),
        ):
            if len(getattr(self, name)) != len(lengths):
                raise UserError(
                    f"{self.name}.{name} needs {len(lengths)} limits, for "
                    f"n-grams of {lengths[0]} to {lengths[-1]} words: give them all"
                )

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if self.segmenter:  # words depend on ICU's dictionaries
            settings["icu_version"] = load_icu().icu_version
        return settings

    def find_locales(self, langs: Sequence[str]) -> list[str]:
        """Return each language's locale for the word segmenter, or "" to use no segmenter."""
        return [find_locale(lang) if self.segmenter else "" for lang in langs]

    def each_limit(self) -> Iterator[tuple[str, str, float, float]]:
        """Yield the reason, column, and lowest and highest allowed value of each limit."""
        yield "too_few_words", "words", self.min_words, np.inf
        yield "too_many_words", "words", 0, self.max_words
        lengths = self.min_mean_word_length, self.max_mean_word_length
        yield "word_length", "mean_word_length", *lengths
        yield "no_stop_words", "stop_words", self.min_stop_words, np.inf
        yield "symbols", "symbol_ratio", 0, self.max_symbol_ratio
        yield "bullet_lines", "bullet_line_share", 0, self.max_bullet_line_share
        yield "ellipsis_lines", "ellipsis_line_share", 0, self.max_ellipsis_line_share
        yield "not_alphabetic", "alphabetic_word_share", self.min_alphabetic_word_share, 1
        yield "digits", "digit_share", 0, self.max_digit_share
        yield "unfinished_lines", "terminal_line_share", self.min_terminal_line_share, 1
        yield "short_lines", "third_longest_line", self.min_third_longest_line, np.inf
        yield "duplicate_lines", "duplicate_line_share", 0, self.max_duplicate_line_share
        most = self.max_duplicate_line_character_share
        yield "duplicate_lines", "duplicate_line_character_share", 0, most
        for n, most in zip(TOP_NGRAMS, self.max_top_ngram_shares, strict=True):
            yield "repeated_ngrams", f"top_{n}gram_share", 0, most
        for n, most in zip(DUPLICATE_NGRAMS, self.max_duplicate_ngram_shares, strict=True):
            yield "repeated_ngrams", f"duplicate_{n}gram_share", 0, most

    def find_settings(self, reason: str) -> Sequence[str]:
        """Return the settings that may drop pages for `reason`, and a file `thresholds` if set."""
        columns = sorted(
            {
                _NGRAM_SHARE.sub("ngram_shares", name)
                for of, name, *_ in self.each_limit()
                if of == reason
            }
        )
        one_side = {"too_few_words": ("min",), "too_many_words": ("max",)}
        bounds = one_side.get(reason, ("min", "max"))
        names = [f"{bound}_{column}" for column in columns for bound in bounds]
        return [name for name in (*names, "thresholds") if getattr(self, name, None)]

    def reasons(self, pages: Sequence[Page]) -> list[str | None]:
        """Measure pages; return the reason to drop each, or None to keep it."""
        langs = [page.lang for page in pages]
        locales = self.find_locales(langs)
        # Words that ICU finds depend on ICU's version, so `NearDedup` compares letters.
        words = cut([page.text for page in pages], locales) if any(locales) else cut_pages(pages)
        columns = measure_quality(words, langs, self.loaded[0], locales)
        values = zip(*(columns[name].tolist() for name in CORPUS_COLUMNS.values()), strict=True)
        for page, page_values in zip(pages, values, strict=True):
            page.columns.update(zip(CORPUS_COLUMNS, page_values, strict=True))
        if not self.drop:
            return [None] * len(pages)
        return self._judge_pages(columns, pages)

    def known_reasons(
        self, pages: Sequence[Page], changed: Collection[str]
    ) -> Sequence[str | None] | None:
        """Judge pages by stored columns, or return None if `stop_words` or `segmenter` changed."""
        own = {field.name for field in dataclasses.fields(GopherQuality)}
        own -= {"stop_words", "segmenter"}
        measured = all(CORPUS_COLUMNS.keys() <= page.columns.keys() for page in pages)
        if not {*changed} <= own or not measured:
            return None
        if not self.drop:
            return [None] * len(pages)
        columns = {
            name: np.array([page.columns[column] for page in pages], COLUMNS[name])
            for column, name in CORPUS_COLUMNS.items()
        }
        return self._judge_pages(columns, pages)

    def _judge_pages(
        self, columns: Mapping[str, np.ndarray], pages: Sequence[Page]
    ) -> list[str | None]:
        scores = np.array([page.lang_score for page in pages], np.float32)
        return self.judge({**columns, LANG_SCORE: scores}, [page.lang for page in pages])

    def load(self) -> tuple[Mapping[str, str], ByLanguage]:
        """Return each language's stop words (separated by spaces), and its limits by column."""
        own = read_stop_words(self.stop_words) if self.stop_words else {}
        for lang, words in own.items():
            if words and len(hash_stop_words(words)) < self.min_stop_words:
                shown = storage.hide_secrets(self.stop_words)
                raise UserError(
                    f"{shown}: {lang} has fewer words than a page needs "
                    f"(quality.min_stop_words is {self.min_stop_words}): give more words, or none"
                )
        limits = read_thresholds(self.thresholds) if self.thresholds else {}
        for lang in LANGUAGES if self.segmenter else ():
            # English's limits do not fit, because words in Chinese have 1.5 letters.
            limits.setdefault(lang, {}).setdefault("mean_word_length", (0, np.inf))
        return {**STOP_WORDS, **own}, limits

    def judge(
        self, columns: Mapping[str, np.ndarray], langs: Sequence[str] = ()
    ) -> list[str | None]:
        """Return a reason to drop each page, judged by the page's `COLUMNS`; None keeps the page.

        Args:
            columns: `COLUMNS` of pages, and their `LANG_SCORE` to apply limits on it.
            langs: languages of the pages, for limits by language.
        """
        reasons: list[str | None] = [None] * len(columns["words"])
        by_language = self.loaded[1]
        own = [by_language.get(lang, {}) for lang in langs] if by_language else []
        limits = [*self.each_limit()]
        if own and LANG_SCORE in columns:
            limits.append(("low_language_score", LANG_SCORE, 0, np.inf))
        for reason, name, low, high in reversed(limits):
            values = columns[name]
            lows, highs = np.float32(low), np.float32(high)
            if own:
                lows, highs = np.array(
                    [lang_limits.get(name, (low, high)) for lang_limits in own], np.float32
                ).T
            # For the column `words`, each bound has its own reason.
            outside = (reason != "too_many_words") & (values < lows)
            outside |= (reason != "too_few_words") & (values > highs)
            if name in _UNKNOWN:
                outside &= values != _UNKNOWN[name]
            for page in np.flatnonzero(outside):
                reasons[page] = reason
        return reasons

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the measured values, with None for a measure that the page's language lacks."""
        return {
            name: None if value == _UNKNOWN.get(CORPUS_COLUMNS[name]) else value
            for name, value in super().describe(page).items()
        } | ({LANG_SCORE: page.lang_score} if self.thresholds else {})

    def limits(self, page: Page | None = None) -> Limits:
        """Return the limits on quality columns.

        Limits on stop words and word length ignore pages without these values.
        """
        allowed: dict[str, tuple[float | None, float | None]] = {}
        own = self.loaded[1].get(page.lang, {}) if page else {}
        for _, column, *limits in self.each_limit():
            low, high = own.get(column, limits)
            least, most = allowed.get(f"q_{column}", (None, None))
            allowed[f"q_{column}"] = low or least, most if high == np.inf else high
        if LANG_SCORE in own:
            allowed[LANG_SCORE] = own[LANG_SCORE][0], None
        return allowed


def read_thresholds(path: str) -> ByLanguage:
    """Read limits by language and column; an empty cell means no limit.

    The file (path or URL) is a CSV with lang, column, least and most.
    """
    limits: ByLanguage = {}

    def take(lang: str, row: Mapping[str, str]) -> None:
        least = float(row["least"]) if row["least"] else 0.0
        most = float(row["most"]) if row["most"] else np.inf
        if row["column"] not in (*COLUMNS, LANG_SCORE) or not least <= most:
            raise ValueError(f"{row['column']} from {least} to {most}")
        limits.setdefault(lang, {})[row["column"]] = least, most

    give = f"lang, column, least and most, with columns among {', '.join([*COLUMNS, LANG_SCORE])}"
    read_table(path, "the thresholds", take, give, columns=("column", "least", "most"))
    return limits
