"""Near-duplicates by MinHash: band keys of pages, matches in a bucket of keys, clusters.

A page is the set of its 5-grams of words (letters worth 5 words in scripts without spaces, see
`words`). Its signature holds, for each of bands x rows hash functions, the smallest value over
that set. Two pages of Jaccard similarity s agree in all rows of a band with probability s**rows,
and are a match if they agree in any band: 1 - (1 - s**rows)**bands. With FineWeb's 14 bands of 8
rows that is 1 % at 0.41, a half at 0.69, 92 % at 0.80, and it rises steepest near
(1/14)**(1/8) = 0.72. The functions are multiply-add on 32 bits of mixed shingle hashes; a test
measures the curve. Signatures and keys take one core 55 MB of text a second.

The key of a band is 128 bits and salted with the language, so pages match within one language
only. Matches are transitive: a cluster is a connected component, and one page represents it.
Chains can therefore join pages that are not alike themselves; cluster sizes show where.
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
from mswitch.pipelines.corpus.dedup.base import Dedup, binary, newest_first
from mswitch.pipelines.corpus.fingerprints import md5, unpack
from mswitch.pipelines.corpus.rules.words import Words, mix, words_of
from mswitch.pipelines.records import Page


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDedup(Dedup):
    """Keeps one page of each cluster of near-duplicates, as they were before edits.

    Attributes:
        bands: bands of a signature; more of them find less similar pages.
        rows: rows of a band; more of them demand more similar pages.
        shingle_words: words of an n-gram; pages are compared as sets of their n-grams.
        seed: seed of the hash functions.
    """

    name: ClassVar[str] = "near_dedup"
    kind: ClassVar[str] = "bands"
    width: ClassVar[int] = 3
    columns: ClassVar[Mapping[str, str]] = {"cluster_size": "int32"}
    stored: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("characters", pa.int32(), nullable=False),
        binary("band_keys"),
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
        """Only pages of one language can match."""
        return True

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return the keys of each page's bands, one after the other."""
        if any(page.words is None for page in pages):
            words_of(pages)
        rows: list[dict[str, Any]] = []
        cut = [(*page.words, page.lang) for page in pages if page.words]
        for _, group in itertools.groupby(cut, lambda one: id(one[0])):
            words, numbers, langs = zip(*group, strict=True)
            keys = self.band_keys(words[0], langs, numbers).astype(">u8")
            rows += [{"band_keys": of_page.tobytes()} for of_page in keys]
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

    def signatures(self, words: Words, chosen: Sequence[int] | None = None) -> np.ndarray:
        """Return uint32 [pages, bands x rows], of the pages `chosen` or of all."""
        shingles, firsts = _shingles(words, self.shingle_words, chosen)
        signatures = np.empty((self.bands * self.rows, len(firsts)), np.uint32)
        values = np.empty_like(shingles)
        for row, (factor, summand) in zip(signatures, self.functions(), strict=True):
            np.multiply(shingles, factor, out=values)
            values += summand
            np.minimum.reduceat(values, firsts, out=row)
        return signatures.T

    def functions(self) -> np.ndarray:
        """Return uint32 [bands x rows, 2]: odd factors and summands, fixed by the seed."""
        count = 2 * self.bands * self.rows
        drawn = mix(np.arange(count, dtype=np.uint64) + mix(np.full(count, self.seed, np.uint64)))
        functions = (drawn >> np.uint64(32)).astype(np.uint32).reshape(-1, 2)
        functions[:, 0] |= np.uint32(1)
        return functions

    def band_keys(
        self, words: Words, langs: Sequence[str], chosen: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return the keys under which pages look for near-duplicates.

        Args:
            words: the pages.
            langs: the language of each that is chosen; only pages of one language can match.
            chosen: the numbers of those whose keys are wanted, in order; by default of all.

        Returns:
            uint64 [chosen pages, bands, 2], halves of 128 bits.
        """
        return self.keys_of(self.signatures(words, chosen), langs)

    def keys_of(self, signatures: np.ndarray, langs: Sequence[str]) -> np.ndarray:
        """Return the keys of signatures, as `band_keys` does."""
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


def _shingles(
    words: Words, length: int, pages: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shingles of pages (uint32) and where each page's begin; none has none.

    A page too short for an n-gram is one shingle: all its words, or all its characters where it
    has no word.
    """
    counts = np.diff(words.first)
    numbers = np.arange(len(counts))
    chosen = np.isin(numbers, numbers if pages is None else pages)
    starts, _, hashes = words.ngrams(length, np.flatnonzero(chosen[words.page_of_unit]))
    short = np.flatnonzero(chosen & (counts > 0) & (counts < words.units(length)))
    wordless = np.flatnonzero(chosen & (counts == 0))
    owners = np.concatenate([words.page_of_unit[starts], short, wordless])
    whole = words.spans.of(words.first[short], words.first[short + 1])
    raw = words.characters.of(words.page_starts[wordless], words.page_starts[wordless + 1])
    hashes = np.concatenate([hashes, whole, raw])
    if len(short) or len(wordless):
        order = np.argsort(owners, kind="stable")
        owners, hashes = owners[order], hashes[order]
    return (hashes >> np.uint64(32)).astype(np.uint32), np.flatnonzero(np.diff(owners, prepend=-1))


def matches(candidates: np.ndarray) -> np.ndarray:
    """Return the matches in one bucket of the key space.

    Args:
        candidates: uint64 [n, 3]: a band key in two halves, then the number of the page.

    Returns:
        uint64 [m, 2], distinct and sorted: a page, and the smallest page that shares a key with
        it. Of k pages with one key come k - 1 matches, never k squared.
    """
    candidates = candidates[np.lexsort(candidates.T[::-1])]
    new_key = np.ones(len(candidates), bool)
    new_key[1:] = (candidates[1:, :2] != candidates[:-1, :2]).any(axis=1)
    pages = candidates[:, 2]
    smallest = pages[new_key][np.cumsum(new_key) - 1]
    apart = pages != smallest
    return np.unique(np.column_stack([pages[apart], smallest[apart]]), axis=0)


def components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected components of a graph.

    Labels are hooked onto smaller ones and then followed to their end, so the number of rounds
    grows with the logarithm of the longest chain. Memory: about 60 bytes an edge.

    Args:
        edges: uint64 [m, 2], in any order.

    Returns:
        The distinct pages in increasing order, and the component of each: numbers from 0 in the
        order of their smallest page.
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
    """What near-duplicate removal decides about pages that match any other.

    Attributes:
        pages: uint64 [n], increasing.
        sizes: int64 [n] pages in the cluster of each.
        represents: bool [n]: stays, and stands for its cluster.
    """

    pages: np.ndarray
    sizes: np.ndarray
    represents: np.ndarray


def cluster(edges: np.ndarray, pages: np.ndarray, ranks: np.ndarray) -> Clusters:
    """Join matches to clusters and choose a representative of each.

    The longest text represents a cluster (it is the most complete of them), then the newest, then
    the one of smallest URL fingerprint: that is what `ranks` should say. Depends neither on the
    order of the edges nor on the buckets they were found in, and on the numbers of the pages only
    where ranks are equal.

    Args:
        edges: uint64 [m, 2] matches.
        pages: uint64 [n] increasing numbers, all those in `edges` at least.
        ranks: uint64 [n, r] what pages are ranked by, smaller first (`page_rank`).
    """
    found, label = components(edges)
    rows = ranks[np.searchsorted(pages, found)]
    order = np.lexsort([*rows.T[::-1], label])
    represents = np.zeros(len(found), bool)
    represents[order[np.diff(label[order], prepend=-1) > 0]] = True
    return Clusters(found, np.bincount(label)[label] if len(found) else label, represents)


def page_rank(characters: np.ndarray, timestamps_micros: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return what decides who represents a cluster: longest, newest, smallest URL fingerprint.

    Args:
        characters: int64 [n] length of the text.
        timestamps_micros: int64 [n].
        ids: uint64 [n, 2] fingerprints of normalised URLs, each once by then.
    """
    return np.column_stack([~characters.astype(np.uint64), newest_first(timestamps_micros), ids])
