"""Gathers documents into output shards on an engine. No other step shuffles text.

Batches of documents are shuffled to their shard. If each worker read its pieces from storage
instead, a large corpus would need millions of requests.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.output_shards import (
    Places,
    ShardSpec,
    cut_run,
    open_run,
    write_documents,
)
from mswitch.pipelines.file_tasks import Tasks, do_task, name_note


def shuffle_documents(
    root: beam.Pipeline, tasks: Tasks, *, finished: Tasks, directory: str, job: Job
) -> Any:
    """Write the output shards (`ShardSpec`s) of `finished` groups; return the shards' numbers."""
    specs = {number: tasks.items[number] for number in tasks.todo()}
    cut = (
        root
        | "Groups" >> beam.Create(range(len(finished.items)))
        | "SpreadGroups" >> beam.Reshuffle()
        | "CutRun" >> beam.FlatMap(_cut, specs=specs, finished=finished.notes, job=job)
    )
    # Create an empty entry for each shard, because a shard may get no document.
    empty = root | "Shards" >> beam.Create([(number, b"") for number in specs])
    write = partial(_write, specs=specs, directory=directory, job=job)
    own = dataclasses.replace(tasks, function=write, items=(), on_engine=None)
    return (
        (cut, empty)
        | "AllDocuments" >> beam.Flatten()
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.Map(_do, own)
    )


def _do(numbered: tuple[int, Iterable[bytes]], tasks: Tasks) -> int:
    return do_task((numbered[0], numbered), tasks, "corpus")


def _cut(
    group: int, specs: dict[int, ShardSpec], finished: str, job: Job
) -> Iterator[tuple[int, bytes]]:
    """Yield a group's documents in batches of Arrow IPC, each with the number of its shard."""
    wanted: dict[str, dict[int, ShardSpec]] = collections.defaultdict(dict)
    for number, spec in specs.items():
        wanted[spec.lang][number] = spec
    languages = storage.read_json(storage.join(finished, name_note(group)))["languages"]
    with open_run(group, job.work) as run:
        for lang in sorted(wanted.keys() & languages.keys()):
            moved = next(iter(wanted[lang].values())).moved
            for rows in cut_run(run, languages[lang]["pieces"]):
                places = Places(rows, moved, job.config)
                for number, spec in wanted[lang].items():
                    if len(chosen := places.select(spec)):
                        yield number, _serialize(rows.take(pa.array(chosen)))


def _serialize(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _write(
    numbered: tuple[int, Iterable[bytes]], specs: dict[int, ShardSpec], directory: str, job: Job
) -> dict[str, Any]:
    number, messages = numbered
    batches = [batch for message in messages if message for batch in pa.ipc.open_stream(message)]
    return write_documents(specs[number], batches, directory, job)
