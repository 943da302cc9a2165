"""Endless streams of training examples, addressed by position.

Each leaf of a mixture (`mswitch.tasks.batches.multitask`) has a stream.
"""

import math
from collections.abc import Mapping, Sequence

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import ExampleKey, Lengths, Tokens
from mswitch.tasks.batches.byte_cache import CACHE_BYTES, ByteCache
from mswitch.tasks.batches.collate import Example, Segment
from mswitch.tasks.batches.examples import Examples, open_examples
from mswitch.tasks.batches.multitask import TaskMixture
from mswitch.tasks.batches.order import RecordOrder
from mswitch.tasks.batches.packing import PackedRows


def open_tasks(mixture: TaskMixture) -> dict[str, Examples]:
    """Open the directories of a mixture, which share a vocabulary and a cache."""
    cache = ByteCache(CACHE_BYTES)
    opened = {name: open_examples(task.directory, cache) for name, task in mixture.tasks.items()}
    first = next(iter(opened.values()))
    for examples in opened.values():
        if examples.manifest["vocabulary_sha256"] != first.manifest["vocabulary_sha256"]:
            raise UserError(
                f"{examples.directory} has another vocabulary than {first.directory}: build both "
                "with the same --vocab"
            )
    return opened


def convert_rates(rates: Mapping[str, float], row_examples: Sequence[float]) -> dict[str, float]:
    """Convert rates of examples to rates of rows; `row_examples` are mean examples per row."""
    rows = [rate / mean for rate, mean in zip(rates.values(), row_examples, strict=True)]
    total = sum(rows)
    return {leaf: rate / total for leaf, rate in zip(rates, rows, strict=True)}


class Stream:
    """Endless stream of rows from one language of a task; a row has one example or more.

    Attributes:
        examples: the directory.
        source: the records.
        row_examples: mean number of examples in a row.
        order: epoch and row by position; both order and masks change each epoch.
    """

    def __init__(
        self,
        examples: Examples,
        lang: str,
        number: int,
        key: int,
        seed: int,
        room: Lengths | None = None,
    ):
        self.examples, self._seed, self._key, self._number = examples, seed, key, number
        self.source = source = examples.sources["train"][lang]
        self._rows = None if room is None else PackedRows(examples, source, room)
        rows = len(source) if self._rows is None else len(self._rows)
        self.row_examples = len(source) / rows
        block = math.ceil(source.block_records / self.row_examples)
        self.order = RecordOrder(rows, seed, key, block)

    def records(self, row: int) -> Sequence[int]:
        """Return the indices of the records that are packed into row number `row`."""
        assert self._rows is not None
        return self._rows[row]

    def segment(self, epoch: int, record: int) -> Segment:
        """Read a record that stores a segment without span corruption."""
        [tokens] = self._read(record, ("targets",))
        return tokens, ExampleKey(self._seed, self._key, record, epoch), self._number

    def example(self, record: int) -> Example:
        """Read a record that stores a complete example: inputs and targets."""
        inputs, targets = self._read(record, ("inputs", "targets"))
        if self._rows is not None and not self._rows.suit(record, inputs.size, targets.size):
            raise UserError(
                f"{self.source.place(record)} does not have the lengths stored beside the shard: "
                "build the examples again"
            )
        return inputs, targets, self._number

    def _read(self, record: int, names: tuple[str, ...]) -> list[Tokens]:
        features = self.source.read(record, names)
        return [self.examples.tokens(self.source, record, features, name) for name in names]
