"""Batches for training, addressed by number.

A batch is a pure function of (seed, step). Any number of hosts can make any step of any run
directly, as fast as the first. Task, language, record (`mswitch.tasks.batches.order`) and mask of
an example follow only from its position.

Batches are also random-access sources: `grain.MapDataset.source(batches)` is the same stream
(docs/decisions/0013).
"""

import functools
import itertools
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths, hash_stream
from mswitch.pipelines.outputs import config_hash
from mswitch.tasks.batches.collate import (
    Batch,
    make_blank,
    pack_into,
    pack_rows,
    put_examples,
    put_segments,
)
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import ALONE, TaskMixture, WeightedTask, name_leaf
from mswitch.tasks.batches.order import MixtureOrder
from mswitch.tasks.batches.prefetch import make_ahead
from mswitch.tasks.batches.streams import Stream, convert_rates, open_tasks

_SEED_BITS = 32
Pack = int | Literal["next-fit"]


class TaskBatches:
    """The endless training stream of a mixture of tasks, or one host's rows of this stream.

    The rows of all hosts, one after another, are the global batch. `batches[step]` is
    `batches.batch(step)`, and `len(batches)` the steps of the training. Examples are padded to the
    largest lengths of any task.

    Attributes:
        mixture: the tasks.
        opened: their examples, by name.
        languages: leaves: the languages of all tasks; `language` of a batch indexes them.
        rates: share of each leaf; 0 if the mixture leaves it out.
        batch_size: examples per batch of all hosts together.
        rows: rows of this host's part, each of `pack` examples.
        inputs_length: encoder positions of a row.
        targets_length: decoder positions of a row.
        vocabulary_size: number of all ids, including sentinels.
    """

    def __init__(
        self,
        mixture: TaskMixture,
        batch_size: int,
        seed: int = 0,
        steps: int | None = None,
        *,
        host: int = 0,
        hosts: int = 1,
        pack: Pack = 1,
    ):
        """Open the examples directories of all tasks.

        Args:
            mixture: the tasks.
            batch_size: examples per batch of all hosts together; rows, with `next-fit`.
            seed: seed of the order of leaves and records, and of masks.
            steps: steps of the whole training; only a mixture with `max_epochs` needs them.
            host: number of this host, from 0; in JAX, `jax.process_index()`.
            hosts: number of hosts that share a batch; in JAX, `jax.process_count()`.
            pack: neighbouring examples that share a row (`collate.pack_rows`), which changes the
                layout of a batch, never its examples; or `next-fit`, as many examples of a leaf as
                fit into the positions of one (`packing`).
        """
        per_row = pack if isinstance(pack, int) else 1
        _check(batch_size, seed, host, hosts, per_row)
        self.mixture = mixture
        self.opened = opened = open_tasks(mixture)
        self.vocabulary_size = next(iter(opened.values())).vocabulary_size
        self._lengths = Lengths(
            max(examples.lengths.inputs_length for examples in opened.values()),
            max(examples.lengths.targets_length for examples in opened.values()),
        )
        self.inputs_length = per_row * self._lengths.inputs_length
        self.targets_length = per_row * self._lengths.targets_length
        leaves = {
            name_leaf(task, lang): (examples, lang)
            for task, examples in opened.items()
            for lang in examples.languages
        }
        self.languages = tuple(leaves)
        rates = mixture.rates(self.records, None if steps is None else steps * batch_size)
        self.rates = {leaf: rates.get(leaf, 0.0) for leaf in leaves}
        room = None if isinstance(pack, int) else self._lengths
        self._streams = [
            Stream(*leaves[leaf], self.languages.index(leaf), hash_stream(leaf), seed, room)
            for leaf in rates
        ]
        if room is not None:
            rates = convert_rates(rates, [stream.row_examples for stream in self._streams])
            if any(task.mixture.max_epochs for task in mixture.tasks.values()):
                raise UserError("--pack next-fit and a mixture with max_epochs: leave one out")
        self._mixture_order = MixtureOrder(rates, seed)
        self.batch_size = batch_size
        self.rows = batch_size // hosts // per_row
        self._pack = pack
        self._own = range(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self._steps = sys.maxsize if steps is None else steps
        self._reopen = functools.partial(
            TaskBatches, mixture, batch_size, seed, steps, host=host, hosts=hosts, pack=pack
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the arguments, so that another process opens the directories itself."""
        return self._reopen, ()

    @property
    def records(self) -> dict[str, dict[str, int]]:
        """Number of training examples, by task and language."""
        return {
            task: {lang: len(source) for lang, source in examples.sources["train"].items()}
            for task, examples in self.opened.items()
        }

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """Manifest entries on the training examples, by task and language."""
        return {
            name_leaf(task, lang): splits.get("train", {})
            for task, examples in self.opened.items()
            for lang, splits in sorted(examples.manifest["languages"].items())
        }

    @property
    def directories(self) -> dict[str, str]:
        """Directory of each task's examples, supervised ones first."""
        ordered = sorted(self.opened.items(), key=lambda item: not item[1].supervised)
        return {name: examples.directory for name, examples in ordered}

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of examples: `config_hash`, `vocabulary_sha256` and, for named tasks, `tasks`."""
        hashes = {name: examples.manifest["config_hash"] for name, examples in self.opened.items()}
        vocabulary = next(iter(self.opened.values())).manifest["vocabulary_sha256"]
        if ALONE in hashes:
            return {"config_hash": hashes[ALONE], "vocabulary_sha256": vocabulary}
        together = config_hash("tasks", hashes)
        return {"config_hash": together, "vocabulary_sha256": vocabulary, "tasks": hashes}

    def batch(self, step: int) -> Batch:
        """Make the rows of one step, the same whenever and wherever they are made."""
        order = (self._mixture_order[step * self.batch_size + number] for number in self._own)
        streams = [(self._streams[number], place) for number, place in order]
        places = [(stream, *stream.order[place]) for stream, place in streams]
        counts = []
        if not isinstance(self._pack, int):
            rows = [(stream, epoch, stream.records(row)) for stream, epoch, row in places]
            counts = [len(records) for _, _, records in rows]
            places = [(stream, epoch, n) for stream, epoch, records in rows for n in records]
        batch = make_blank(len(places), self._lengths)
        for examples in self.opened.values():
            numbers = [n for n, place in enumerate(places) if place[0].examples is examples]
            own = [places[n] for n in numbers]
            examples.preload((stream.source, record) for stream, _, record in own)
            if examples.finished:
                put_examples(batch, numbers, (stream.example(record) for stream, _, record in own))
            else:
                segments = [stream.segment(epoch, record) for stream, epoch, record in own]
                put_segments(batch, numbers, segments, self.vocabulary_size, examples.noise)
        if not isinstance(self._pack, int):
            return pack_into(batch, counts, self._lengths)
        return batch if self._pack == 1 else pack_rows(batch, self._pack)

    def iterate(
        self, start: int = 0, *, prefetch: int = 2, workers: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield batches from step `start` on, made ahead by threads until the iterator is closed.

        Neither `prefetch` nor `workers` changes a batch or the order. One worker is enough for a
        disk; several hide the latency of an object store.

        Args:
            start: the first step.
            prefetch: number of batches that wait; 0 makes each on request.
            workers: number of threads that make them.
        """
        return make_ahead(self.batch, itertools.count(start), prefetch=prefetch, workers=workers)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """Return `batch(step)`, for Grain; raise an IndexError if the training has no such step."""
        if not 0 <= step < self._steps:
            raise IndexError(step)
        return self.batch(int(step))


class TrainBatches(TaskBatches):
    """Training batches from one examples directory, which mix its languages."""

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
        pack: Pack = 1,
    ):
        """Open a finished examples directory; other arguments are as in `TaskBatches`.

        By default, all languages are mixed at n ** 0.3.
        """
        alone = TaskMixture({ALONE: WeightedTask(str(examples), mixture=mixture or Mixture())})
        super().__init__(alone, batch_size, seed, steps, host=host, hosts=hosts, pack=pack)


def _check(batch_size: int, seed: int, host: int, hosts: int, pack: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1")
    if not 0 <= seed < 1 << _SEED_BITS:
        raise UserError(f"seed is {seed}: give 0 to {(1 << _SEED_BITS) - 1}")
    if hosts < 1 or not 0 <= host < hosts:
        raise UserError(f"host is {host} of {hosts} hosts: give 0 to one less than hosts")
    if pack < 1:
        raise UserError(f"pack is {pack}: give at least 1")
    if batch_size % (hosts * pack):
        raise UserError(
            f"batch_size is {batch_size}: give a multiple of {hosts * pack}, since {hosts} hosts "
            f"share a batch and {pack} examples a row"
        )
