"""Clusters near-duplicates over the shards of a work directory, by band keys.

A candidate has 24 bytes per band. Each bucket of the key space yields matches, which are clustered
by language (keys are salted with it, so a cluster has only one). `near_stars` clusters languages
with very many matches. Groups of shards get back the size of the cluster that each page represents.

If the build adds to a corpus, the keys of its documents take part. All its documents count as one
page, number 0, which represents any cluster that contains it. So a page is dropped if it is a
near-duplicate of a document, directly or through other pages.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.exchange import Group
from mswitch.pipelines.corpus.dedup.key_files import in_key_order, read_keys, write_keys
from mswitch.pipelines.corpus.dedup.near import cluster, find_matches, rank_pages
from mswitch.pipelines.corpus.dedup.near_stars import LANGUAGE_BITS, PAGE_BITS, PLACE, Stars
from mswitch.pipelines.corpus.fingerprints import order_keys, unpack_column
from mswitch.pipelines.file_tasks import Tasks
from mswitch.pipelines.languages import UNDETERMINED, languages

#: Number of Beam tasks among which languages are divided.
_PARTS = 16
#: Languages that are not in `mswitch.pipelines.languages` share this many numbers; a hash of the
#: language chooses its number.
_OTHERS = 16


@dataclasses.dataclass(frozen=True)
class NearDuplicates(Stars):
    """The search for near-duplicates.

    Attributes:
        marks: ignore pages that one of the first `marks` marking rules drops.
    """

    marks: int = 0

    def make_lists(self) -> list[Tasks]:
        return [
            self.tasks("keys", self.write_candidates, len(self.groups)),
            self.tasks("matches", self.match, 1 << self.bits),
            *self.make_star_lists(),
            self.tasks("clusters", self.cluster, _PARTS),
        ]

    def write_candidates(self, number: int) -> dict[str, int]:
        """Write the sorted band keys of a group of shards, and ranks that choose pages to keep."""
        group, ranks = self.groups[number], []
        for table in self.read_tables(group, ["characters", "timestamp_micros", "id"]):
            characters = table["characters"].to_numpy().astype(np.int64)
            newest = table["timestamp_micros"].to_numpy()
            ranks.append(rank_pages(characters, newest, unpack_column(table["id"])))
        with storage.publish(self.file("keys", number, "ranks")) as temporary:
            temporary.write_bytes(b"".join(part.tobytes() for part in ranks))
        come = self.find_pages_before(group)
        rows = self.step.candidates(int(come.sum()), 0)
        read = partial(self._candidates, group, come)
        ordered = in_key_order(read, 3, rows, order_keys, self.sorting_bytes)
        return {"rows": write_keys(self.file("keys", number, "keys"), ordered, rows, self.bits)}

    def _candidates(self, group: Group, come: np.ndarray) -> Iterator[np.ndarray]:
        """Yield rows for each table of pages: a band key, and the number of its page."""
        start = 0
        for table in self.read_tables(group, ["lang", "band_keys", "marked_by"]):
            marked = table["marked_by"].to_numpy()
            unmarked = (marked == 0) | (marked > self.marks)
            chosen = np.flatnonzero(come[start : start + len(table)] & unmarked)
            pages = chosen + start
            start += len(table)
            langs = np.array(list(map(_number, table["lang"].to_pylist())), np.uint64)[chosen]
            numbers = (
                (langs << np.uint64(64 - LANGUAGE_BITS))
                | np.uint64((group.number + 1) << PAGE_BITS)
                | pages.astype(np.uint64)
            )
            # Pages that a rule marked for dropping have no keys.
            keys = unpack_column(table["band_keys"].take(pa.array(chosen)))
            yield np.column_stack([keys, np.repeat(numbers, self.step.bands)])

    def match(self, number: int) -> dict[str, Any]:
        """Write pairs of pages that share a band key in a bucket, sorted by language and page."""
        known, parts = self.read_bucket(number)
        pairs = find_matches(np.concatenate([*known, *parts]))
        langs, counts = np.unique(pairs[:, 0] >> np.uint64(64 - LANGUAGE_BITS), return_counts=True)
        return {
            "pairs": write_keys(self.file("matches", number, "pairs"), [pairs], len(pairs)),
            "languages": dict(zip(langs.tolist(), counts.tolist(), strict=True)),
        }

    def cluster(self, part: int) -> dict[str, int]:
        """Cluster near-duplicates in some languages; write each page and the size of its cluster.

        The size is 0 if another page represents the cluster. Memory: about 100 bytes per match of
        the largest language that `near_stars` does not handle, and the ranks of one group.
        """
        langs = sorted(set(range(part, len(_numbers()) + _OTHERS, _PARTS)) - set(self.find_large()))
        rows = np.concatenate([np.zeros((0, 2), np.uint64), *map(self._cluster, langs)])
        rows = rows[np.argsort(rows[:, 0])]
        return {"pages": write_keys(self.file("clusters", part, "sizes"), [rows], len(rows))}

    def _cluster(self, lang: int) -> np.ndarray:
        """Return a language's matching pages with the sizes of their clusters: uint64 [n, 2].

        Pages are keys, as in `keys_in_groups`.
        """
        buckets = [self.file("matches", bucket, "pairs") for bucket in range(1 << self.bits)]
        edges = np.concatenate([read_keys(path, 2, LANGUAGE_BITS, lang) for path in buckets])
        pages = np.setdiff1d(edges, np.uint64(0))
        if not len(pages):
            return np.zeros((0, 2), np.uint64)
        keys = self.keys_in_groups(pages)
        groups = keys >> np.uint64(64 - self.bits_of_group)
        places = (keys & PLACE).astype(np.int64)
        bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(pages)]
        ranks = [
            self.ranks(int(groups[start]))[places[start:stop]]
            for start, stop in itertools.pairwise(bounds)
        ]
        # Page 0 stands for all pages of the existing corpus. Its ranks are 0, the smallest, so a
        # cluster with page 0 keeps no new page.
        zeros = np.zeros((1, ranks[0].shape[1]), np.uint64)
        clusters = cluster(edges, np.append(np.uint64(0), pages), np.concatenate([zeros, *ranks]))
        sizes = np.where(clusters.represents, clusters.sizes, 0)[-len(pages) :]
        return np.column_stack([keys, sizes.astype(np.uint64)])

    def sizes(self, group: Group) -> np.ndarray:
        """Return, for each page, the size of the cluster that the page represents: int64 [pages].

        The size is 1 for a page without near-duplicates, and 0 if another page represents it.
        """
        sizes = np.ones(group.pages, np.int64)
        for part in range(_PARTS):
            path = self.file("clusters", part, "sizes")
            rows = read_keys(path, 2, self.bits_of_group, group.number)
            sizes[(rows[:, 0] & PLACE).astype(np.int64)] = rows[:, 1]
        self.mark(sizes, group.number)
        return sizes

    def read_stays(self, group: Group) -> np.ndarray:
        return self.sizes(group) > 0

    def read_choices(self, group: Group, lines: np.ndarray) -> Any:
        return self.sizes(group).tolist()

    def count_shuffled_bytes(self, known_keys: int) -> int:
        keys = self.notes("keys", "rows", len(self.groups)) + known_keys
        pairs = self.notes("matches", "pairs", 1 << self.bits)
        pages = self.notes("clusters", "pages", _PARTS) + self.count_clustered_pages()
        return 24 * keys + 16 * (pairs + pages)


@functools.cache
def _numbers() -> dict[str, int]:
    return {lang: n for n, lang in enumerate(sorted([*languages(), UNDETERMINED]))}


def _number(lang: str) -> int:
    """Return a language code's number; two codes that mswitch lacks may share a number.

    Pages in different languages still share no key.
    """
    return _numbers().get(lang, len(_numbers()) + zlib.crc32(lang.encode()) % _OTHERS)
