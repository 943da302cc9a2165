"""What workers do for one unit of examples, and how a unit is noted as done; without Beam."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import sentencepiece

from pipelines.examples.shards import ExampleUnit, ShardSettings, write_shard
from pipelines.faults import fault_point
from pipelines.outputs import write_json
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
    fault_point("examples.before_description")
    store.finish(unit, description)
    fault_point("examples.after_shard")
    return description["records"]
