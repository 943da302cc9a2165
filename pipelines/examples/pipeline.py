"""The examples DAG on Beam: units in, shards out, a description of each finished shard kept."""

import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import sentencepiece

from pipelines.examples.shards import ExampleUnit, ShardSettings, write_shard
from pipelines.faults import fault_point
from pipelines.local_pool import available_cores, call
from pipelines.outputs import write_json
from pipelines.progress import INTERVAL_SECS, say
from pipelines.runners import run_pipeline
from pipelines.vocabulary_model import load_vocabulary


@dataclasses.dataclass(frozen=True)
class UnitStore:
    """Where shards and the descriptions of finished ones lie.

    Attributes:
        directory: the examples directory that is being made.
        descriptions: one JSON file per finished unit.
    """

    directory: Path
    descriptions: Path

    def _description(self, unit: ExampleUnit) -> Path:
        return self.descriptions / f"{unit.path}.json"

    def finished(self, unit: ExampleUnit) -> dict[str, Any] | None:
        """The unit's description if it is done and its shard has the right size, else None."""
        path, shard = self._description(unit), self.directory / unit.path
        if not path.is_file() or not shard.is_file():
            return None
        described = json.loads(path.read_text())
        return described if shard.stat().st_size == described["size_bytes"] else None

    def finish(self, unit: ExampleUnit, description: dict[str, Any]) -> None:
        """Note that a unit is done, after its shard is in place."""
        path = self._description(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, description)

    def count(self) -> int:
        """How many units are done."""
        return sum(1 for _ in self.descriptions.glob("*/*.json"))


@functools.lru_cache(maxsize=1)
def _vocabulary(model: str) -> sentencepiece.SentencePieceProcessor:
    """The vocabulary, loaded once in each process."""
    return load_vocabulary(model)


def write_unit(unit: ExampleUnit, store: UnitStore, model: str, settings: ShardSettings) -> int:
    """Write the shard of a unit and give its number of records; twice gives the same bytes."""
    description = write_shard(unit, store.directory, _vocabulary(model), settings)
    store.finish(unit, description)
    fault_point("examples.after_shard")
    return description["records"]


class WriteShards(beam.DoFn):
    """Writes the shard of each unit, in worker processes on the local runner."""

    def __init__(self, store: UnitStore, model: str, settings: ShardSettings, total: int):
        self.store, self.model, self.settings, self.total = store, model, settings, total
        self._said_at = 0.0

    def setup(self) -> None:
        """Begin to count the time between reports."""
        self._said_at = time.monotonic()

    def process(self, element: ExampleUnit) -> Iterator[int]:
        """Write one shard and give its number of records."""
        yield call(write_unit, element, self.store, self.model, self.settings)
        if time.monotonic() - self._said_at >= INTERVAL_SECS:
            self._said_at = time.monotonic()
            say("examples", f"{self.store.count():,} of {self.total:,} shards")


def write_shards(
    units: Sequence[ExampleUnit],
    total: int,
    store: UnitStore,
    model: Path,
    settings: ShardSettings,
    runner: str,
    beam_options: Sequence[str],
) -> None:
    """Run the DAG over `units` (of `total`) and wait for its end."""
    # Large ones first: the last one to finish should not be the longest.
    ordered = sorted(units, key=lambda unit: -unit.corpus_shard.size_bytes)

    def build(root: beam.Pipeline) -> None:
        _ = (
            root
            | "Units" >> beam.Create(ordered)
            | "Spread units" >> beam.Reshuffle()
            | "Write shards" >> beam.ParDo(WriteShards(store, str(model), settings, total))
        )

    workers = min(len(units), available_cores())
    run_pipeline(build, runner, beam_options, job_name="mswitch-examples", workers=workers)
