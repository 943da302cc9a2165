"""Clusters near-duplicate pages in languages with too many matching pairs for one worker.

Matches are edges between pages. A round is two lists of file tasks, small-star and large-star
(Kiveris et al., "Connected Components in MapReduce and Beyond", 2014). Rounds turn edges into
stars: every page of a component is joined to the smallest one. A task has the pages of one part in
memory, and reads their edges piece by piece. Then the best page of each star is chosen, first in
each group of shards, then among the groups.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.exchange import Exchange
from mswitch.pipelines.corpus.dedup.key_files import (
    choose_bits,
    in_key_order,
    read_keys,
    write_keys,
)
from mswitch.pipelines.file_tasks import Tasks

#: Maximum number of near-duplicate pairs of a language that one worker holds in memory.
LARGE_PAIRS = 10_000_000
#: Number of steps (small-star or large-star) that many workers share. The first and the last are
#: small-star steps. One worker does any later steps.
_STEPS = 17
#: Page numbers are split into parts of about `_PART_BYTES` bytes, but into at most
#: 2**`_MOST_PART_BITS` parts.
_PART_BYTES, _MOST_PART_BITS = 16 << 20, 8
#: Bits of the fields in a 64-bit page number: the language, the number of the group of shards plus
#: 1, and the page's place in the group.
LANGUAGE_BITS, GROUP_BITS, PAGE_BITS = 10, 24, 30
PLACE = np.uint64((1 << PAGE_BITS) - 1)
#: Multiplication by `_SPREAD`, modulo 2**64, spreads page numbers over the key space.
#: Multiplication by `_BACK` reverses this. Page 0 remains the smallest page.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_BACK = np.uint64(pow(int(_SPREAD), -1, 1 << 64))


@dataclasses.dataclass(frozen=True)
class Stars(Exchange):
    """The part of the search for near-duplicates that handles large languages.

    Attributes:
        large_pairs: see `LARGE_PAIRS`.
    """

    large_pairs: int = dataclasses.field(default_factory=lambda: LARGE_PAIRS)

    def make_star_lists(self) -> list[Tasks]:
        """Return lists of tasks to cluster near-duplicate pages in languages with many matches.

        The result is [] if no language can have more than `large_pairs` pairs.
        """
        if not self._may_be_large:
            return []
        stars = [partial(self.star, step) for step in range(_STEPS)]
        return [
            self.tasks("languages", self.note_large, 1),
            self.tasks("edges", self.spread, 1 << self.bits),
            *(self.tasks(f"stars{n}", star, self._parts) for n, star in enumerate(stars)),
            self.tasks("rest", self.finish_stars, 1),
            self.tasks("labels", self.label, self._parts),
            self.tasks("best", self.choose_in_group, len(self.groups)),
            self.tasks("winners", self.choose, self._parts),
        ]

    @property
    def _pages(self) -> int:
        return sum(group.pages for group in self.groups)

    @property
    def _may_be_large(self) -> bool:
        return self.step.candidates(self._pages, 0) > self.large_pairs

    @property
    def _part_bits(self) -> int:
        return min(_MOST_PART_BITS, choose_bits(16 * self._pages, _PART_BYTES))

    @property
    def _parts(self) -> int:
        return 1 << self._part_bits

    def find_large(self) -> list[int]:
        """Return numeric codes of languages with more than `large_pairs` pairs of similar pages."""
        if not self._may_be_large:
            return []
        return next(self.tasks("languages", None, 1).read())["large"]

    def note_large(self, _: int) -> dict[str, list[int]]:
        """Count matches by language; return the languages with more than `large_pairs` matches."""
        pairs = collections.Counter[str]()
        for note in self.tasks("matches", None, 1 << self.bits).read():
            pairs.update(note["languages"])
        return {"large": [int(lang) for lang in pairs if pairs[lang] > self.large_pairs]}

    def spread(self, bucket: int) -> dict[str, int]:
        """Write pairs of matching pages in a key range as edges, the larger page number first."""
        path = self.file("matches", bucket, "pairs")
        parts = [read_keys(path, 2, LANGUAGE_BITS, lang) for lang in self.find_large()]
        edges = np.concatenate([np.zeros((0, 2), np.uint64), *parts]) * _SPREAD
        return {"rows": self._write("edges", bucket, lambda: [np.sort(edges)[:, ::-1]], len(edges))}

    def star(self, step: int, part: int) -> dict[str, int]:
        """Run a connected-components step on some pages, unless the last round changed nothing."""
        last = (step - 1) // 2 * 2
        if not self.find_large():
            return {"changed": 0}
        if last > 0 and not (self._changed(last - 1) + self._changed(last)):
            return {"changed": 0}
        return self._star(step, part)

    def _changed(self, step: int) -> int:
        return self.notes(f"stars{step}", "changed", self._parts)

    def _star(self, step: int, part: int) -> dict[str, int]:
        """Join each page's neighbours to the smallest page among the page and its neighbours.

        Small-star joins the smaller neighbours and the page itself, and writes each edge in both
        directions. Large-star joins the larger neighbours.
        """
        least, rows = self._least(step - 1, part)
        small, changed = step % 2 == 0, 0

        def joined() -> Iterator[np.ndarray]:
            nonlocal changed
            if small:
                yield from (least, least[:, ::-1])
            for edges in self._read_edges(step - 1, part):
                page, other = edges.T
                to = least[np.searchsorted(least[:, 0], page), 1]
                moves = other != to
                if not small:
                    to = np.minimum(page, to)
                    moves = other > page
                new = np.column_stack([other, to])[moves]
                changed += len(new) if small else int((to != page)[moves].sum())
                yield from (new, new[:, ::-1]) if small else (new,)

        self._write(f"stars{step}", part, joined, rows * (1 + small))
        return {"changed": changed}

    def _read_edges(self, step: int, part: int) -> Iterator[np.ndarray]:
        title, files = (f"stars{step}", self._parts) if step >= 0 else ("edges", 1 << self.bits)
        for number in range(files):
            yield read_keys(self.file(title, number, "keys"), 2, self._part_bits, part)

    def _least(self, step: int, part: int) -> tuple[np.ndarray, int]:
        """Return the smallest neighbour of each page in a part of the graph, and the edge count."""
        parts, rows = [np.zeros((0, 2), np.uint64)], 0
        for edges in self._read_edges(step, part):
            parts.append(_find_least_neighbours(edges))
            rows += len(edges)
        least = np.concatenate(parts)
        return _find_least_neighbours(least[_by_page(least)]), rows

    def _write(
        self, title: str, number: int, read: Callable[[], Iterable[np.ndarray]], rows: int
    ) -> int:
        ordered = in_key_order(read, 2, rows, _by_page, self.sorting_bytes // 4)
        return write_keys(self.file(title, number, "keys"), ordered, rows, self._part_bits)

    def finish_stars(self, _: int) -> dict[str, int]:
        """Repeat small-star and large-star until nothing changes; return the last step's number."""
        if not self.find_large():
            return {"step": 0}
        changed = [self._changed(step) for step in range(_STEPS)]
        while changed[-2] or changed[-1]:
            for step in range(len(changed), len(changed) + 2):
                storage.make_directory(self.directory(f"stars{step}"))
                notes = [self._star(step, part) for part in range(self._parts)]
                changed.append(sum(note["changed"] for note in notes))
        rounds = range(2, len(changed), 2)
        return {"step": next(n for n in rounds if not changed[n - 1] and not changed[n])}

    def label(self, part: int) -> dict[str, int]:
        """Write each page and the smallest page number in its component, sorted by shard group."""
        rows = np.zeros((0, 2), np.uint64)
        if self.find_large():
            least, _ = self._least(next(self.tasks("rest", None, 1).read())["step"], part)
            least = least[least[:, 0] > 0]
            keys = self.keys_in_groups(least[:, 0] * _BACK)
            rows = np.column_stack([keys, least.min(axis=1)])
        rows = rows[np.argsort(rows[:, 0])]
        return {"pages": write_keys(self.file("labels", part, "keys"), [rows], len(rows))}

    def choose_in_group(self, group: int) -> dict[str, int]:
        """Write the best page and the page count of each cluster, within a group of shards.

        A cluster that contains page 0, the corpus, has no best page.
        """
        best = np.zeros((0, 7), np.uint64)
        if self.find_large() and len(rows := self.read_group("labels", group)):
            keys, labels = rows.T
            ranks = self.ranks(group)[(keys & PLACE).astype(np.int64)]
            rows = np.column_stack([labels, ranks, keys, np.ones_like(keys)])
            best = _choose_best_rows(rows[labels > 0])
        return {"rows": write_keys(self.file("best", group, "keys"), [best], len(best))}

    def choose(self, part: int) -> dict[str, int]:
        """Write the best page of each component, and the component's size."""
        files = [self.file("best", group.number, "keys") for group in self.groups]
        rows = np.concatenate([read_keys(path, 7, self._part_bits, part) for path in files])
        best = _choose_best_rows(rows)[:, -2:]
        best = best[np.argsort(best[:, 0])]
        return {"rows": write_keys(self.file("winners", part, "keys"), [best], len(best))}

    def mark(self, sizes: np.ndarray, group: int) -> None:
        """Set `sizes` of clustered pages: the cluster's size if the page represents it, else 0."""
        if self.find_large():
            sizes[(self.read_group("labels", group)[:, 0] & PLACE).astype(np.int64)] = 0
            keys, cluster_sizes = self.read_group("winners", group).T
            sizes[(keys & PLACE).astype(np.int64)] = cluster_sizes

    def read_group(self, title: str, group: int) -> np.ndarray:
        """Read a shard group's rows (page key, value) from files of the task list `title`."""
        files = [self.file(title, part, "keys") for part in range(self._parts)]
        return np.concatenate([read_keys(path, 2, self.bits_of_group, group) for path in files])

    def count_clustered_pages(self) -> int:
        """Return the number of pages with near-duplicates in languages that this class handles."""
        return self.notes("labels", "pages", self._parts) if self._may_be_large else 0

    @property
    def bits_of_group(self) -> int:
        """Number of upper bits for the shard group in a page's key; a group is a range of keys."""
        return max(1, (len(self.groups) - 1).bit_length())

    def keys_in_groups(self, pages: np.ndarray) -> np.ndarray:
        """Convert page numbers to keys: shard group in upper bits, position in the group below."""
        groups = (pages >> np.uint64(PAGE_BITS)) & np.uint64((1 << GROUP_BITS) - 1)
        return ((groups - np.uint64(1)) << np.uint64(64 - self.bits_of_group)) | (pages & PLACE)

    def ranks(self, group: int) -> np.ndarray:
        """Return the ranks (`rank_pages`) of the pages in a group of shards."""
        data = storage.read_bytes(self.file("keys", group, "ranks"))
        return np.frombuffer(data, np.uint64).reshape(self.groups[group].pages, -1)


def _by_page(edges: np.ndarray) -> np.ndarray:
    return np.argsort(edges[:, 0])


def _find_starts(keys: np.ndarray) -> np.ndarray:
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(new)


def _find_least_neighbours(edges: np.ndarray) -> np.ndarray:
    """Return the pages, each with its smallest neighbour; the input is sorted by page."""
    starts = _find_starts(edges[:, 0])
    if not len(starts):
        return edges
    return np.column_stack([edges[starts, 0], np.minimum.reduceat(edges[:, 1], starts)])


def _choose_best_rows(rows: np.ndarray) -> np.ndarray:
    """For each key, return the smallest row, with the last column summed over the key's rows."""
    rows = rows[np.lexsort(rows.T[-2::-1])]
    starts = _find_starts(rows[:, 0])
    best = rows[starts]
    if len(best):
        best[:, -1] = np.add.reduceat(rows[:, -1], starts)
    return best
