"""Choose the neighbouring records that share a row: next-fit over their lengths.

A row takes records, in their stored order, until the next one does not fit (Johnson 1973). A row's
records follow only from the lengths, which are stored beside the records. So row r of any epoch is
known without earlier rows, and storage is read in blocks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines import storage
from mswitch.pipelines.compiled import compiled
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.examples.tfrecord import lengths_path
from mswitch.tasks.batches.examples import Examples
from mswitch.tasks.batches.record_blocks import RecordSource


class PackedRows(Sequence[range]):
    """Packed rows: each row is a range of neighbouring records."""

    def __init__(self, examples: Examples, source: RecordSource, room: Lengths):
        """Choose the records of each row; every record must fit into a row."""
        self._lengths = read_lengths(source) if examples.supervised else None
        if self._lengths is not None:
            self._starts = pack_next_fit(self._lengths, room.inputs_length, room.targets_length)
            return
        # Nearly all corrupted segments have the maximum length, so rows hold the same number of
        # segments.
        longest = examples.lengths
        fitting = min(
            room.inputs_length // longest.inputs_length,
            room.targets_length // longest.targets_length,
        )
        self._starts = np.append(np.arange(0, len(source), fitting), len(source))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> range:  # pyright: ignore[reportIncompatibleMethodOverride]
        return range(*self._starts[row : row + 2].tolist())

    def suit(self, record: int, inputs: int, targets: int) -> bool:
        """Return whether a record's inputs and targets have the lengths that packing assumed."""
        return self._lengths is None or self._lengths[record].tolist() == [inputs, targets]


def read_lengths(source: RecordSource) -> NDArray[np.uint32]:
    """Read the numbers of tokens of each record's inputs and targets, [records, 2]."""
    parts = []
    for file in source.files:
        path = lengths_path(file.path)
        try:
            lengths = np.frombuffer(storage.read_bytes(path), "<u4").reshape(-1, 2)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path} ({error}): build the examples again") from error
        if len(lengths) != len(file):
            raise UserError(
                f"{path} has {len(lengths):,} lengths for {len(file):,} records: build the "
                "examples again"
            )
        parts.append(lengths)
    return np.concatenate(parts)


@compiled
def pack_next_fit(
    lengths: NDArray[np.uint32], inputs_length: int, targets_length: int
) -> NDArray[np.int64]:
    """Return the first record of each row, and at the end the number of records, [rows + 1].

    `lengths` are of inputs and targets, [records, 2]. Each fits into a row, which has
    `inputs_length` positions for inputs and `targets_length` for targets.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    rows, inputs, targets = 0, 0, 0
    for record in range(len(lengths)):
        inputs += np.int64(lengths[record, 0])
        targets += np.int64(lengths[record, 1])
        if inputs > inputs_length or targets > targets_length:
            rows += 1
            starts[rows] = record
            inputs = np.int64(lengths[record, 0])
            targets = np.int64(lengths[record, 1])
    starts[rows + 1] = len(lengths)
    return starts[: rows + 2].copy()
