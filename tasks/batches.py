"""Batches for training and evaluation, addressed by number; neither seqio nor TensorFlow.

A training batch is a pure function of (seed, step): any step of any run can be made at once, at
the same cost as the first, by any number of hosts. Language, record (`tasks.order`) and mask of an
example follow from its position alone.

`TrainBatches.iterate` is how training reads. `TrainBatches` is a random-access source too, so that
`grain.MapDataset.source(batches)` is the same stream: docs/decisions/0013.
"""

import functools
import itertools
import math
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.examples.span_corruption import ExampleKey, Tokens, stream_key
from tasks.collate import Batch, Example, Segment, collate, corrupt_segments, pack_rows
from tasks.examples import Examples, open_examples
from tasks.mixtures import Mixture
from tasks.order import ExampleOrder, MixtureOrder, RecordOrder
from tasks.prefetch import ahead

_SEED_BITS = 32


class TrainBatches:
    """The endless training stream of an examples directory, or one host's rows of it.

    The rows of all hosts, one after another, are the global batch. `batches[step]` is
    `batches.batch(step)`, and `len(batches)` the steps of the training.

    Attributes:
        languages: the directory's languages; `language` of a batch indexes them.
        rates: share of each language; 0 for those that the mixture leaves out.
        batch_size: examples a batch of all hosts together.
        rows: rows of this host's part, each of `pack` examples.
        inputs_length: encoder positions of a row.
        targets_length: decoder positions of a row.
        vocabulary_size: all ids, sentinels included.
    """

    def __init__(
        self,
        examples: str | Path,
        batch_size: int,
        seed: int = 0,
        mixture: Mixture | None = None,
        steps: int | None = None,
        *,
        host: int = 0,
        hosts: int = 1,
        pack: int = 1,
    ):
        """Open the directory.

        Args:
            examples: a finished examples directory.
            batch_size: examples a batch of all hosts together.
            seed: of language order, record order and masks.
            mixture: how often each language comes; by default n ** 0.3 over all there are.
            steps: of the whole training; only a mixture with `max_epochs` needs it.
            host: whose rows are made, from 0; in JAX, `jax.process_index()`.
            hosts: how many share a batch; in JAX, `jax.process_count()`.
            pack: neighbouring examples that share a row (`tasks.collate.pack_rows`). It changes
                the layout of a batch, never its examples.

        Raises:
            UserError: the directory cannot be used, or a number is out of range.
        """
        _check_numbers(batch_size, seed)
        _check_parts(batch_size, host, hosts, pack)
        self._examples = opened = open_examples(examples)
        self.languages = opened.languages
        self.inputs_length = pack * opened.lengths.inputs_length
        self.targets_length = pack * opened.lengths.targets_length
        self.vocabulary_size = opened.vocabulary_size
        train = opened.sources["train"]
        rates = (mixture or Mixture()).rates(
            {lang: len(source) for lang, source in train.items()},
            None if steps is None else steps * batch_size,
        )
        self.rates = {lang: rates.get(lang, 0.0) for lang in self.languages}
        self._streams = [_Stream(opened, lang, seed) for lang in rates]
        orders = [stream.order for stream in self._streams]
        self._order = ExampleOrder(MixtureOrder(rates, seed), orders)
        self.batch_size = batch_size
        self.rows = batch_size // hosts // pack
        self._pack = pack
        self._own = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self._steps = sys.maxsize if steps is None else steps
        self._reopen = functools.partial(
            TrainBatches,
            examples,
            batch_size,
            seed,
            mixture,
            steps,
            host=host,
            hosts=hosts,
            pack=pack,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the directory itself."""
        return self._reopen, ()

    def batch(self, step: int) -> Batch:
        """The rows of one step, the same whenever and wherever they are made.

        Raises:
            UserError: a record is damaged or does not suit the vocabulary.
        """
        order = (self._order[step * self.batch_size + example] for example in self._own)
        places = [(self._streams[number], epoch, record) for number, epoch, record in order]
        self._examples.preload((stream.source, record) for stream, _, record in places)
        if self._examples.finished:
            examples = [stream.example(record) for stream, _, record in places]
            batch = collate(examples, len(examples), self._examples.lengths)
        else:
            segments = [stream.segment(epoch, record) for stream, epoch, record in places]
            batch = corrupt_segments(segments, self.vocabulary_size, self._examples.noise)
        return batch if self._pack == 1 else pack_rows(batch, self._pack)

    def iterate(
        self, start: int = 0, *, prefetch: int = 2, workers: int = 1
    ) -> Generator[Batch, None, None]:
        """Batches from step `start` on, made ahead by threads; closing the iterator ends them.

        Neither number changes a batch or the order. One worker is enough for a disk; over an
        object store, several hide its latency.

        Args:
            start: the first step.
            prefetch: batches that wait; 0 makes each when it is asked for.
            workers: threads that make them.

        Raises:
            UserError: from the iterator, at the batch it concerns: a record is damaged or does not
                suit the vocabulary.
        """
        return ahead(self.batch, itertools.count(start), prefetch=prefetch, workers=workers)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """`batch(step)`, for Grain.

        Raises:
            IndexError: the training has no such step.
        """
        if not 0 <= step < self._steps:
            raise IndexError(step)
        return self.batch(int(step))


def _check_numbers(batch_size: int, seed: int = 0) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1")
    if not 0 <= seed < 1 << _SEED_BITS:
        raise UserError(f"seed is {seed}: give 0 to {(1 << _SEED_BITS) - 1}")


def _check_parts(batch_size: int, host: int, hosts: int, pack: int) -> None:
    if hosts < 1 or not 0 <= host < hosts:
        raise UserError(f"host is {host} of {hosts} hosts: give 0 to one less than hosts")
    if pack < 1:
        raise UserError(f"pack is {pack}: give at least 1")
    if batch_size % (hosts * pack):
        raise UserError(
            f"batch_size is {batch_size}: give a multiple of {hosts * pack}, as {hosts} hosts "
            f"share a batch and {pack} examples a row"
        )


class _Stream:
    """One language's endless stream: `order` says which record, and in which epoch.

    Attributes:
        source: the records.
        order: epoch and record by position; both order and masks change each epoch.
    """

    def __init__(self, examples: Examples, lang: str, seed: int):
        self._examples, self._seed = examples, seed
        self.source = examples.sources["train"][lang]
        self._key = stream_key(lang)
        self._number = examples.languages.index(lang)
        self.order = RecordOrder(len(self.source), seed, self._key, self.source.block_records)

    def segment(self, epoch: int, record: int) -> Segment:
        """A raw segment."""
        [tokens] = self._read(record, ("targets",))
        return tokens, ExampleKey(self._seed, self._key, record, epoch), self._number

    def example(self, record: int) -> Example:
        """An example that was finished when it was written."""
        inputs, targets = self._read(record, ("inputs", "targets"))
        return inputs, targets, self._number

    def _read(self, record: int, names: tuple[str, ...]) -> list[Tokens]:
        features = self.source.read(record, names)
        return [self._examples.tokens(self.source, record, features, name) for name in names]


class ValidationBatches:
    """Every frozen validation example once, each language spread over all batches.

    A batch of one language would crowd the experts that know it, where a router may drop no token.
    Examples are ordered by language and document, and batch k of n takes the k-th, the (k + n)-th
    and so on. Batches that are not full end with rows of weight 0, language -1 and no document.
    Batches also hold `document` (object array [B] of corpus ids) and `target_bytes` (int64 [B]).

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
        places = self._rows[number :: len(self)]
        sources = self._examples.sources["validation"]
        self._examples.preload((sources[lang], index) for lang, index in places)
        rows = [self._read(*row) for row in places]
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
        inputs = self._examples.tokens(source, index, features, "inputs")
        targets = self._examples.tokens(source, index, features, "targets")
        example = (inputs, targets, self.languages.index(lang))
        if self._examples.supervised:  # what a bootstrap draws, as it draws documents
            group, text = features["group"], features["targets_pretokenized"]
            return example, group[0].decode(), len(text[0])
        document, target_bytes = features["document"], features["target_bytes"]
        return example, document[0].decode(), int(target_bytes[0])
