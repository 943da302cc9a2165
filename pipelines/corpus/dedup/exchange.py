"""Base of deduplications over all shards: groups of shards exchange keys through files.

Neighbouring shards (input files) form groups, since small shards have few keys. A group writes the
sorted keys of its pages. Then each bucket of the key space is decided separately, from its range of
all groups' files. Finally, each group reads the decisions on its own keys.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.key_files import MOST_SORTING_BYTES, SORTING_BYTES, read_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.file_tasks import Tasks
from mswitch.pipelines.outputs import config_hash

#: Minimum number of groups, so that workers can share the groups. Fewer shards form fewer groups.
_LEAST_GROUPS = 64


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of consecutive shards.

    Attributes:
        number: number of the group.
        shards: numbers of its shards.
        pages: number of pages.
        lines: number of lines with keys.
    """

    number: int
    shards: range
    pages: int
    lines: int


def group_shards(
    pages: Sequence[int], lines: Sequence[int], keys: Sequence[int], sorting_bytes: int
) -> list[Group]:
    """Combine shards into groups, given each shard's pages, lines and maximum number of keys.

    The keys of a group can be sorted in `sorting_bytes`, unless the group is a single large shard.
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


def fix_groups(work: WorkDirectory, make: Callable[[], list[Group]]) -> list[Group]:
    """Return the build's groups; call `make` only if no earlier run stored them."""
    # Files and notes are named by group number. After a kill, another runner or version of mswitch
    # would make other groups.
    path = storage.join(work.root, "groups.json")
    if not storage.exists(path):
        storage.write_json(path, _pack(make()), scratch=True)
    return _unpack(storage.read_json(path))


def _pack(groups: Sequence[Group]) -> list[list[int]]:
    return [[group.shards.start, group.shards.stop, group.pages, group.lines] for group in groups]


def _unpack(rows: Sequence[Sequence[int]]) -> list[Group]:
    return [
        Group(number, range(start, stop), pages, lines)
        for number, (start, stop, pages, lines) in enumerate(rows)
    ]


def write_groups(work: WorkDirectory, groups: Sequence[Group], known: Mapping[str, Any]) -> str:
    """Write a JSON file of shard groups and key file paths for workers; return the file's path.

    Workers read this file, because the groups could be too large for the job sent to them.
    `known` has the files with keys of the corpus to add to, by `Dedup.kind`; these keys always win.
    """
    shared = {"groups": _pack(groups), "known": dict(known)}
    # Workers may outlive a build and cache this file, so the hash gives each build's file its own
    # name.
    path = storage.join(work.root, f"groups-{config_hash('groups', shared)}.json")
    storage.write_json(path, shared, scratch=True)
    return path


@functools.lru_cache(maxsize=1)
def _read_groups(path: str) -> tuple[list[Group], dict[str, list[str]]]:
    shared = storage.read_json(path)
    return _unpack(shared["groups"]), shared["known"]


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A deduplication over the shards of a work directory.

    Attributes:
        step: the deduplication.
        work: the work directory with the shards.
        shared: file with the groups (`write_groups`).
        bits: the key space has 2**bits buckets; one is in memory at a time.
        before: earlier deduplications; pages that they drop are ignored.
        sorting_bytes: maximum bytes to sort at once.
    """

    step: Any
    work: WorkDirectory
    shared: str
    bits: int = 0
    before: Sequence["Exchange"] = ()
    sorting_bytes: int = MOST_SORTING_BYTES

    @property
    def groups(self) -> list[Group]:
        """Groups of shards."""
        return _read_groups(self.shared)[0]

    def make_lists(self) -> list[Tasks]:
        """Return lists of tasks, to run one list after the other."""
        raise NotImplementedError

    def read_stays(self, group: Group) -> np.ndarray:
        """Return whether each page of a group stays: bool [pages]."""
        raise NotImplementedError

    def read_choices(self, group: Group, lines: np.ndarray) -> Any:
        """Return the deduplication's decision on each page of some shards, for `Dedup.reasons`.

        `lines` has the number of lines with keys of each page: int64 [pages].
        """
        raise NotImplementedError

    def count_shuffled_bytes(self, known_keys: int) -> int:
        """Return the bytes that are shuffled if the existing corpus has `known_keys` keys."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Short name of the deduplication, with which its task names begin, such as `url`."""
        return self.step.name.removesuffix("_dedup")

    def directory(self, title: str) -> str:
        """Return the directory for the files and notes of a list of tasks."""
        return storage.join(self.work.root, f"{self.name}_{title}")

    def file(self, title: str, number: int, suffix: str) -> str:
        """Return the path of the file that task `number` of task list `title` writes."""
        return storage.join(self.directory(title), f"{number:06d}.{suffix}")

    def tasks(self, title: str, function: Any, count: int) -> Tasks:
        """Return a list of `count` tasks, numbered from 0."""
        return Tasks(f"{self.name} {title}", function, range(count), self.directory(title))

    def notes(self, title: str, name: str, count: int) -> int:
        """Add up the number `name` in the results of all tasks of the task list `title`."""
        return sum(note[name] for note in self.tasks(title, None, count).read())

    def find_pages_before(self, group: Group) -> np.ndarray:
        """Return whether each page passed all deduplications before this one: bool [pages]."""
        come = np.ones(group.pages, bool)
        for other in self.before:
            come &= other.read_stays(group)
        return come

    def read_tables(self, group: Group, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the stored pages of a group of shards, one Parquet row group at a time."""
        for shard in group.shards:
            with storage.fetch(self.work.pages(shard)) as path, pq.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number, columns=list(columns))

    def read_bucket(self, number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the keys of a bucket: one list for the existing corpus, one for the shard groups.

        Ranks and page of a key of the existing corpus are zeros, so that this key wins.
        """
        width = self.step.width
        files = _read_groups(self.shared)[1].get(self.step.kind, ())
        known = [read_keys(path, 2, self.bits, number) for path in files]
        padded = [np.pad(keys, ((0, 0), (0, width - 2))) for keys in known]
        files = [self.file("keys", group.number, "keys") for group in self.groups]
        return padded, [read_keys(path, width, self.bits, number) for path in files]
