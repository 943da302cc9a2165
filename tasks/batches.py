"""Batches for training and evaluation, addressed by number; neither seqio nor TensorFlow.

A training batch is a pure function of (seed, step): any step of any run can be made at once, at
the same cost as the first, by any number of hosts. Record order, language and mask of an example
follow from its position alone.

`TrainBatches.dataset` is the stream as a `grain.MapDataset`, for Grain's slicing, prefetching and
worker processes. Batches are made here, a batch as a whole: element by element, Grain took a
fifth more, its `mix` is a round robin, and its index shuffle took 4 ms an index for a language of
eight records. Importing Grain imports JAX, so only `dataset` does.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.examples.span_corruption import (
    PAD_ID,
    SENTINELS,
    ExampleKey,
    SpanCorruption,
    Tokens,
    corrupt,
    random_masks,
    stream_key,
)
from pipelines.examples.tf_example import Feature
from tasks.mixtures import Mixture
from tasks.order import MixtureOrder, RecordOrder
from tasks.records import Examples, RecordSource, open_examples

if TYPE_CHECKING:
    import grain

Batch = dict[str, NDArray[Any]]
#: One corrupted example before padding: inputs, targets, language number.
Example = tuple[Tokens, Tokens, int]
#: One training segment before corruption: tokens, what its draws belong to, language number.
Segment = tuple[Tokens, ExampleKey, int]

_SEED_BITS = 32
PADDING_LANGUAGE = -1


def _blank(rows: int, lengths: SpanCorruption) -> Batch:
    return {
        "encoder_input_tokens": np.full((rows, lengths.inputs_length), PAD_ID, np.int32),
        "decoder_input_tokens": np.full((rows, lengths.targets_length), PAD_ID, np.int32),
        "decoder_target_tokens": np.full((rows, lengths.targets_length), PAD_ID, np.int32),
        "decoder_loss_weights": np.zeros((rows, lengths.targets_length), np.float32),
        "language": np.full(rows, PADDING_LANGUAGE, np.int32),
    }


def _fill(
    batch: Batch, places: Sequence[int] | slice, inputs: Tokens, targets: Tokens, language: object
) -> None:
    """Put examples of equal lengths, [n, ...], into rows of a blank batch."""
    size, longest = targets.shape[1], batch["decoder_target_tokens"].shape[1]
    batch["encoder_input_tokens"][places, : inputs.shape[1]] = inputs
    batch["decoder_target_tokens"][places, :size] = targets
    batch["decoder_input_tokens"][places, 1 : size + 1] = targets[:, : longest - 1]
    batch["decoder_loss_weights"][places, :size] = 1
    batch["language"][places] = language


def collate(examples: Sequence[Example], rows: int, lengths: SpanCorruption) -> Batch:
    """Pad examples to a batch of `rows`; rows beyond the examples have weight 0.

    Returns:
        The features that models take (int32 `encoder_input_tokens` [rows, inputs_length],
        `decoder_input_tokens` and `decoder_target_tokens` [rows, targets_length], float32
        `decoder_loss_weights` [rows, targets_length], int32 `language` [rows]).
    """
    batch = _blank(rows, lengths)
    for row, (inputs, targets, number) in enumerate(examples):
        _fill(batch, slice(row, row + 1), inputs[None], targets[None], number)
    return batch


def corrupt_segments(
    segments: Sequence[Segment], vocabulary_size: int, lengths: SpanCorruption
) -> Batch:
    """Corrupt training segments and pad them to a batch, all segments of one length at a time."""
    batch = _blank(len(segments), lengths)
    by_length: dict[int, list[int]] = {}
    for row, (tokens, _, _) in enumerate(segments):
        by_length.setdefault(tokens.size, []).append(row)
    for length, rows in by_length.items():
        tokens = np.stack([segments[row][0] for row in rows])
        masks = random_masks(length, lengths, [segments[row][1] for row in rows])
        inputs, targets = corrupt(tokens, masks, vocabulary_size, lengths)
        _fill(batch, rows, inputs, targets, [segments[row][2] for row in rows])
    return batch


class TrainBatches:
    """The endless training stream of an examples directory.

    Attributes:
        languages: the directory's languages; `language` of a batch indexes them.
        rates: share of each language; 0 for those that the mixture leaves out.
        batch_size: sequences a batch.
        inputs_length: encoder positions.
        targets_length: decoder positions.
        vocabulary_size: all ids, sentinels included.
    """

    def __init__(
        self,
        examples: str | Path,
        batch_size: int,
        seed: int = 0,
        mixture: Mixture | None = None,
        steps: int | None = None,
    ):
        """Open the directory.

        Args:
            examples: a finished examples directory.
            batch_size: sequences a batch.
            seed: of language order, record order and masks.
            mixture: how often each language comes; by default n ** 0.3 over all there are.
            steps: of the whole training; only a mixture with `max_epochs` needs it.

        Raises:
            UserError: the directory cannot be used, or a number is out of range.
        """
        _check_numbers(batch_size, seed)
        self._examples = opened = open_examples(examples)
        self.languages = opened.languages
        self.inputs_length = opened.lengths.inputs_length
        self.targets_length = opened.lengths.targets_length
        self.vocabulary_size = opened.vocabulary_size
        train = opened.sources["train"]
        rates = (mixture or Mixture()).rates(
            {lang: len(source) for lang, source in train.items()},
            None if steps is None else steps * batch_size,
        )
        self.rates = {lang: rates.get(lang, 0.0) for lang in self.languages}
        self._streams = [_Stream(opened, lang, seed) for lang in rates]
        self._order = MixtureOrder(rates, seed)
        self.batch_size = batch_size
        self._arguments = (examples, batch_size, seed, mixture, steps)

    def __reduce__(self) -> tuple[type["TrainBatches"], tuple[object, ...]]:
        """Another process opens the directory itself."""
        return TrainBatches, self._arguments

    def batch(self, step: int) -> Batch:
        """The batch of one step, the same whenever and wherever it is made.

        Raises:
            UserError: a record is damaged or does not suit the vocabulary.
        """
        first = step * self.batch_size
        places = map(self._order.__getitem__, range(first, first + self.batch_size))
        lengths = self._examples.lengths
        if self._examples.finished:
            examples = [self._streams[number].example(position) for number, position in places]
            return collate(examples, self.batch_size, lengths)
        segments = [self._streams[number].segment(position) for number, position in places]
        return corrupt_segments(segments, self.vocabulary_size, lengths)

    @property
    def dataset(self) -> "grain.MapDataset[Batch]":
        """The endless stream of batches for Grain: element `step` is `batch(step)`."""
        import grain

        return grain.MapDataset.source(_Batches(self))


class _Batches:
    """`TrainBatches` as a random-access source."""

    def __init__(self, batches: TrainBatches):
        self._batches = batches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Batch:
        return self._batches.batch(int(index))


def _check_numbers(batch_size: int, seed: int = 0) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1")
    if not 0 <= seed < 1 << _SEED_BITS:
        raise UserError(f"seed is {seed}: give 0 to {(1 << _SEED_BITS) - 1}")


class _Stream:
    """One language's endless stream of segments: order and masks change each epoch."""

    def __init__(self, examples: Examples, lang: str, seed: int):
        self._examples, self._seed = examples, seed
        self._source = examples.sources["train"][lang]
        self._key = stream_key(lang)
        self._number = examples.languages.index(lang)
        self._order = RecordOrder(len(self._source), seed, self._key)

    def segment(self, position: int) -> Segment:
        """A raw segment."""
        epoch, record = self._order[position]
        [tokens] = self._read(record, ("targets",))
        return tokens, ExampleKey(self._seed, self._key, record, epoch), self._number

    def example(self, position: int) -> Example:
        """An example that was finished when it was written."""
        inputs, targets = self._read(self._order[position][1], ("inputs", "targets"))
        return inputs, targets, self._number

    def _read(self, record: int, names: tuple[str, ...]) -> list[Tokens]:
        features = self._source.read(record, names)
        return [_tokens(features, name, self._source, record, self._examples) for name in names]


