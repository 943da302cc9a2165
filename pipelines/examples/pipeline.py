"""The examples DAG on Beam: shards in, shards out."""

import time
from collections.abc import Iterator, Sequence

import apache_beam as beam

from pipelines import storage
from pipelines.examples.shard_store import ShardStore, write_and_note
from pipelines.examples.shards import ExampleShard, ShardSettings
from pipelines.local_pool import available_cores, call
from pipelines.progress import INTERVAL_SECS, say
from pipelines.runners import run_pipeline


class WriteShards(beam.DoFn):
    """Writes the shard of each shard, in worker processes on the local runner."""

    def __init__(self, store: ShardStore, model: str, settings: ShardSettings, total: int):
        self.store, self.model, self.settings, self.total = store, model, settings, total
        # A bucket would be listed by each worker of an engine, which shows progress itself.
        self._says = not storage.is_remote(store.directory)
        self._said_at = 0.0

    def setup(self) -> None:
        """Begin to count the time between reports."""
        self._said_at = time.monotonic()

    def process(self, element: ExampleShard) -> Iterator[int]:
        """Write one shard and give its number of records."""
        yield call(write_and_note, element, self.store, self.model, self.settings)
        if self._says and time.monotonic() - self._said_at >= INTERVAL_SECS:
            self._said_at = time.monotonic()
            say("examples", f"{self.store.count():,} of {self.total:,} shards")


def write_shards(
    shards: Sequence[ExampleShard],
    total: int,
    store: ShardStore,
    model: str,
    settings: ShardSettings,
    identity: str,
    runner: str,
    beam_options: Sequence[str],
) -> None:
    """Run the DAG over `shards` (of `total`) and wait for its end; see `run_pipeline`."""
    # Large ones first: the last one to finish should not be the longest.
    ordered = sorted(shards, key=lambda shard: -shard.corpus_shard.size_bytes)

    def build(root: beam.Pipeline) -> None:
        _ = (
            root
            | "Shards" >> beam.Create(ordered)
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(WriteShards(store, model, settings, total))
        )

    run_pipeline(
        build,
        runner,
        beam_options,
        job_name="mswitch-examples",
        directory=store.directory,
        identity=identity,
        workers=min(len(shards), available_cores()),
    )
