"""Pages that contain an item of an evaluation set, found by n-grams of 13 words.

Items are cut like pages (see `words`), so punctuation, case and line breaks do not matter, and
where there are no spaces the n-grams are as many letters as 13 words are worth. A page contains an
item if it has at least a given share of the item's distinct n-grams. An item shorter than 13 words
is one n-gram of its own length, down to 8 words; shorter ones would match by chance and are
reported as unchecked.

Memory: 14 bytes for each distinct n-gram of the items (8 its hash, 4 its item, 2 a filter of one
bit in 16), and about 100 bytes an item. The filter lets 6 % of foreign n-grams through to a binary
search.
"""

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.corpus.list_files import open_list
from pipelines.corpus.modern.words import Words, chunks, cut
from pipelines.errors import UserError

NGRAM_WORDS = 13
MIN_ITEM_WORDS = 8
_FILTER_BITS_PER_NGRAM = 16


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One item: the name of its set, its line in the file, and all its text."""

    set: str
    line: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Contamination:
    """One item on one page: how many of the item's distinct n-grams are there, of how many."""

    page: int
    set: str
    line: int
    matched: int
    ngrams: int


def read_evaluation_sets(paths: Sequence[str | Path]) -> Iterator[EvaluationItem]:
    """Yield the items of evaluation sets; a set is named after its file.

    Args:
        paths: `.jsonl` files, where an item is all strings in one object, however deep; or `.txt`
            files, where an item is a line. Either may be compressed (`.gz`), or be a URL.

    Raises:
        UserError: a file cannot be read or is not what its name says.
    """
    for path in paths:
        name, kind = _name_and_kind(Path(path))
        with open_list(path, "the evaluation set") as file:
            plain = gzip.GzipFile(fileobj=file) if Path(path).suffix == ".gz" else file
            try:
                for number, line in enumerate(io.TextIOWrapper(plain, encoding="utf-8"), 1):
                    text = line.strip()
                    if text and kind == "jsonl":
                        text = "\n".join(_strings(json.loads(text)))
                    if text:
                        yield EvaluationItem(name, number, text)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                raise UserError(f"cannot read the evaluation set {path}: {error}") from error


def _name_and_kind(path: Path) -> tuple[str, str]:
    name = path.name.removesuffix(".gz")
    for kind in ("jsonl", "txt"):
        if name.endswith(f".{kind}"):
            return name.removesuffix(f".{kind}"), kind
    raise UserError(f"{path} is no evaluation set: give .jsonl or .txt files, plain or gzip")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


@dataclasses.dataclass(frozen=True)
class _Table:
    """The n-grams of one length: hashes (increasing) with the item of each, and the filter."""

    hashes: np.ndarray
    items: np.ndarray
    filter: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray, items: np.ndarray) -> "_Table":
        order = np.lexsort([items, hashes])
        hashes, items = hashes[order], items[order].astype(np.uint32)
        bits = max(10, (len(hashes) * _FILTER_BITS_PER_NGRAM - 1).bit_length())
        passes = np.zeros(1 << (bits - 3), np.uint8)
        place = hashes & np.uint64((1 << bits) - 1)
        bit = np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(passes, place >> np.uint64(3), bit)
        return cls(hashes, items, passes)

    def candidates(self, hashes: np.ndarray) -> np.ndarray:
        """Return which hashes the filter lets through."""
        place = hashes & np.uint64(8 * len(self.filter) - 1)
        return (self.filter[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)) & 1


class EvaluationIndex:
    """The n-grams of evaluation sets, to check pages against.

    Args:
        items: the sets' items.
        min_share: the share of an item's n-grams from which a page contains it.

    Attributes:
        items: (set, line) of each item that can be found.
        too_short: (set, line) of each that cannot.
        ngrams: how many distinct n-grams each item has.
    """

    def __init__(self, items: Iterable[EvaluationItem], min_share: float = 0.5):
        if not 0 < min_share <= 1:
            raise UserError(f"min_share is {min_share}: it must be above 0 and at most 1")
        self.min_share = min_share
        self.items: list[tuple[str, int]] = []
        self.too_short: list[tuple[str, int]] = []
        self.ngrams: list[int] = []
        found: dict[int, list[tuple[np.ndarray, int]]] = {}
        for item in items:
            length, hashes = _item_ngrams(item.text)
            if length:
                found.setdefault(length, []).append((hashes, len(self.items)))
                self.items.append((item.set, item.line))
                self.ngrams.append(len(hashes))
            else:
                self.too_short.append((item.set, item.line))
        self._tables = {
            length: _Table.of(
                np.concatenate([hashes for hashes, _ in rows]),
                np.repeat([item for _, item in rows], [len(hashes) for hashes, _ in rows]),
            )
            for length, rows in sorted(found.items())
        }

    def __len__(self) -> int:
        """The number of items that can be found."""
        return len(self.items)

    def check(self, texts: Sequence[str]) -> list[Contamination]:
        """Return what pages contain, by page and item."""
        found = []
        for start, stop in chunks(texts):
            words = cut(texts[start:stop])
            for length, table in self._tables.items():
                found += self._matches(words, length, table, start)
        return sorted(found, key=lambda one: (one.page, one.set, one.line))

    def _matches(
        self, words: Words, length: int, table: _Table, offset: int
    ) -> Iterator[Contamination]:
        starts, _, hashes = words.windows(np.full(len(words.first) - 1, length))
        passed = np.flatnonzero(table.candidates(hashes))
        first = np.searchsorted(table.hashes, hashes[passed])
        last = np.searchsorted(table.hashes, hashes[passed], side="right")
        known = last > first
        pages = words.page_of_unit[starts[passed[known]]]
        # An n-gram that the page has twice counts once.
        pairs = np.unique(np.column_stack([pages, first[known], last[known]]), axis=0)
        hits = [
            (page, item) for page, low, high in pairs.tolist() for item in table.items[low:high]
        ]
        rows, counts = np.unique(
            np.array(hits, np.int64).reshape(-1, 2), axis=0, return_counts=True
        )
        for (page, item), matched in zip(rows.tolist(), counts.tolist(), strict=True):
            if matched >= self.min_share * self.ngrams[item]:
                name, line = self.items[item]
                yield Contamination(offset + page, name, line, matched, self.ngrams[item])


def _item_ngrams(text: str) -> tuple[int, np.ndarray]:
    """Return the length in units and the distinct hashes of an item's n-grams; 0 if too short."""
    words = cut([text])
    units = len(words.starts)
    if units < words.units(MIN_ITEM_WORDS)[0]:
        return 0, words.hashes[:0]
    length = min(units, int(words.units(NGRAM_WORDS)[0]))
    _, _, hashes = words.windows(np.array([length]))
    return length, np.unique(hashes)
