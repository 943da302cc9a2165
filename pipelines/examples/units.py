"""What workers do for one unit of examples, and how a unit is noted as done; without Beam."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import sentencepiece

from pipelines import storage
from pipelines.examples.shards import ExampleUnit, ShardSettings, write_shard
from pipelines.faults import fault_point
from pipelines.vocabulary_model import load_vocabulary


@dataclasses.dataclass(frozen=True)
class UnitStore:
    """Where shards and the descriptions of finished ones lie.

    Attributes:
        directory: the examples directory that is being made.
        descriptions: one JSON file per finished unit.
    """

    directory: str
    descriptions: str

    def _description(self, unit: ExampleUnit) -> str:
        return f"{unit.path}.json"

    def finished(self, units: Sequence[ExampleUnit]) -> list[dict[str, Any] | None]:
        """Each unit's description if it is done and its shard has the right size, else None."""
        noted, shards = storage.file_sizes(self.descriptions), storage.file_sizes(self.directory)
        names = [name for name in map(self._description, units) if name in noted]
        paths = [storage.join(self.descriptions, name) for name in names]
        found = dict(zip(names, storage.read_json_files(paths), strict=True))
        return [
            described
            if (described := found.get(self._description(unit)))
            and shards.get(unit.path) == described["size_bytes"]
            else None
            for unit in units
        ]

    def finish(self, unit: ExampleUnit, description: dict[str, Any]) -> None:
        """Note that a unit is done, after its shard is in place."""
        path = storage.join(self.descriptions, self._description(unit))
        storage.make_directory(path.rpartition("/")[0])
        storage.write_json(path, description)

    def count(self) -> int:
        """How many units are done."""
        return len(storage.file_sizes(self.descriptions))


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
