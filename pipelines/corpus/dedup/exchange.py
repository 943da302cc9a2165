"""What deduplications over all shards have in common: groups of shards exchange keys by files.

Shards (input files) are taken in groups of neighbours, for tiny ones have few keys each. A group
writes the keys of its pages, sorted; each bucket of the key space is then decided by itself, from
its range of all groups' files; and each group reads back the decisions on its own keys.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.key_files import MOST_SORTING_BYTES, SORTING_BYTES, read_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.file_tasks import Tasks
from mswitch.pipelines.outputs import config_hash

#: Shards are joined to no fewer groups than this, where there are as many: for workers to share.
_LEAST_GROUPS = 64


@dataclasses.dataclass(frozen=True)
class Group:
    """Some consecutive shards.

    Attributes:
        number: of the group.
        shards: their numbers.
        pages: how many pages they have.
        lines: how many of their lines have keys.
    """

    number: int
    shards: range
    pages: int
    lines: int


def group_shards(
    pages: Sequence[int], lines: Sequence[int], keys: Sequence[int], sorting_bytes: int
) -> list[Group]:
    """Join shards to groups, by how many pages, lines and keys each has at most.

    The keys of a group are sorted in so many bytes at once, but those of one large shard.
    """
    most = min(sorting_bytes // SORTING_BYTES, sum(keys) // _LEAST_GROUPS)
    groups: list[Group] = []
    start = size = 0
    for shard, count in enumerate([*keys, most + 1]):
        if shard > start and size + count > most:
            of = slice(start, shard)
            shards = range(start, shard)
            groups.append(Group(len(groups), shards, sum(pages[of]), sum(lines[of])))
            start, size = shard, 0
        size += count
    return groups


def write_groups(work: WorkDirectory, groups: Sequence[Group], known: Mapping[str, Any]) -> str:
    """Write a file with what all exchanges share: in the job itself it could be too large for one.

    Known by `Dedup.kind` are the files of keys that come before all others: those of a corpus that
    is added to. Returns its path.
    """
    rows = [[one.shards.start, one.shards.stop, one.pages, one.lines] for one in groups]
    shared = {"groups": rows, "known": dict(known)}
    # Workers that outlive a build keep what they read: another build has another name.
    path = storage.join(work.root, f"groups-{config_hash('groups', shared)}.json")
    storage.write_json(path, shared, scratch=True)
    return path


@functools.lru_cache(maxsize=1)
def _read_groups(path: str) -> tuple[list[Group], dict[str, list[str]]]:
    found = storage.read_json(path)
    return [
        Group(number, range(start, stop), pages, lines)
        for number, (start, stop, pages, lines) in enumerate(found["groups"])
    ], found["known"]


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One deduplication over the shards of a work directory.

    Attributes:
        step: the deduplication.
        work: where the shards are.
        shared: the file that says how they are grouped (`write_groups`).
        bits: the key space is cut into 2**bits buckets, one in memory at a time.
        before: the deduplications before; pages that these drop take no part.
        sorting_bytes: what may be sorted at once.
    """

    step: Any
    work: WorkDirectory
    shared: str
    bits: int = 0
    before: Sequence["Exchange"] = ()
    sorting_bytes: int = MOST_SORTING_BYTES

    @property
    def groups(self) -> list[Group]:
        """How shards are joined."""
        return _read_groups(self.shared)[0]

    def lists(self) -> list[Tasks]:
        """What is to be done, one list after the other."""
        raise NotImplementedError

    def stays(self, group: Group) -> np.ndarray:
        """Return which pages of a group stay: bool [pages]."""
        raise NotImplementedError

    def chosen(self, group: Group, lines: np.ndarray) -> Any:
        """Return what was chosen for each page of a group, as `Dedup.reasons` takes it.

        Args:
            group: some shards.
            lines: int64 [pages] how many lines of each page have keys.
        """
        raise NotImplementedError

    def shuffled_bytes(self, known_keys: int) -> int:
        """Return how many bytes were exchanged, with those of so many known keys."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What its lists are called by."""
        return self.step.name.removesuffix("_dedup")

    def directory(self, what: str) -> str:
        """Where a list leaves its files and notes."""
        return storage.join(self.work.root, f"{self.name}_{what}")

    def file(self, what: str, number: int, suffix: str) -> str:
        """A file that a task of a list leaves."""
        return storage.join(self.directory(what), f"{number:06d}.{suffix}")

    def tasks(self, what: str, function: Any, count: int) -> Tasks:
        """Return a list of tasks by numbers."""
        return Tasks(f"{self.name} {what}", function, range(count), self.directory(what))

    def notes(self, what: str, name: str, count: int) -> int:
        """Add up what the tasks of a list noted."""
        return sum(note[name] for note in self.tasks(what, None, count).read())

    def pages_before(self, group: Group) -> np.ndarray:
        """Return which pages come to this deduplication: bool [pages]."""
        come = np.ones(group.pages, bool)
        for other in self.before:
            come &= other.stays(group)
        return come

    def tables(self, group: Group, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield a group's stored pages, some at a time."""
        for shard in group.shards:
            with storage.fetch(self.work.pages(shard)) as path, pq.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number, columns=list(columns))

    def bucket(self, number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the known keys and the keys of each group in a bucket.

        A known key is followed by zeros: no rank, and no page, is smaller.
        """
        width = self.step.width
        files = _read_groups(self.shared)[1].get(self.step.kind, ())
        known = [read_keys(path, 2, self.bits, number) for path in files]
        padded = [np.pad(keys, ((0, 0), (0, width - 2))) for keys in known]
        files = [self.file("keys", group.number, "keys") for group in self.groups]
        return padded, [read_keys(path, width, self.bits, number) for path in files]
