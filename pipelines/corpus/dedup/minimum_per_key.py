"""Exact deduplication, of URLs and of lines.

A group of shards has one candidate for each of its keys. No text moves; a group gets back one bit
per candidate.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.exchange import Exchange, Group
from mswitch.pipelines.corpus.dedup.key_files import (
    choose_best_rows,
    count_rows_before,
    in_key_order,
    write_keys,
)
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.file_tasks import Tasks


@dataclasses.dataclass(frozen=True)
class MinimumPerKey(Exchange):
    """Exact deduplication: of pages with one URL, or equal lines, keep the first-ranked one."""

    def make_lists(self) -> list[Tasks]:
        return [
            self.tasks("keys", self.write_candidates, len(self.groups)),
            self.tasks("choice", self.choose, 1 << self.bits),
        ]

    def write_candidates(self, number: int) -> dict[str, int]:
        """Write the sorted keys of a group of shards, and the page or line of each key."""
        group = self.groups[number]
        rows = self.step.candidates(group.pages, group.lines)
        read = partial(self._candidates, group, self.find_pages_before(group))
        with (
            storage.publish(self.file("keys", number, "places")) as temporary,
            open(temporary, "wb") as places,
        ):

            def candidates() -> Iterator[np.ndarray]:
                width = self.step.width + 1
                for part in in_key_order(read, width, rows, choose_best_rows, self.sorting_bytes):
                    places.write(np.ascontiguousarray(part[:, -1]).data)
                    yield part[:, :-1]

            path = self.file("keys", number, "keys")
            return {"rows": write_keys(path, candidates(), rows, self.bits)}

    def _candidates(self, group: Group, come: np.ndarray) -> Iterator[np.ndarray]:
        """Yield a row for each page or line: key, ranks (smallest win), position in the group."""
        page = place = 0
        for table in self.read_tables(group, self.step.reads):
            come_in_table = come[page : page + len(table)]
            candidates, positions, places = self.step.candidates_in(table, come_in_table)
            yield np.column_stack([candidates, (positions + place).astype(np.uint64)])
            page += len(table)
            place += places

    def choose(self, number: int) -> dict[str, Any]:
        """For a range of keys, write a bit for each page or line: whether deduplication keeps it.

        The file has the bounds of each group's bits, int64 [groups + 1], then the bits.
        """
        known, parts = self.read_bucket(number)
        candidates = np.concatenate([*known, *parts])
        smallest = np.zeros(len(candidates), bool)
        smallest[choose_best_rows(candidates)] = True
        ends = np.cumsum([sum(map(len, known)), *map(len, parts)])
        packed = [np.packbits(part).tobytes() for part in np.split(smallest, ends)[1:-1]]
        places = np.cumsum([8 * (len(packed) + 1), *map(len, packed)])
        with storage.publish(self.file("choice", number, "bits")) as temporary:
            temporary.write_bytes(b"".join([places.tobytes(), *packed]))
        return {}

    def selected(self, group: Group, size: int) -> np.ndarray:
        """Return whether each page or line of a group ranks first for its key: bool [size]."""
        before = count_rows_before(self.file("keys", group.number, "keys"), self.bits)
        bits = []
        for bucket, count in enumerate(np.diff(before).tolist()):
            if count:
                path = self.file("choice", bucket, "bits")
                at = storage.read_range(path, 8 * group.number, 8 * group.number + 16)
                packed = storage.read_range(path, *np.frombuffer(at, np.int64).tolist())
                bits.append(np.unpackbits(np.frombuffer(packed, np.uint8), count=count))
        places = storage.read_bytes(self.file("keys", group.number, "places"))
        selected = np.zeros(size, bool)
        if bits:
            selected[np.frombuffer(places, np.int64)[np.concatenate(bits).view(bool)]] = True
        return selected

    def read_stays(self, group: Group) -> np.ndarray:
        return self.selected(group, group.pages)

    def read_choices(self, group: Group, lines: np.ndarray) -> Any:
        if isinstance(self.step, UrlDedup):
            return self.read_stays(group).tolist()
        return np.split(self.selected(group, group.lines), np.cumsum(lines)[:-1])

    def count_shuffled_bytes(self, known_keys: int) -> int:
        # Each key goes to one bucket, so the number of buckets does not change the sum of bytes.
        rows = self.notes("keys", "rows", len(self.groups))
        return (rows + known_keys) * self.step.width * 8 + math.ceil(rows / 8)
