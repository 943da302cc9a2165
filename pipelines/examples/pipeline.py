"""The examples DAG on Beam: units in, shards out, a description of each finished shard kept."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import sentencepiece

from pipelines.examples.shards import ExampleUnit, ShardSettings, write_shard
from pipelines.faults import fault_point
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


class WriteShards(beam.DoFn):
    """Writes the shard of each unit; a repeated unit writes the same bytes again."""

    def __init__(self, store: UnitStore, model: str, settings: ShardSettings, total: int):
        self.store, self.model, self.settings, self.total = store, model, settings, total
        self._vocabulary: sentencepiece.SentencePieceProcessor | None = None
        self._said_at = 0.0

    def setup(self) -> None:
        """Load the vocabulary once for each worker."""
        self._vocabulary = load_vocabulary(self.model)
        self._said_at = time.monotonic()

    def process(self, element: ExampleUnit) -> Iterator[int]:
        """Write one shard and give its number of records."""
        assert self._vocabulary is not None
        description = write_shard(element, self.store.directory, self._vocabulary, self.settings)
        self.store.finish(element, description)
        fault_point("examples.after_shard")
        if time.monotonic() - self._said_at >= INTERVAL_SECS:
            self._said_at = time.monotonic()
            say("examples", f"{self.store.count():,} of {self.total:,} shards")
        yield description["records"]


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

    def build(root: beam.Pipeline) -> None:
        _ = (
            root
            | "Units" >> beam.Create(units)
            | "Spread units" >> beam.Reshuffle()
            | "Write shards" >> beam.ParDo(WriteShards(store, str(model), settings, total))
        )

    run_pipeline(build, runner, beam_options, job_name="mswitch-examples")
