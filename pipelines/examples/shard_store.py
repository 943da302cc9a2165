"""How a shard of examples is written and noted as done; without Beam."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import sentencepiece

from pipelines import storage
from pipelines.examples.shards import ExampleShard, ShardSettings, write_shard
from pipelines.faults import fault_point
from pipelines.vocabulary.model import load_vocabulary


@dataclasses.dataclass(frozen=True)
class ShardStore:
    """Where shards and the descriptions of finished ones lie.

    Attributes:
        directory: the examples directory that is being made.
        descriptions: one JSON file per finished shard.
    """

    directory: str
    descriptions: str

    def _description(self, shard: ExampleShard) -> str:
        return f"{shard.path}.json"

    def finished(self, shards: Sequence[ExampleShard]) -> list[dict[str, Any] | None]:
        """Return each shard's description if it is done and has the right size, else None."""
        noted, sizes = storage.file_sizes(self.descriptions), storage.file_sizes(self.directory)
        names = [name for name in map(self._description, shards) if name in noted]
        paths = [storage.join(self.descriptions, name) for name in names]
        found = dict(zip(names, storage.read_json_files(paths), strict=True))
        return [
            described
            if (described := found.get(self._description(shard)))
            and sizes.get(shard.path) == described["size_bytes"]
            else None
            for shard in shards
        ]

    def finish(self, shard: ExampleShard, description: dict[str, Any]) -> None:
        """Note that a shard is done, once it is in place."""
        path = storage.join(self.descriptions, self._description(shard))
        storage.make_directory(path.rpartition("/")[0])
        storage.write_json(path, description)

    def count(self) -> int:
        """How many shards are done."""
        return len(storage.file_sizes(self.descriptions))


@functools.lru_cache(maxsize=1)
def _vocabulary(model: str) -> sentencepiece.SentencePieceProcessor:
    """The vocabulary, loaded once in each process."""
    return load_vocabulary(model)


def write_and_note(
    shard: ExampleShard, store: ShardStore, model: str, settings: ShardSettings
) -> int:
    """Write a shard and give its number of records; twice gives the same bytes."""
    description = write_shard(shard, store.directory, _vocabulary(model), settings)
    fault_point("examples.before_description")
    store.finish(shard, description)
    fault_point("examples.after_shard")
    return description["records"]
