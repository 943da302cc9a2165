"""The examples DAG on Beam: shards in, shards out."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from mswitch.pipelines import storage
from mswitch.pipelines.examples.shard_store import BeamJob, Shard, ShardStore, Write, write_and_note
from mswitch.pipelines.local_pool import available_cores, call
from mswitch.pipelines.progress import INTERVAL_SECS, say
from mswitch.pipelines.runners import run_pipeline


class WriteShards(beam.DoFn):
    """Writes each shard, in worker processes on the local runner."""

    def __init__(self, store: ShardStore, write: Write, total: int, noun: str):
        self.store, self.write, self.total, self.noun = store, write, total, noun
        # A bucket would be listed by each worker of an engine, which shows progress itself.
        self._says = not storage.is_remote(store.directory)
        self._said_at = 0.0

    def setup(self) -> None:
        """Begin to count the time between reports."""
        self._said_at = time.monotonic()

    def process(self, element: Any) -> Iterator[int]:  # a Shard: Beam cannot check a protocol
        """Write one shard and give its number of records."""
        yield call(write_and_note, element, self.store, self.write)
        if self._says and time.monotonic() - self._said_at >= INTERVAL_SECS:
            self._said_at = time.monotonic()
            say("examples", f"{self.store.count():,} of {self.total:,} {self.noun}")


def write_shards(
    shards: Sequence[Shard], total: int, store: ShardStore, write: Write, job: BeamJob
) -> None:
    """Run the DAG over `shards` (of `total`) and wait for its end; see `run_pipeline`."""
    # Large ones first: the last one to finish should not be the longest.
    ordered = sorted(shards, key=lambda shard: -shard.size_bytes)

    def build(root: beam.Pipeline) -> None:
        _ = (
            root
            | "Shards" >> beam.Create(ordered)
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(WriteShards(store, write, total, job.noun))
        )

    run_pipeline(
        build,
        job.runner,
        job.beam_options,
        job_name=job.name,
        directory=job.out,
        identity=job.identity,
        workers=min(len(shards), available_cores()),
    )
