"""The files that a corpus build keeps between its phases, so that a killed build goes on.

A unit is one input file. Whatever exists under its final name is whole: everything is written
under a temporary name and renamed.
"""

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CONTESTS = ("winners", "owners")


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Names of the intermediate files below `root`."""

    root: str

    def file(self, kind: str, unit: int, suffix: str) -> Path:
        """The file of `kind` that belongs to one unit."""
        return Path(self.root) / kind / f"{unit:06d}.{suffix}"

    def make(self) -> None:
        """Create the directories."""
        for kind in ("pages", "finished", "shards", *CONTESTS):
            (Path(self.root) / kind).mkdir(parents=True, exist_ok=True)

    def pages(self, unit: int) -> Path:
        """Parquet of PAGE_SCHEMA: the pages of a unit that passed ingest."""
        return self.file("pages", unit, "parquet")

    def ingested(self, unit: int) -> Path:
        """JSON that completes the ingest of a unit: its accounts and sizes."""
        return self.file("pages", unit, "json")

    def candidates(self, contest: str, unit: int) -> Path:
        """uint64 [candidates, 2 + ranks], sorted by key; see pipelines.dedup."""
        return self.file(contest, unit, "candidates.npy")

    def positions(self, contest: str, unit: int) -> Path:
        """int64 [candidates]: the page or line of the unit that each candidate stands for."""
        return self.file(contest, unit, "positions.npy")

    def verdicts(self, contest: str, unit: int) -> Path:
        """Which candidates won: bool [candidates]."""
        return self.file(contest, unit, "verdicts.npy")

    def settled(self, contest: str) -> Path:
        """JSON marker of a contest that is settled for all units."""
        return Path(self.root) / f"{contest}.json"

    def run(self, unit: int) -> Path:
        """Arrow file of a unit's documents; each batch is sorted by language and id."""
        return self.file("finished", unit, "arrow")

    def finished(self, unit: int) -> Path:
        """JSON that completes a unit's documents: accounts, and where each language lies."""
        return self.file("finished", unit, "json")

    def shard(self, name: str) -> Path:
        """JSON that completes an output shard: its manifest entry and statistics."""
        return Path(self.root) / "shards" / f"{name}.json"

    def selected(self, contest: str, unit: int, size: int) -> np.ndarray:
        """Which of a unit's pages or lines won their contest: bool [size]."""
        selected = np.zeros(size, bool)
        positions = np.load(self.positions(contest, unit))
        selected[positions[np.load(self.verdicts(contest, unit))]] = True
        return selected


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path, which becomes `path` if the body succeeds."""
    unique = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name}.{unique}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    return json.loads(path.read_text())


def save_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, sort_keys=True))
