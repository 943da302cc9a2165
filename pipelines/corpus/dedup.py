"""Deduplication as contests: of all candidates with one key, the one of smallest rank wins.

Two contests decide what stays. Winners: pages compete for their normalised URL; the newest wins.
Owners: URLs compete for each line; the smallest md5 of the raw URL wins (mC4's rule). Each unit
sends one candidate per distinct key, packed in arrays; no text moves, and what comes back is one
bit per candidate.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.fingerprints import unpack
from pipelines.corpus.work_directory import WorkDirectory, save_array


def best_of_each(candidates: np.ndarray) -> np.ndarray:
    """Return the index of the best row for each key, in the order of the keys.

    Args:
        candidates: uint64 [n, 2 + ranks]: a 128-bit key, then what to rank by, smaller first.
            Equal rows are settled by their order.
    """
    order = np.lexsort(candidates.T[::-1])
    keys = candidates[order, :2]
    first = np.ones(len(order), bool)
    first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return order[first]


def page_candidates(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return a unit's candidates for its URLs, and the page each stands for.

    Ranked by: newest timestamp, then largest md5 of the text (as mC4 3.0.1), then unit and
    position in it.
    """
    ids, texts = _halves(table, "id"), _halves(table, "text_hash")
    timestamps = table["timestamp_micros"].to_numpy()
    # ~x reverses the order of signed numbers; flipping the sign bit makes it that of unsigned.
    newest_first = (~timestamps).view(np.uint64) ^ np.uint64(1 << 63)
    candidates = np.column_stack([ids, newest_first, ~texts])
    positions = best_of_each(candidates)
    return candidates[positions], positions


def line_candidates(table: pa.Table, competes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a unit's candidates for its lines, and the line of the unit each stands for.

    Args:
        table: columns url_hash, lines, line_hashes.
        competes: bool [pages]: pages that won their URL and have paragraphs.
    """
    counts = table["lines"].to_numpy()
    lines = unpack(b"".join(table["line_hashes"].to_pylist()))
    page_of_line = np.repeat(np.arange(len(counts)), counts)
    positions = np.flatnonzero(competes[page_of_line])
    owners = _halves(table, "url_hash")[page_of_line[positions]]
    candidates = np.column_stack([lines[positions], owners])
    best = best_of_each(candidates)
    return candidates[best], positions[best]


def _halves(table: pa.Table, column: str) -> np.ndarray:
    return unpack(b"".join(table[column].to_pylist()))


@dataclasses.dataclass(frozen=True)
class Slice:
    """The candidates of one unit in one bucket of the key space.

    `payload` holds the rows themselves; None refers to the unit's candidates file instead, which
    keeps them out of the shuffle (FnApiRunner shuffles in memory).
    """

    unit: int
    start: int
    stop: int
    payload: bytes | None


@dataclasses.dataclass(frozen=True)
class Contest:
    """One of the two contests over the units of a work directory.

    Attributes:
        name: "winners" or "owners".
        work: where the units are.
        bucket_bits: the key space is cut into 2**bucket_bits buckets.
        by_reference: shuffle references to candidates, not candidates.
    """

    name: str
    work: WorkDirectory
    bucket_bits: int
    by_reference: bool

    def prepare(self, unit: int) -> None:
        """Write a unit's candidates, unless an earlier run has."""
        if self.work.positions(self.name, unit).exists():
            return
        pages = self.work.pages(unit)
        if self.name == "winners":
            table = pq.read_table(pages, columns=["id", "text_hash", "timestamp_micros"])
            candidates, positions = page_candidates(table)
        else:
            columns = ["url_hash", "lines", "line_hashes", "paragraphs"]
            table = pq.read_table(pages, columns=columns)
            competes = self.work.selected("winners", unit, len(table))
            competes &= table["paragraphs"].to_numpy() == 0
            candidates, positions = line_candidates(table, competes)
        save_array(self.work.candidates(self.name, unit), candidates)
        save_array(self.work.positions(self.name, unit), positions)

    def slices(self, unit: int) -> Iterator[tuple[int, Slice]]:
        """Yield a unit's candidates by bucket; bucket 0 always, so that no unit goes missing."""
        self.prepare(unit)
        candidates = np.load(self.work.candidates(self.name, unit), mmap_mode="r")
        buckets = candidates[:, 0] >> np.uint64(64 - self.bucket_bits) if self.bucket_bits else 0
        edges = np.searchsorted(
            np.broadcast_to(buckets, len(candidates)), np.arange((1 << self.bucket_bits) + 1)
        )
        for bucket, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start < stop or bucket == 0:
                payload = None if self.by_reference else candidates[start:stop].tobytes()
                yield bucket, Slice(unit, int(start), int(stop), payload)

    def settle(self, bucket: int, slices: Iterable[Slice]) -> Iterator[tuple[int, Any]]:
        """Yield, for each slice of a bucket, which of its candidates win: (unit, (start, bits))."""
        del bucket
        ordered = sorted(slices, key=lambda piece: piece.unit)
        candidates = np.concatenate([self._rows(piece) for piece in ordered])
        wins = np.zeros(len(candidates), bool)
        wins[best_of_each(candidates)] = True
        done = 0
        for piece in ordered:
            size = piece.stop - piece.start
            bits = np.packbits(wins[done : done + size]).tobytes()
            yield piece.unit, (piece.start, size, bits)
            done += size

    def _rows(self, piece: Slice) -> np.ndarray:
        if piece.payload is not None:
            return np.frombuffer(piece.payload, np.uint64).reshape(-1, self._width)
        file = self.work.candidates(self.name, piece.unit)
        return np.load(file, mmap_mode="r")[piece.start : piece.stop]

    @property
    def _width(self) -> int:
        return 5 if self.name == "winners" else 4

    def record(self, unit: int, verdicts: Iterable[tuple[int, int, bytes]]) -> None:
        """Write what came back for a unit as one array over its candidates."""
        parts = [
            np.unpackbits(np.frombuffer(bits, np.uint8), count=size).astype(bool)
            for _, size, bits in sorted(verdicts)
        ]
        save_array(self.work.verdicts(self.name, unit), np.concatenate(parts))


class SettleContest(beam.PTransform):
    """Units in; writes each unit's verdicts."""

    def __init__(self, contest: Contest):
        super().__init__()
        self.contest = contest

    def expand(self, input_or_inputs):
        """Shuffle candidates by bucket, then verdicts by unit."""
        return (
            input_or_inputs
            | "SliceCandidates" >> beam.FlatMap(self.contest.slices)
            | "GroupByBucket" >> beam.GroupByKey()
            | "SettleBucket" >> beam.FlatMapTuple(self.contest.settle)
            | "GroupByUnit" >> beam.GroupByKey()
            | "RecordVerdicts" >> beam.MapTuple(self.contest.record)
        )
