"""Near-duplicates by MinHash.

A page is the set of its 5-grams of words (letters worth 5 words in scripts without spaces, see
`words`). Its signature has, for each of bands x rows hash functions, the smallest value over the
set. Two pages with Jaccard similarity s agree in all rows of a band with probability s**rows. They
match if they agree in any band, with probability 1 - (1 - s**rows)**bands. With FineWeb's 14 bands
of 8 rows this is 1 % at s = 0.41, a half at 0.69, 92 % at 0.80, and rises fastest near
(1/14)**(1/8) = 0.72. The hash functions are multiply-add on 32 bits of mixed shingle hashes; tests
measure the curve. One core: 55 MB of text per second.

The key of a band has 128 bits and is salted with the language, so pages match only within a
language. Matches are transitive: a cluster is a connected component, represented by one page. So a
chain can join pages that are not similar; cluster sizes show such cases.
"""

import collections
import dataclasses
import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le

from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.dedup.base import Dedup, make_binary_field, rank_newest_first
from mswitch.pipelines.corpus.fingerprints import md5, order_keys, unpack
from mswitch.pipelines.corpus.rules.words import Words, cut_pages, mix
from mswitch.pipelines.records import Page, list_columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDedup(Dedup):
    """Keeps one page per cluster of near-duplicates; compares text before edits change it.

    Attributes:
        bands: number of bands of a signature; more bands find less similar pages.
        rows: number of rows of a band; more rows require more similar pages.
        shingle_words: words of an n-gram; pages are compared as sets of n-grams.
        seed: seed of the hash functions.
    """

    name: ClassVar[str] = "near_dedup"
    kind: ClassVar[str] = "bands"
    width: ClassVar[int] = 3
    columns: ClassVar[Mapping[str, str]] = list_columns("near_dedup")
    stored: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("characters", pa.int32(), nullable=False),
        make_binary_field("band_keys"),
    )
    before_edits: ClassVar[bool] = True

    bands: Annotated[int, Ge(1), Le(255)] = 14
    rows: Annotated[int, Ge(1), Le(64)] = 8
    shingle_words: Annotated[int, Ge(1), Le(100)] = 5
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 1

    def __post_init__(self):
        check_fields(self, self.name)

    @property
    def needs_language(self) -> bool:
        """True, because pages match only within a language."""
        return True

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return the packed keys of each page's bands."""
        if any(page.words is None for page in pages):
            cut_pages(pages)
        rows: list[dict[str, Any]] = []
        cut = [(*page.words, page.lang) for page in pages if page.words]
        for _, group in itertools.groupby(cut, lambda triple: id(triple[0])):
            words, numbers, langs = zip(*group, strict=True)
            keys = self.make_band_keys(words[0], langs, numbers).astype(">u8")
            rows += [{"band_keys": page_keys.tobytes()} for page_keys in keys]
        return rows

    def candidates(self, pages: int, lines: int) -> int:
        return pages * self.bands

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        for page, size in zip(pages, chosen, strict=True):
            page.columns["cluster_size"] = size
        return [None if size else "near_duplicate" for size in chosen]

    def kept_keys(self, page: Page) -> np.ndarray:
        return unpack(page.columns["band_keys"])

    def compute_signatures(self, words: Words, chosen: Sequence[int] | None = None) -> np.ndarray:
        """Return the signatures of `chosen` pages, by default all: uint32 [pages, bands x rows]."""
        shingles, firsts = _make_shingles(words, self.shingle_words, chosen)
        signatures = np.empty((self.bands * self.rows, len(firsts)), np.uint32)
        values = np.empty_like(shingles)
        for row, (factor, summand) in zip(signatures, self.draw_functions(), strict=True):
            np.multiply(shingles, factor, out=values)
            values += summand
            np.minimum.reduceat(values, firsts, out=row)
        return signatures.T

    def draw_functions(self) -> np.ndarray:
        """Return odd factors and summands, fixed by the seed: uint32 [bands x rows, 2]."""
        count = 2 * self.bands * self.rows
        drawn = mix(np.arange(count, dtype=np.uint64) + mix(np.full(count, self.seed, np.uint64)))
        functions = (drawn >> np.uint64(32)).astype(np.uint32).reshape(-1, 2)
        functions[:, 0] |= np.uint32(1)
        return functions

    def make_band_keys(
        self, words: Words, langs: Sequence[str], chosen: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return the keys of pages; near-duplicates share a key.

        Args:
            words: the words of pages.
            langs: languages of the chosen pages.
            chosen: numbers of the chosen pages, in order; default: all.

        Returns:
            uint64 [chosen pages, bands, 2], halves of 128 bits.
        """
        return self.make_keys(self.compute_signatures(words, chosen), langs)

    def make_keys(self, signatures: np.ndarray, langs: Sequence[str]) -> np.ndarray:
        """Return the keys of signatures, as in `make_band_keys`."""
        rows = 4 * self.rows
        keys = []
        for lang, signature in zip(langs, signatures, strict=True):
            packed = signature.astype("<u4").tobytes()
            salt = md5(lang.encode(), usedforsecurity=False)
            for band in range(self.bands):
                key = salt.copy()
                key.update(struct.pack("B", band) + packed[band * rows : (band + 1) * rows])
                keys.append(key.digest())
        return unpack(b"".join(keys)).reshape(-1, self.bands, 2)


def _make_shingles(
    words: Words, length: int, pages: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return pages' shingles (uint32) and where each page's shingles start; every page has some.

    A page too short for an n-gram is one shingle: all its words, or all its characters if it has
    no word.
    """
    counts = np.diff(words.first)
    numbers = np.arange(len(counts))
    chosen = np.isin(numbers, numbers if pages is None else pages)
    starts, _, hashes = words.ngrams(length, np.flatnonzero(chosen[words.page_of_unit]))
    short = np.flatnonzero(chosen & (counts > 0) & (counts < words.units(length)))
    wordless = np.flatnonzero(chosen & (counts == 0))
    owners = np.concatenate([words.page_of_unit[starts], short, wordless])
    whole = words.spans.hash(words.first[short], words.first[short + 1])
    raw = words.characters.hash(words.page_starts[wordless], words.page_starts[wordless + 1])
    hashes = np.concatenate([hashes, whole, raw])
    if len(short) or len(wordless):
        order = np.argsort(owners, kind="stable")
        owners, hashes = owners[order], hashes[order]
    return (hashes >> np.uint64(32)).astype(np.uint32), np.flatnonzero(np.diff(owners, prepend=-1))


def find_matches(candidates: np.ndarray) -> np.ndarray:
    """Return pairs of pages that share a MinHash band key, within a bucket of the key space.

    Args:
        candidates: uint64 [n, 3]: a band key in two halves, then the number of the page.

    Returns:
        uint64 [m, 2], distinct and sorted: a page, and the smallest page that shares a key with
        it. So k pages with the same key have k - 1 matches, never k squared.
    """
    candidates = candidates[order_keys(candidates)]
    new_key = np.ones(len(candidates), bool)
    new_key[1:] = (candidates[1:, :2] != candidates[:-1, :2]).any(axis=1)
    pages = candidates[:, 2]
    smallest = pages[new_key][np.cumsum(new_key) - 1]
    apart = pages != smallest
    return np.unique(np.column_stack([pages[apart], smallest[apart]]), axis=0)


def find_components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected components of a graph.

    Each round links labels to smaller labels and follows the links to their end. So the number of
    rounds grows with the logarithm of the longest chain. Memory: about 60 bytes per edge.

    Args:
        edges: uint64 [m, 2], in any order.

    Returns:
        The distinct pages in increasing order, and the component of each. Components are numbered
        from 0, by their smallest page.
    """
    pages, flat = np.unique(edges, return_inverse=True)
    left, right = flat.reshape(-1, 2).T
    root = np.arange(len(pages))
    while True:
        a, b = root[left], root[right]
        apart = a != b
        if not apart.any():
            break
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]
    return pages, np.unique(root, return_inverse=True)[1]


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusters of all pages that match another page.

    Attributes:
        pages: uint64 [n], increasing.
        sizes: int64 [n] number of pages in the cluster of each page.
        represents: bool [n] whether the page stays and represents its cluster.
    """

    pages: np.ndarray
    sizes: np.ndarray
    represents: np.ndarray


def cluster(edges: np.ndarray, pages: np.ndarray, ranks: np.ndarray) -> Clusters:
    """Join matches into clusters and choose a representative of each.

    The result does not depend on the order of the edges or on their buckets. It depends on the
    numbers of pages only if ranks are equal.

    Args:
        edges: uint64 [m, 2] matches.
        pages: uint64 [n] increasing numbers, including all pages in `edges`.
        ranks: uint64 [n, r] ranks of the pages, smaller first (`rank_pages`).
    """
    matched, label = find_components(edges)
    rows = ranks[np.searchsorted(pages, matched)]
    order = np.lexsort([*rows.T[::-1], label])
    represents = np.zeros(len(matched), bool)
    represents[order[np.diff(label[order], prepend=-1) > 0]] = True
    return Clusters(matched, np.bincount(label)[label] if len(matched) else label, represents)


def rank_pages(
    characters: np.ndarray, timestamps_micros: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Rank pages: longest (most complete) first, then newest, then the smallest fingerprint.

    Args:
        characters: int64 [n] length of the text.
        timestamps_micros: int64 [n].
        ids: uint64 [n, 2] fingerprints of normalised URLs; pages that stay so far have distinct
            ones.
    """
    return np.column_stack(
        [~characters.astype(np.uint64), rank_newest_first(timestamps_micros), ids]
    )
