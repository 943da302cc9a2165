"""The files that a corpus build keeps between its phases, so that a killed build can continue.

A shard here is one input file. Whatever exists under its final name is whole. The directory may be
a URL (`mswitch.pipelines.storage`).
"""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mswitch.pipelines import storage

DEDUPLICATIONS = ("url_dedup", "near_dedup", "line_dedup")

# NumPy reads a header by `ast.literal_eval`, which before CPython 3.11.8 fails now and then where
# two threads call it (cpython#106905).
_ONE_HEADER_AT_A_TIME = threading.Lock()

#: Elements of a mapped array that are copied at a time.
_AT_A_TIME = 1 << 20


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Names of the intermediate files below `root`."""

    root: str

    def file(self, kind: str, shard: int, suffix: str) -> str:
        """The file of `kind` that belongs to one shard."""
        return storage.join(self.root, kind, f"{shard:06d}.{suffix}")

    def make(self) -> None:
        """Create the directories."""
        for kind in ("pages", "finished", "rules", "shards", *DEDUPLICATIONS):
            storage.make_directory(storage.join(self.root, kind))

    def names(self, kind: str) -> set[str]:
        """The names of all files of `kind`."""
        return storage.list_names(storage.join(self.root, kind))

    def pages(self, shard: int) -> str:
        """Parquet (`Recipe.pages`): the pages of a shard that passed ingest."""
        return self.file("pages", shard, "parquet")

    def ingested(self, shard: int) -> str:
        """JSON that completes the ingest of a shard: its accounts and sizes."""
        return self.file("pages", shard, "json")

    def candidates(self, dedup: str, shard: int) -> str:
        """uint64 [candidates, 2 + ranks], sorted by key; see mswitch.pipelines.corpus.dedup."""
        return self.file(dedup, shard, "candidates.npy")

    def positions(self, dedup: str, shard: int) -> str:
        """int64 [candidates]: the page or line of the shard that each candidate stands for."""
        return self.file(dedup, shard, "positions.npy")

    def chosen(self, dedup: str, shard: int) -> str:
        """Which candidates stay: bool [candidates].

        Of near-duplicates int64 [n, 2]: a page, and the size of the cluster that it represents.
        """
        return self.file(dedup, shard, "chosen.npy")

    def done(self, dedup: str) -> str:
        """JSON marker of a deduplication that is done for all shards."""
        return storage.join(self.root, f"{dedup}.json")

    def run(self, shard: int) -> str:
        """Arrow file of a shard's documents; each batch is sorted by language and id."""
        return self.file("finished", shard, "arrow")

    def finished(self, shard: int) -> str:
        """JSON that completes a shard's documents: accounts, and where each language lies."""
        return self.file("finished", shard, "json")

    def fingerprints(self, kind: str, shard: int) -> str:
        """uint64 [n, 2], sorted: the keys of a shard's documents; kinds: `Dedup.kind`."""
        return self.file("finished", shard, f"{kind}.npy")

    def output(self, name: str) -> str:
        """JSON that completes an output shard: its manifest entry and statistics."""
        return storage.join(self.root, "shards", f"{name}.json")

    def selected(self, dedup: str, shard: int, size: int) -> np.ndarray:
        """Which of a shard's pages or lines stay: bool [size]."""
        selected = np.zeros(size, bool)
        positions = load_array(self.positions(dedup, shard))
        chosen = load_array(self.chosen(dedup, shard))
        for start in range(0, len(positions), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            selected[positions[part][chosen[part]]] = True
        return selected


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
