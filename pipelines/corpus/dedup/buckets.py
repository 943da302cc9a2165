"""Deduplication keys in bounded memory: sorted, cut into buckets of the key space, and the minimum.

A candidate is a row of uint64: a 128-bit key, then what to rank by, smaller first.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.work_directory import WorkDirectory, load_array

#: What a candidate takes while a shard's are sorted, and what all that are sorted at once may.
_SORTING_BYTES = 100
MOST_SORTING_BYTES = 256 << 20

#: Buckets smaller than this are not worth a worker's while; larger ones are cut into so many.
_SHARED_BUCKET_BYTES = 4 << 20
_SHARED_BUCKETS = 8


def bits_for(size_bytes: int, bucket_bytes: int) -> int:
    """Return into how many buckets, as a power of two, something of this size is cut."""
    return min(16, max(0, math.ceil(math.log2(max(size_bytes / bucket_bytes, 1)))))


def shared_bits(size_bytes: int, bucket_bytes: int) -> int:
    """Return `bits_for`, where something large is cut into several, for workers to share."""
    shared = max(_SHARED_BUCKET_BYTES, size_bytes // _SHARED_BUCKETS)
    return bits_for(size_bytes, min(bucket_bytes, shared))


def best_of_each(candidates: np.ndarray) -> np.ndarray:
    """Return the index of the best row for each key, in the order of the keys.

    Args:
        candidates: uint64 [n, 2 + ranks]: a 128-bit key, then what to rank by, smaller first.
            Equal rows are settled by their order.
    """
    if not len(candidates):
        return np.zeros(0, np.int64)
    order = np.argsort(candidates[:, 0], kind="stable")
    high = candidates[order, 0]
    same = high[1:] == high[:-1]
    # Most keys occur once. Only the others need the slow sort by all columns.
    shared = np.zeros(len(order), bool)
    shared[1:] |= same
    shared[:-1] |= same
    places = np.flatnonzero(shared)
    rows = candidates[order[places]]
    order[places] = order[places][np.lexsort(rows.T[::-1])]
    keys = candidates[order[places], :2]
    first = np.ones(len(order), bool)
    again = np.zeros(len(places), bool)
    again[1:] = (keys[1:] == keys[:-1]).all(axis=1)
    first[places[again]] = False
    return order[first]


def in_key_order(
    read: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    rows: int,
    width: int,
    order: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sort candidates of any number in bounded memory: yield them a range of keys at a time.

    Args:
        read: yields candidates (uint64 [n, width], the upper half of the key first) and what each
            stands for (int64 [n]), part by part; called once for each range.
        rows: how many candidates there are in all.
        width: columns of a candidate.
        order: returns the indices of those that stay, in the order of their keys.
    """
    bits = bits_for(rows * _SORTING_BYTES, MOST_SORTING_BYTES)
    for number in range(1 << bits):
        parts = [(np.zeros((0, width), np.uint64), np.zeros(0, np.int64))]
        for part, places in read():
            inside = slice(None)
            if bits:
                inside = np.flatnonzero(part[:, 0] >> np.uint64(64 - bits) == number)
                # A single line, repeated, may be all there is.
                inside = inside[order(part[inside])]
            parts.append((part[inside], places[inside]))
        candidates, positions = map(np.concatenate, zip(*parts, strict=True))
        chosen = order(candidates)
        yield candidates[chosen], positions[chosen]


@dataclasses.dataclass(frozen=True)
class Slice:
    """The candidates of one shard in one bucket of the key space.

    `payload` holds the rows themselves; None refers to the shard's file instead, which keeps them
    out of the shuffle (FnApiRunner shuffles in memory).
    """

    shard: int
    start: int
    stop: int
    payload: bytes | None


def cut(
    rows: np.ndarray, shard: int, bucket_bits: int, by_reference: bool
) -> Iterator[tuple[int, Slice]]:
    """Yield a shard's rows, sorted by key, by bucket; empty ones too."""
    # A shift by 64 is undefined; one bucket starts at 0 whatever the shift.
    shift = np.uint64(64 - max(bucket_bits, 1))
    starts = np.arange(1 << bucket_bits, dtype=np.uint64) << shift
    edges = np.searchsorted(rows[:, 0], starts).tolist()
    for bucket, (start, stop) in enumerate(itertools.pairwise([*edges, len(rows)])):
        payload = None if by_reference else rows[start:stop].tobytes()
        yield bucket, Slice(shard, start, stop, payload)


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """How keys are shuffled.

    Attributes:
        bucket_bits: the key space is cut into 2**bucket_bits buckets, one in memory at a time.
        by_reference: shuffle references to keys in the work directory, not keys.
        shards: how many shards there are.
        known: files of sorted keys [n, 2] that come before all others: those of a corpus that is
            added to. They count as shards from `shards` on.
    """

    bucket_bits: int = 0
    by_reference: bool = False
    shards: int = 1 << 30
    known: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of all shards of a work directory, for one deduplication.

    Attributes:
        step: the deduplication.
        work: where the shards are.
        shuffle: how they are shuffled.
    """

    step: Dedup
    work: WorkDirectory
    shuffle: Shuffle

    def slices(self, shard: int) -> Iterator[tuple[int, Slice]]:
        """Yield a shard's candidates by bucket; bucket 0 always, so that no shard goes missing."""
        options = self.shuffle.bucket_bits, self.shuffle.by_reference
        for bucket, piece in cut(self._of(shard), shard, *options):
            if piece.start < piece.stop or bucket == 0:
                yield bucket, piece

    def rows(self, piece: Slice) -> np.ndarray:
        """Return the candidates of a slice."""
        width = self.step.width if piece.shard < self.shuffle.shards else 2
        if piece.payload is not None:
            rows = np.frombuffer(piece.payload, np.uint64).reshape(-1, width)
        else:
            rows = self._of(piece.shard)[piece.start : piece.stop]
        # A rank of zeros is the smallest there can be.
        return np.pad(rows, ((0, 0), (0, self.step.width - width)))

    def _of(self, shard: int) -> np.ndarray:
        """Return a shard's candidates, of a corpus that is added to the keys alone."""
        if shard >= self.shuffle.shards:
            return load_array(self.shuffle.known[shard - self.shuffle.shards])
        return load_array(self.work.candidates(self.step.name, shard))
