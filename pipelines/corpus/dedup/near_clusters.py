"""Clusters of near-duplicates over the shards of a work directory, by band keys.

Like `exact` it shuffles fingerprints cut into buckets of the key
space: 24 bytes a band. What a bucket finds are matches, which go to one cluster step a language
(keys are salted with it, so no cluster has two). What comes back to a shard is the size of the
cluster that each of its pages represents.

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

from pipelines import storage
from pipelines.corpus.dedup.exact import Slice, bucket_starts, in_key_order
from pipelines.corpus.dedup.fingerprints import unpack
from pipelines.corpus.dedup.near import cluster, matches, page_rank
from pipelines.corpus.work_directory import (
    WorkDirectory,
    array_writer,
    load_array,
    save_array,
)
from pipelines.languages import UNDETERMINED, languages

NAME = "near_duplicates"
#: A band key and the number of the page that has it.
CANDIDATE_BYTES = 24

#: The number of a page: 10 bits of language, 24 of shard plus 1, 30 of its place in the shard.
_SHARD_BITS, _PAGE_BITS = 24, 30
_LANGUAGE_SHIFT = _SHARD_BITS + _PAGE_BITS


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """The search over the shards of a work directory.

    Attributes:
        work: where the shards are.
        bucket_bits: the key space is cut into 2**bucket_bits buckets.
        by_reference: shuffle references to candidates, not candidates.
        bands: keys of a page.
        shards: how many shards there are.
        known: files of sorted keys [n, 2]: those of the corpus that is added to. They count
            as shards from `shards` on.
        marks: pages that one of the first so many marking rules drops take no part.
    """

    work: WorkDirectory
    bucket_bits: int
    by_reference: bool
    bands: int
    shards: int
    known: tuple[str, ...] = ()
    marks: int = 0

    def prepare(self, shard: int) -> None:
        """Write a shard's candidates and the ranks of its pages, unless an earlier run has."""
        if shard >= self.shards or storage.exists(self._ranks(shard)):
            return
        with (
            storage.fetch(self.work.pages(shard)) as path,
            pq.ParquetFile(path) as file,
            array_writer(self.work.candidates(NAME, shard), np.uint64, (3,)) as write,
        ):
            pages = file.metadata.num_rows
            won = self.work.selected("winners", shard, pages)
            if self.marks:
                marked = file.read(columns=["marked_by"])["marked_by"].to_numpy()
                won &= (marked == 0) | (marked > self.marks)
            read = partial(self._read, shard, file, won)
            rows = int(won.sum()) * self.bands
            for candidates, _ in in_key_order(read, rows, 3, lambda rows: np.lexsort(rows.T[::-1])):
                write(candidates)
            table = file.read(columns=["characters", "timestamp_micros", "id"])
        ranks = page_rank(
            table["characters"].to_numpy().astype(np.int64),
            table["timestamp_micros"].to_numpy(),
            unpack(b"".join(table["id"].to_pylist())),
        )
        save_array(self._ranks(shard), ranks)

    def _read(
        self, shard: int, file: pq.ParquetFile, won: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the candidates of each row group, and the pages they are."""
        code = {lang: index for index, lang in enumerate(_languages())}
        start = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["lang", "band_keys"])
            chosen = np.flatnonzero(won[start : start + len(table)])
            pages = chosen + start
            start += len(table)
            langs = np.array([code[lang] for lang in table["lang"].to_pylist()], np.uint64)[chosen]
            numbers = (
                (langs << np.uint64(_LANGUAGE_SHIFT))
                | np.uint64((shard + 1) << _PAGE_BITS)
                | pages.astype(np.uint64)
            )
            keys = unpack(b"".join(table["band_keys"].to_pylist()))
            keys = keys.reshape(-1, self.bands, 2)[chosen].reshape(-1, 2)
            candidates = np.column_stack([keys, np.repeat(numbers, self.bands)])
            yield candidates, np.repeat(pages, self.bands)

    def slices(self, shard: int) -> Iterator[tuple[int, Slice]]:
        """Yield a shard's candidates by bucket."""
        candidates = self._candidates(shard)
        edges = np.searchsorted(candidates[:, 0], bucket_starts(self.bucket_bits)).tolist()
        for bucket, (start, stop) in enumerate(itertools.pairwise([*edges, len(candidates)])):
            if start < stop:
                payload = None if self.by_reference else candidates[start:stop].tobytes()
                yield bucket, Slice(shard, start, stop, payload)

    def _candidates(self, shard: int) -> np.ndarray:
        """Return a shard's candidates, of a corpus that is added to the keys alone."""
        if shard >= self.shards:
            return load_array(self.known[shard - self.shards])
        return load_array(self.work.candidates(NAME, shard))

    def match(self, slices: Iterable[Slice]) -> list[tuple[int, bytes]]:
        """Return the matches in a bucket by language: its index, packed pairs of pages."""
        found = matches(np.concatenate([self._rows(piece) for piece in slices]))
        langs = found[:, 0] >> np.uint64(_LANGUAGE_SHIFT)
        return [(int(lang), found[langs == lang].tobytes()) for lang in np.unique(langs).tolist()]

    def _rows(self, piece: Slice) -> np.ndarray:
        width = 3 if piece.shard < self.shards else 2
        if piece.payload is not None:
            rows = np.frombuffer(piece.payload, np.uint64).reshape(-1, width)
        else:
            rows = self._candidates(piece.shard)[piece.start : piece.stop]
        return np.pad(rows, ((0, 0), (0, 3 - width)))

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
        save_array(self.work.chosen(NAME, shard), rows[np.argsort(rows[:, 0])])

    def _ranks(self, shard: int) -> str:
        return self.work.file(NAME, shard, "ranks.npy")


def _languages() -> list[str]:
    return sorted([*languages(), UNDETERMINED])
