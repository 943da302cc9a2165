"""The files that a corpus build keeps between its phases, so that a killed build goes on.

A unit is one input file. Whatever exists under its final name is whole. The directory may be a
URL (`pipelines.storage`).
"""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import storage

CONTESTS = ("winners", "owners", "near_duplicates")

# NumPy reads a header by `ast.literal_eval`, which before CPython 3.11.8 fails now and then where
# two threads call it (cpython#106905).
_ONE_HEADER_AT_A_TIME = threading.Lock()

#: Elements of a mapped array that are copied at a time.
_AT_A_TIME = 1 << 20


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Names of the intermediate files below `root`."""

    root: str

    def file(self, kind: str, unit: int, suffix: str) -> str:
        """The file of `kind` that belongs to one unit."""
        return storage.join(self.root, kind, f"{unit:06d}.{suffix}")

    def make(self) -> None:
        """Create the directories."""
        for kind in ("pages", "finished", "shards", *CONTESTS):
            storage.make_directory(storage.join(self.root, kind))

    def names(self, kind: str) -> set[str]:
        """The names of all files of `kind`."""
        return storage.list_names(storage.join(self.root, kind))

    def pages(self, unit: int) -> str:
        """Parquet of PAGE_SCHEMA: the pages of a unit that passed ingest."""
        return self.file("pages", unit, "parquet")

    def ingested(self, unit: int) -> str:
        """JSON that completes the ingest of a unit: its accounts and sizes."""
        return self.file("pages", unit, "json")

    def candidates(self, contest: str, unit: int) -> str:
        """uint64 [candidates, 2 + ranks], sorted by key; see pipelines.corpus.dedup."""
        return self.file(contest, unit, "candidates.npy")

    def positions(self, contest: str, unit: int) -> str:
        """int64 [candidates]: the page or line of the unit that each candidate stands for."""
        return self.file(contest, unit, "positions.npy")

    def verdicts(self, contest: str, unit: int) -> str:
        """Which candidates won: bool [candidates]."""
        return self.file(contest, unit, "verdicts.npy")

    def settled(self, contest: str) -> str:
        """JSON marker of a contest that is settled for all units."""
        return storage.join(self.root, f"{contest}.json")

    def run(self, unit: int) -> str:
        """Arrow file of a unit's documents; each batch is sorted by language and id."""
        return self.file("finished", unit, "arrow")

    def finished(self, unit: int) -> str:
        """JSON that completes a unit's documents: accounts, and where each language lies."""
        return self.file("finished", unit, "json")

    def fingerprints(self, kind: str, unit: int) -> str:
        """uint64 [n, 2], sorted: the keys of a unit's documents; kinds: fingerprint_store."""
        return self.file("finished", unit, f"{kind}.npy")

    def shard(self, name: str) -> str:
        """JSON that completes an output shard: its manifest entry and statistics."""
        return storage.join(self.root, "shards", f"{name}.json")

    def selected(self, contest: str, unit: int, size: int) -> np.ndarray:
        """Which of a unit's pages or lines won their contest: bool [size]."""
        selected = np.zeros(size, bool)
        positions = load_array(self.positions(contest, unit))
        verdicts = load_array(self.verdicts(contest, unit))
        for start in range(0, len(positions), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            selected[positions[part][verdicts[part]]] = True
        return selected

    def cluster_sizes(self, unit: int, pages: int) -> np.ndarray:
        """The size of the cluster that each page of a unit represents: int64 [pages].

        It is 1 for a page without near-duplicates, 0 for one that another represents.
        """
        sizes = np.ones(pages, np.int64)
        if storage.exists(path := self.verdicts("near_duplicates", unit)):
            rows = load_array(path)
            sizes[rows[:, 0]] = rows[:, 1]
        return sizes


def save_array(path: str, array: np.ndarray) -> None:
    """Write a .npy file that appears as a whole."""
    with storage.publish(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


@contextlib.contextmanager
def array_writer(
    path: str, dtype: npt.DTypeLike, columns: tuple[int, ...] = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends rows to a .npy file, which appears as a whole.

    Args:
        path: of the file.
        dtype: of its elements.
        columns: the shape of a row.
    """
    rows = 0

    def write_header(file: Any) -> None:
        # NumPy leaves room for any number of rows.
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        shape = (rows, *columns)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    with storage.publish(path) as temporary, open(temporary, "wb") as file:
        write_header(file)

        def append(part: np.ndarray) -> None:
            nonlocal rows
            assert part.shape[1:] == columns
            file.write(np.ascontiguousarray(part, dtype).data)
            rows += len(part)

        yield append
        file.seek(0)
        write_header(file)


def load_array(path: str) -> np.ndarray:
    """Read a .npy file; a local one is mapped into memory instead."""
    data = io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else None
    with _ONE_HEADER_AT_A_TIME:
        return np.load(path, mmap_mode="r") if data is None else np.load(data)
