"""Read a language's records by number; storage is read in blocks."""

import bisect
import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.example_proto import Feature, decode_example
from mswitch.pipelines.examples.tfrecord import Records, TFRecordFile
from mswitch.tasks.batches.byte_cache import ByteCache

BLOCK_BYTES = 1 << 20


class Piece(NamedTuple):
    """Neighbouring records of a shard that are read at once.

    Attributes:
        file: the shard that holds them.
        shard: number of the shard.
        first: number of the first record, counted over all shards.
        stop: one more than the number of the last.
    """

    file: TFRecordFile
    shard: int
    first: int
    stop: int


class RecordSource:
    """All records of one language in one split, addressed by number.

    Storage is read in blocks of neighbouring records, of a megabyte in the mean. All readers have
    the same blocks, so `order` permutes blocks, and each is read once.

    Attributes:
        files: the shards.
        block_records: number of records in a block.
    """

    def __init__(self, files: Sequence[TFRecordFile], cache: ByteCache):
        """Join shards, in order; sources may share the cache of records."""
        self.files = tuple(files)
        self._starts = list(itertools.accumulate((len(file) for file in self.files), initial=0))
        size = sum(file.size_bytes for file in self.files)
        self.block_records = math.ceil(BLOCK_BYTES * len(self) / size) if size else 1
        self._cache = cache

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Feature]:
        return self.read(index)

    def read(self, index: int, names: Collection[str] | None = None) -> dict[str, Feature]:
        """Return the features of one record, or only the features in `names`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        piece = self.piece(index)
        return self._decode(self.load(piece)[index - piece.first], index, names)

    def read_alone(self, index: int, names: Collection[str]) -> dict[str, Feature]:
        """Return features of one record; read only this record from storage, for checks."""
        piece = self.piece(index)
        return self._decode(piece.file[index - self._starts[piece.shard]], index, names)

    def _decode(self, data: bytes, index: int, names: Collection[str] | None) -> dict[str, Feature]:
        try:
            return decode_example(data, names)
        except ValueError as error:
            raise UserError(
                f"{self.place(index)} is not an example ({error}): build the examples again"
            ) from error

    def place(self, index: int) -> str:
        """Return a record's shard and its number in that shard, for messages."""
        piece = self.piece(index)
        return f"{piece.file.path}: record {index - self._starts[piece.shard]}"

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Range (start, stop) of each shard's records, which are numbered over all shards."""
        return list(itertools.pairwise(self._starts))

    def piece(self, index: int) -> Piece:
        """Return a record's block, which is read at once; the block is cut at its shard's ends."""
        shard = bisect.bisect_right(self._starts, index) - 1
        block = index // self.block_records * self.block_records
        return Piece(
            self.files[shard],
            shard,
            max(block, self._starts[shard]),
            min(block + self.block_records, self._starts[shard + 1]),
        )

    def is_loaded(self, piece: Piece) -> bool:
        """Return whether a piece is in memory or being loaded."""
        return piece in self._cache

    def load(self, piece: Piece) -> Records:
        """Return the records of a piece; read them unless they are in memory."""

        def load() -> tuple[Records, int]:
            start = self._starts[piece.shard]
            edges = self._edges(piece.file)[piece.first - start : piece.stop - start + 1]
            records = piece.file.read(edges.copy())  # a view would keep the whole index in memory
            return records, len(records.data) + records.edges.nbytes

        return self._cache.get(piece, load)

    def _edges(self, file: TFRecordFile) -> NDArray[np.uint64]:
        def load() -> tuple[NDArray[np.uint64], int]:
            edges = file.edges()
            return edges, edges.nbytes

        return self._cache.get(file, load)
