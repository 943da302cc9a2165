"""A working copy of a run in a bucket: lists what the run has, and downloads what is needed."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mswitch.models.training.metrics import METRICS
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    CONFIG,
    METADATA,
    PARAMETERS,
    PREDICTIONS,
    SELECTED,
)
from mswitch.pipelines import objects, storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.lease import LEASE
from mswitch.pipelines.outputs import CLAIM, MARKER

REQUESTS = 8
#: Pattern of files that tell which checkpoints and evaluations exist.
_SMALL = re.compile(
    rf"{CONFIG}|{MARKER}|{CHECKPOINTS}/[0-9]+/({METADATA}|\w+/_METADATA)|"
    rf"(eval|routing)/[0-9]+\.parquet|{SELECTED}"
)


class WorkingCopy:
    """A directory on this machine with those files of a run that are needed here.

    Attributes:
        place: the run's URL.
    """

    place: str
    directory: Path

    def list_sizes(self, part: str = "") -> dict[str, int]:
        """Return the size of each file of the run in the bucket, by name.

        Names with `..` are omitted: they would be outside the working copy.
        """
        with objects.reaching(self.place):
            sizes = storage.file_sizes(storage.join(self.place, part) if part else self.place)
        return {name: size for name, size in sizes.items() if ".." not in name.split("/")}

    def list_names(self) -> Set[str]:
        """Return the names of all files; refuse files that are not a run's."""
        names = self.list_sizes().keys()
        if names - {LEASE, CLAIM} and CONFIG not in names:
            raise UserError(
                f"{self.place} holds files that are not a training run: choose a new --out"
            )
        return names

    def refresh(self, *, metrics: bool = False, predictions: bool = False) -> None:
        """Download files that are missing here or have changed in size."""
        self.download(
            name
            for name, size in self.list_sizes().items()
            if _SMALL.fullmatch(name)
            or (metrics and name == METRICS)
            or (predictions and name.startswith(f"{PREDICTIONS}/"))
            if not (here := self.directory / name).is_file() or here.stat().st_size != size
        )

    def download(self, names: Iterable[str]) -> None:
        """Download files in parallel."""

        def download(name: str) -> None:
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            objects.download(storage.join(self.place, name), path)

        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(download, names))

    def list_local(self, part: str) -> set[str]:
        """Return the names of all files in the folder `part` of the working copy."""
        top = self.directory
        return {str(p.relative_to(top)) for p in (top / part).rglob("*") if p.is_file()}

    @contextlib.contextmanager
    def checkpoint(self, step: int, part: str = PARAMETERS) -> Iterator[None]:
        """Download a part of a checkpoint; remove it afterwards, to save space."""
        top = f"{CHECKPOINTS}/{step}"
        names = [
            f"{top}/{name}"
            for name in self.list_sizes(top)
            if name.startswith(f"{part}/") or not part or name.endswith("_METADATA")
        ]
        self.download(names)
        yield
        for name in names:
            if not name.endswith("_METADATA"):
                (self.directory / name).unlink()
