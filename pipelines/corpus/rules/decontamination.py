"""Finds pages that contain an item of an evaluation set, by n-grams of 13 words.

Items are cut like pages (see `words`), so punctuation, case and line breaks do not matter. In
scripts without spaces, an n-gram has as many letters as 13 words are worth. A page contains an item
if it has at least a given share of the item's distinct n-grams. An item of 8 to 12 words is one
n-gram of its own length. Shorter items would match by chance: they are reported as unchecked.

Memory: 14 bytes per distinct n-gram of the items (8 for the hash, 4 for the item, 2 for a filter
with one bit in 16 set), and about 100 bytes per item. The filter passes 6 % of other n-grams to a
binary search.
"""

import collections
import dataclasses
import gzip
import io
import itertools
import json
import operator
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt, Le

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.rules.base import THE_LANGUAGE, ListRule, file_digest
from mswitch.pipelines.corpus.rules.list_files import open_list
from mswitch.pipelines.corpus.rules.words import Words, chunks, cut
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import Page

NGRAM_WORDS = 13
MIN_ITEM_WORDS = 8
_FILTER_BITS_PER_NGRAM = 16


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationItem:
    """An item of an evaluation set: the set's name, the line in its file, and the whole text."""

    set: str
    line: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Contamination:
    """An evaluation item in a page: the number of its distinct n-grams, and how many match."""

    page: int
    set: str
    line: int
    matched: int
    ngrams: int


def read_evaluation_sets(paths: Sequence[str | Path]) -> Iterator[EvaluationItem]:
    """Yield the items of evaluation sets; a set has the name of its file.

    Args:
        paths: `.jsonl` files, in which an item is all strings in an object, at any depth; or `.txt`
            files, in which an item is a line. Both may be compressed (`.gz`), and may be URLs.
    """
    named: dict[str, str] = {}
    for path in paths:
        name, _ = _name_and_kind(path)
        if name in named:
            raise UserError(
                f"evaluation sets {named[name]} and {storage.hide_secrets(path)} have the same "
                f"name {name}, which the report needs to distinguish them: rename one"
            )
        named[name] = storage.hide_secrets(path)
    for path in paths:
        name, kind = _name_and_kind(path)
        items, shown = 0, storage.hide_secrets(path)
        with open_list(path, "the evaluation set") as file:
            plain = gzip.GzipFile(fileobj=file) if shown.endswith(".gz") else file
            try:
                for number, line in enumerate(io.TextIOWrapper(plain, encoding="utf-8"), 1):
                    text = line.strip()
                    if text and kind == "jsonl":
                        text = "\n".join(_list_strings(json.loads(text)))
                    if text:
                        items += 1
                        yield EvaluationItem(name, number, text)
            except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
                raise UserError(f"cannot read the evaluation set {shown}: {error}") from error
        if not items:
            raise UserError(f"the evaluation set {shown} has no item: give one per line")


def _name_and_kind(path: str | Path) -> tuple[str, str]:
    name = storage.get_name(path).removesuffix(".gz")
    for kind in ("jsonl", "txt"):
        if name.endswith(f".{kind}"):
            return name.removesuffix(f".{kind}"), kind
    raise UserError(
        f"{storage.hide_secrets(path)} is not an evaluation set: give .jsonl or .txt files, plain "
        "or gzip"
    )


def _list_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _list_strings(part)


@dataclasses.dataclass(frozen=True)
class _Table:
    """Sorted hashes of n-grams of one length, the evaluation item of each, and a quick filter."""

    hashes: np.ndarray
    items: np.ndarray
    filter: np.ndarray

    @classmethod
    def build(cls, hashes: np.ndarray, items: np.ndarray) -> "_Table":
        order = np.lexsort([items, hashes])
        hashes, items = hashes[order], items[order].astype(np.uint32)
        bits = max(10, (len(hashes) * _FILTER_BITS_PER_NGRAM - 1).bit_length())
        passes = np.zeros(1 << (bits - 3), np.uint8)
        place = hashes & np.uint64((1 << bits) - 1)
        bit = np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(passes, place >> np.uint64(3), bit)
        return cls(hashes, items, passes)

    def candidates(self, hashes: np.ndarray) -> np.ndarray:
        """Return, for each hash, 1 if the hash passes the filter, else 0."""
        place = hashes & np.uint64(8 * len(self.filter) - 1)
        return (self.filter[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)) & 1