def _tokens(
    features: dict[str, Feature], name: str, source: RecordSource, index: int, examples: Examples
) -> Tokens:
    """A record's tokens, checked: they must be ids of the vocabulary and not too many."""
    values = features.get(name)
    longest = examples.lengths.raw_length
    highest = examples.vocabulary_size - (0 if "inputs" in features else SENTINELS)
    if (
        not isinstance(values, np.ndarray)
        or not 0 < values.size <= longest
        or values.min() < 0
        or values.max() >= highest
    ):
        raise UserError(
            f"{source}: record {index} does not hold 1 to {longest} ids below {highest} as "
            f"{name!r}: build the examples again"
        )
    return values.astype(np.int32)


class ValidationBatches:
    """Every frozen validation example once, in a fixed order: language, then document.

    The last batch is filled up with rows of weight 0, language -1 and no document. Batches also
    hold `document` (object array [B] of corpus ids) and `target_bytes` (int64 [B]).

    Attributes:
        languages: the directory's languages; `language` of a batch indexes them.
        inputs_length: encoder positions.
        targets_length: decoder positions.
        vocabulary_size: all ids, sentinels included.
    """

    def __init__(self, examples: str | Path, batch_size: int):
        """Open the directory.

        Raises:
            UserError: the directory cannot be used or has no validation examples.
        """
        _check_numbers(batch_size)
        self._examples = opened = open_examples(examples)
        self.batch_size = batch_size
        self.languages = opened.languages
        self.inputs_length = opened.lengths.inputs_length
        self.targets_length = opened.lengths.targets_length
        self.vocabulary_size = opened.vocabulary_size
        self._rows = [
            (lang, index)
            for lang, source in opened.sources["validation"].items()
            for index in range(len(source))
        ]
        if not self._rows:
            raise UserError(f"{examples} has no validation examples: build a corpus that has some")

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`.

        Raises:
            IndexError: there is no such batch.
            UserError: a record is damaged or does not suit the vocabulary.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        begin = number * self.batch_size
        rows = [self._read(*row) for row in self._rows[begin : begin + self.batch_size]]
        batch = collate(
            [example for example, _, _ in rows], self.batch_size, self._examples.lengths
        )
        missing = self.batch_size - len(rows)
        documents = [document for _, document, _ in rows] + [""] * missing
        batch["document"] = np.array(documents, object)
        batch["target_bytes"] = np.array([count for *_, count in rows] + [0] * missing, np.int64)
        return batch

    def _read(self, lang: str, index: int) -> tuple[Example, str, int]:
        source = self._examples.sources["validation"][lang]
        features = source[index]
        inputs = _tokens(features, "inputs", source, index, self._examples)
        targets = _tokens(features, "targets", source, index, self._examples)
        document, target_bytes = features["document"], features["target_bytes"]
        example = (inputs, targets, self.languages.index(lang))
        return example, document[0].decode(), int(target_bytes[0])
