"""How shards are written and noted as done; without Beam."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mswitch.pipelines import storage
from mswitch.pipelines.faults import fault_point


class Shard(Protocol):
    """One file to write, relative to its directory, and the bytes that it is made from."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102


#: Writes a shard below a directory and returns its description, with `records` and `size_bytes`.
Write = Callable[[Any, str], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class BeamJob:
    """Where shards are written.

    Attributes:
        name: of the job on an engine.
        noun: what people call what it writes.
        identity: of the output.
        out: the output, by which its jobs are found and cancelled.
        runner: see `mswitch.pipelines.runners`.
        beam_options: Beam's own options.
    """

    name: str
    noun: str
    identity: str
    out: str
    runner: str
    beam_options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ShardStore:
    """Where shards and the descriptions of finished ones lie.

    Attributes:
        directory: the examples directory that is being made.
        descriptions: one JSON file per finished shard.
    """

    directory: str
    descriptions: str

    def _description(self, shard: Shard) -> str:
        return f"{shard.path}.json"

    def finished(self, shards: Sequence[Shard]) -> list[dict[str, Any] | None]:
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

    def finish(self, shard: Shard, description: dict[str, Any]) -> None:
        """Note that a shard is done, once it is in place."""
        path = storage.join(self.descriptions, self._description(shard))
        storage.make_directory(path.rpartition("/")[0])
        storage.write_json(path, description)

    def count(self) -> int:
        """How many shards are done."""
        return len(storage.file_sizes(self.descriptions))


def write_and_note(shard: Shard, store: ShardStore, write: Write) -> int:
    """Write a shard and give its number of records; twice gives the same bytes."""
    description = write(shard, store.directory)
    fault_point("examples.before_description")
    store.finish(shard, description)
    fault_point("examples.after_shard")
    return description["records"]