class EvaluationIndex:
    """The n-grams of evaluation sets, to check pages against.

    Args:
        items: the sets' items.
        min_share: see `Decontaminate.contamination_share`.

    Attributes:
        items: (set, line) of each item that is long enough.
        too_short: (set, line) of each other item.
        ngrams: number of distinct n-grams of each item.
    """

    def __init__(self, items: Iterable[EvaluationItem], min_share: float = 0.5):
        self.min_share = min_share
        self.items: list[tuple[str, int]] = []
        self.too_short: list[tuple[str, int]] = []
        ngrams: list[int] = []
        by_length: dict[int, list[tuple[np.ndarray, int]]] = {}
        for item in items:
            length, hashes = _hash_item(item.text)
            if length:
                by_length.setdefault(length, []).append((hashes, len(self.items)))
                self.items.append((item.set, item.line))
                ngrams.append(len(hashes))
            else:
                self.too_short.append((item.set, item.line))
        self.ngrams = np.array(ngrams, np.int64)
        self._tables = {
            length: _Table.build(
                np.concatenate([hashes for hashes, _ in rows]),
                np.repeat([item for _, item in rows], [len(hashes) for hashes, _ in rows]),
            )
            for length, rows in sorted(by_length.items())
        }

    def __len__(self) -> int:
        """Return the number of items long enough to be checked."""
        return len(self.items)

    def check(self, texts: Sequence[str]) -> list[Contamination]:
        """Return the evaluation items that the texts contain, sorted by page and item."""
        matches = []
        for start, stop in chunks(texts):
            words = cut(texts[start:stop])
            for length, table in self._tables.items():
                matches += self._matches(words, length, table, start)
        return sorted(matches, key=lambda match: (match.page, match.set, match.line))

    def _matches(
        self, words: Words, length: int, table: _Table, offset: int
    ) -> Iterator[Contamination]:
        starts, _, hashes = words.windows(np.full(len(words.first) - 1, length))
        passed = np.flatnonzero(table.candidates(hashes))
        first = np.searchsorted(table.hashes, hashes[passed])
        last = np.searchsorted(table.hashes, hashes[passed], side="right")
        known = last > first
        pages = words.page_of_unit[starts[passed[known]]]
        pairs = np.unique(np.column_stack([pages, first[known], last[known]]), axis=0)
        for page, rows in itertools.groupby(pairs.tolist(), operator.itemgetter(0)):
            hits = np.concatenate([table.items[low:high] for _, low, high in rows])
            items, matched = np.unique(hits, return_counts=True)
            enough = matched >= self.min_share * self.ngrams[items]
            for item, count in zip(items[enough].tolist(), matched[enough].tolist(), strict=True):
                name, line = self.items[item]
                yield Contamination(offset + page, name, line, count, int(self.ngrams[item]))


@dataclasses.dataclass(frozen=True)
class Decontaminate(ListRule):
    """Drops pages that contain an item of an evaluation set.

    Attributes:
        evaluation_sets: .jsonl and .txt files, by path or URL; see `read_evaluation_sets`.
        contamination_share: lowest share of an item's n-grams in a page that contains the item.
    """

    name: ClassVar[str] = "decontamination"
    evaluation_sets: tuple[str, ...] = ()
    contamination_share: Annotated[float, Gt(0), Le(1)] = 0.5

    def __post_init__(self):
        check_fields(self, self.name)

    def settings(self) -> dict[str, Any]:
        """Return `contamination_share`, and hashes of the evaluation sets' content."""
        return {
            "contamination_share": self.contamination_share,
            "evaluation_sets": sorted(
                file_digest(path, "the evaluation set") for path in self.evaluation_sets
            ),
        }

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Return the settings that may now drop fewer pages: a higher share, or fewer sets."""
        now, looser = self.settings(), {*was} - {THE_LANGUAGE}
        if now["contamination_share"] <= was.get("contamination_share", 1):
            looser.discard("contamination_share")
        if {*was.get("evaluation_sets", ())} <= {*now["evaluation_sets"]}:
            looser.discard("evaluation_sets")
        return sorted(looser)

    def load(self) -> EvaluationIndex:
        return EvaluationIndex(read_evaluation_sets(self.evaluation_sets), self.contamination_share)

    def reasons(self, pages: Sequence[Page]) -> list[str | None]:
        """Return `evaluation_item` for each page that contains evaluation items, else None.

        Also store these items in the page's column `_items`.
        """
        reasons: list[str | None] = [None] * len(pages)
        for match in self.loaded.check([page.text for page in pages]):
            page, reasons[match.page] = pages[match.page], "evaluation_item"
            item = {k: v for k, v in dataclasses.asdict(match).items() if k != "page"}
            page_id = make_document_id(page.url).hex()
            page.columns.setdefault("_items", []).append({**item, "id": page_id, "url": page.url})
        return reasons

    def notes(self, page: Page) -> list[dict[str, Any]]:
        return page.columns.get("_items", [])

    def describe(self, page: Page) -> dict[str, Any]:
        return {"items": self.notes(page)}


def report_contamination(
    index: EvaluationIndex, matches: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return decontamination.json: each evaluation set's items, and the pages with these items.

    Every `match` has the set, the item's line, its matched n-grams and all its n-grams, and the
    dropped page. Pages are sorted by id, so the report does not depend on the input's order.
    """
    items, too_short = (
        collections.Counter(name for name, _ in items) for items in (index.items, index.too_short)
    )
    sets = {
        name: {"items": items[name] + too_short[name], "too_short": too_short[name]}
        for name in sorted(items | too_short)
    }
    report = {"ngram_words": NGRAM_WORDS, "min_share": index.min_share, "sets": sets, "matches": []}
    return merge_reports(report, {"matches": matches})


def merge_reports(report: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Join the reports of a corpus and an added crawl; their evaluation sets are the same."""
    matches = sorted(
        [*report["matches"], *other["matches"]],
        key=lambda match: (match["set"], match["line"], match["id"]),
    )
    found = collections.Counter(name for name, _ in {(m["set"], m["line"]) for m in matches})
    sets = {name: {**counts, "found": found[name]} for name, counts in report["sets"].items()}
    return {**report, "sets": sets, "matches": matches}


def _hash_item(text: str) -> tuple[int, np.ndarray]:
    """Return n-gram length in words or letters (0: item too short), and distinct n-gram hashes."""
    words = cut([text])
    units = len(words.starts)
    if units < words.units(MIN_ITEM_WORDS)[0]:
        return 0, words.hashes[:0]
    length = min(units, int(words.units(NGRAM_WORDS)[0]))
    _, _, hashes = words.windows(np.array([length]))
    return length, np.unique(hashes)
