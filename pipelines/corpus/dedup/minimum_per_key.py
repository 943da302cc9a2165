"""Exact deduplication: of all candidates with one deduplication key, the minimum by rank stays.

Each shard sends one candidate per distinct key, packed in arrays; no text moves, and what comes
back is one bit per candidate. `mswitch.pipelines.corpus.pipeline` puts the steps into Beam
transforms.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.buckets import Candidates, Slice, best_of_each, in_key_order
from mswitch.pipelines.corpus.dedup.lines import LineDedup
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.work_directory import array_writer, save_array
from mswitch.pipelines.faults import fault_point

#: What comes back for a slice: its shard, then its start and length, and a bit per candidate.
Chosen = tuple[int, tuple[int, int, bytes]]


@dataclasses.dataclass(frozen=True)
class MinimumPerKey(Candidates):
    """Deduplication of URLs or of lines over the shards of a work directory."""

    step: UrlDedup | LineDedup

    def prepare(self, shard: int) -> None:
        """Write a shard's candidates, one for each key, unless an earlier run has."""
        step, work = self.step, self.work
        if shard >= self.shuffle.shards or storage.exists(work.positions(step.name, shard)):
            return
        with (
            storage.fetch(work.pages(shard)) as path,
            pq.ParquetFile(path) as file,
            # Positions, which complete a shard, are closed last.
            array_writer(work.positions(step.name, shard), np.int64) as write_positions,
            array_writer(work.candidates(step.name, shard), np.uint64, (step.width,)) as write,
        ):
            rows, read = step.candidates_of(file, shard, work)
            for candidates, positions in in_key_order(read, rows, step.width, best_of_each):
                write(candidates)
                write_positions(positions)

    def choose(self, slices: Iterable[Slice]) -> list[Chosen]:
        """Tell for each slice of a bucket which of its candidates are the minimum of their key."""
        ordered = sorted(slices, key=lambda piece: piece.shard)
        candidates = np.concatenate([self.rows(piece) for piece in ordered])
        smallest = np.zeros(len(candidates), bool)
        smallest[best_of_each(candidates)] = True
        chosen = []
        done = 0
        for piece in ordered:
            size = piece.stop - piece.start
            bits = np.packbits(smallest[done : done + size]).tobytes()
            if piece.shard < self.shuffle.shards:
                chosen.append((piece.shard, (piece.start, size, bits)))
            done += size
        return chosen

    def record(self, shard: int, chosen: Iterable[tuple[int, int, bytes]]) -> None:
        """Write what came back for a shard as one array over its candidates."""
        parts = [
            np.unpackbits(np.frombuffer(bits, np.uint8), count=size).astype(bool)
            for _, size, bits in sorted(chosen)
        ]
        save_array(self.work.chosen(self.step.name, shard), np.concatenate(parts))
        fault_point("corpus.after_choosing")
