"""Clusters of near-duplicates over the shards of a work directory, by band keys.

Fingerprints are shuffled, cut into buckets of the key space: 24 bytes a band. What a bucket finds
are matches, which go to one cluster step a language (keys are salted with it, so no cluster has
two). What comes back to a shard is the size of the cluster that each of its pages represents.

Where a corpus is added to, its documents take part with the keys that it keeps. All of them are one
page, number 0, which represents whatever cluster it is in: a page that is a near-duplicate of a
document, or of another such page, is dropped.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.base import row_groups
from mswitch.pipelines.corpus.dedup.buckets import Candidates, Slice, in_key_order
from mswitch.pipelines.corpus.dedup.near import NearDedup, cluster, matches, page_rank
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.fingerprints import unpack_column
from mswitch.pipelines.corpus.work_directory import array_writer, load_array, save_array
from mswitch.pipelines.languages import UNDETERMINED, languages

#: The number of a page, which stands in a candidate after a band key: 10 bits of language, 24 of
#: shard plus 1, 30 of its place in the shard.
_SHARD_BITS, _PAGE_BITS = 24, 30
_LANGUAGE_SHIFT = _SHARD_BITS + _PAGE_BITS


@dataclasses.dataclass(frozen=True)
class NearDuplicates(Candidates):
    """The search over the shards of a work directory.

    Attributes:
        marks: pages that one of the first so many marking rules drops take no part.
    """

    step: NearDedup
    marks: int = 0

    def prepare(self, shard: int) -> None:
        """Write a shard's candidates and the ranks of its pages, unless an earlier run has."""
        if shard >= self.shuffle.shards or storage.exists(self._ranks(shard)):
            return
        with (
            storage.fetch(self.work.pages(shard)) as path,
            pq.ParquetFile(path) as file,
            array_writer(self.work.candidates(self.step.name, shard), np.uint64, (3,)) as write,
        ):
            pages = file.metadata.num_rows
            won = self.work.selected(UrlDedup.name, shard, pages)
            if self.marks:
                marked = file.read(columns=["marked_by"])["marked_by"].to_numpy()
                won &= (marked == 0) | (marked > self.marks)
            read = partial(self._read, shard, file, won)
            rows = int(won.sum()) * self.step.bands
            for candidates, _ in in_key_order(read, rows, 3, lambda rows: np.lexsort(rows.T[::-1])):
                write(candidates)
            table = file.read(columns=["characters", "timestamp_micros", "id"])
        ranks = page_rank(
            table["characters"].to_numpy().astype(np.int64),
            table["timestamp_micros"].to_numpy(),
            unpack_column(table["id"]),
        )
        save_array(self._ranks(shard), ranks)

    def _read(
        self, shard: int, file: pq.ParquetFile, won: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the candidates of each row group, and the pages they are."""
        code = {lang: index for index, lang in enumerate(sorted([*languages(), UNDETERMINED]))}
        start = 0
        for table in row_groups(file, ["lang", "band_keys"]):
            chosen = np.flatnonzero(won[start : start + len(table)])
            pages = chosen + start
            start += len(table)
            langs = np.array([code[lang] for lang in table["lang"].to_pylist()], np.uint64)[chosen]
            numbers = (
                (langs << np.uint64(_LANGUAGE_SHIFT))
                | np.uint64((shard + 1) << _PAGE_BITS)
                | pages.astype(np.uint64)
            )
            keys = unpack_column(table["band_keys"])
            keys = keys.reshape(-1, self.step.bands, 2)[chosen].reshape(-1, 2)
            candidates = np.column_stack([keys, np.repeat(numbers, self.step.bands)])
            yield candidates, np.repeat(pages, self.step.bands)

    def match(self, slices: Iterable[Slice]) -> list[tuple[int, bytes]]:
        """Return the matches in a bucket by language: its index, packed pairs of pages."""
        found = matches(np.concatenate([self.rows(piece) for piece in slices]))
        langs = found[:, 0] >> np.uint64(_LANGUAGE_SHIFT)
        return [(int(lang), found[langs == lang].tobytes()) for lang in np.unique(langs).tolist()]

    def cluster(self, packed: Iterable[bytes]) -> list[tuple[int, bytes]]:
        """Decide a language: for each shard, packed pairs of page and size of its cluster.

        The size is 0 for a page that another represents. Memory: about 100 bytes a match, and the
        ranks of one shard.
        """
        edges = np.concatenate([np.frombuffer(part, np.uint64) for part in packed]).reshape(-1, 2)
        pages = np.setdiff1d(edges, np.uint64(0))
        places = (pages & np.uint64((1 << _PAGE_BITS) - 1)).astype(np.int64)
        shards = ((pages >> np.uint64(_PAGE_BITS)) & np.uint64((1 << _SHARD_BITS) - 1)) - np.uint64(
            1
        )
        starts = np.flatnonzero(np.diff(shards, prepend=np.uint64(0)) > 0).tolist()
        bounds = sorted({0, *starts, len(pages)})
        ranks = np.concatenate(
            [
                load_array(self._ranks(int(shards[start])))[places[start:stop]]
                for start, stop in itertools.pairwise(bounds)
            ]
        )
        # A rank of zeros is the smallest there can be: the corpus represents what it has.
        found = cluster(edges, np.append(np.uint64(0), pages), np.pad(ranks, ((1, 0), (0, 0))))
        sizes = np.where(found.represents, found.sizes, 0)[-len(pages) :]
        rows = np.column_stack([places, sizes])
        return [
            (int(shards[start]), rows[start:stop].tobytes())
            for start, stop in itertools.pairwise(bounds)
        ]

    def record(self, shard: int, packed: Iterable[bytes]) -> None:
        """Write what came back for a shard: int64 [n, 2], its pages that match any, and sizes."""
        rows = np.concatenate([np.frombuffer(part, np.int64) for part in packed]).reshape(-1, 2)
        save_array(self.work.chosen(self.step.name, shard), rows[np.argsort(rows[:, 0])])

    def _ranks(self, shard: int) -> str:
        return self.work.file(self.step.name, shard, "ranks.npy")
