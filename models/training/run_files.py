"""Where a run directory lies: on a file system, or in a bucket, with a working copy here.

Training and evaluation work on local files either way. Of a run in a bucket, each file is uploaded
when it is complete: metrics before the checkpoint that needs them, and of a checkpoint its metadata
last. So at any moment the bucket holds a run that can be resumed, on any machine. Its lock is a
lease (`mswitch.pipelines.lease`), which is checked before each write.

Of a job of several processes each has its own working copy, which holds the whole checkpoint that
is restored, and the process's own part of each checkpoint that is saved. Each sends its part; when
all have, process 0 sends the metadata. It alone holds the lease, and sends and removes all else.

Reports, which only read, do without JAX: what processes say to each other is imported where it is
needed.
"""

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mswitch.models.training.metrics import METRICS
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    CONFIG,
    METADATA,
    OPTIMIZER,
    PARAMETERS,
    PREDICTIONS,
    SELECTED,
)
from mswitch.pipelines import objects, storage
from mswitch.pipelines.directory_lock import lock_directory
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.lease import LEASE, Lease, LeaseLostError, follow_lease, hold_lease
from mswitch.pipelines.outputs import CLAIM, MARKER
from mswitch.pipelines.progress import say

TENSORBOARD = "tensorboard"
EVALUATION = "eval"
#: Files of a checkpoint that are sent or fetched at a time.
_REQUESTS = 8

_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/(0|[1-9][0-9]*)/(.+)")
#: What a checkpoint is none without. The first comes last, or late from a process that stood still.
_DESCRIPTIONS = {METADATA, f"{PARAMETERS}/_METADATA", f"{OPTIMIZER}/_METADATA"}
#: What says which checkpoints and evaluations there are.
_SMALL = re.compile(
    rf"{CONFIG}|{MARKER}|{CHECKPOINTS}/[0-9]+/({METADATA}|\w+/_METADATA)|"
    rf"(eval|routing)/[0-9]+\.parquet|{SELECTED}"
)
#: Files that every process of a job writes, some with its own times in them; process 0 sends them.
_COMMON = re.compile(r"_.+|\..+|commit_success\.txt")
#: Who waits for the lease of a part.
_STAGES = {"": "train", EVALUATION: "evaluate", PREDICTIONS: "predict"}


class RunFiles:
    """A run directory on a file system, where there is nothing to send or fetch.

    All processes of a job share it, and call `lock`.

    Attributes:
        place: where it lies, for messages.
        directory: the files of the run, or the working copy of those that are needed.
        is_copy: which of them.
    """

    is_copy = False

    @property
    def steps(self) -> Collection[int]:
        """Steps of the checkpoints in a bucket."""
        return ()

    def __init__(self, place: str | Path, directory: Path):
        self.place, self.directory = str(place), directory

    @contextlib.contextmanager
    def lock(self, part: str = "") -> Iterator[None]:
        """Keep every other writer away from the run, or a part of it."""
        from mswitch.models.training.distributed import on_first

        with contextlib.ExitStack() as stack:
            option = "" if part else "--out"
            on_first(lambda: stack.enter_context(lock_directory(self.directory / part, option)))
            yield

    def check(self) -> None:
        """Check that this process still may write."""

    def refresh(self, *, metrics: bool = False, predictions: bool = False) -> None:
        """Fetch what the run holds by now, but for checkpoints and TensorBoard events."""

    def publish(self, *names: str) -> None:
        """Send files, which are complete."""

    def reopen(self) -> None:
        """Make a run that may be finished one that continues: its choice of a step is void too."""
        from mswitch.models.training.distributed import on_first

        on_first(lambda: [self._withdraw(name) for name in (MARKER, SELECTED)])
        fault_point("train.after_reopening")

    def _withdraw(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def publish_records(self) -> None:
        """Send metrics and TensorBoard events, as far as they are."""

    def when_saved(self, step: int, wait: Callable[[], Any]) -> Callable[[], Any]:
        """Send a checkpoint once `wait` returns; give a function that waits for all of that."""
        del step
        return wait

    def prune(self, kept: Collection[int]) -> Collection[int]:
        """Remove older checkpoints elsewhere, as is done here; give those that are kept here."""
        return kept

    @contextlib.contextmanager
    def checkpoint(self, step: int, part: str = PARAMETERS) -> Iterator[None]:
        """Have a part of a checkpoint here, or "" for all, as long as the body runs."""
        del step, part
        yield


class BucketFiles(RunFiles):
    """A run directory in a bucket, and its working copy."""

    is_copy = True

    def __init__(self, place: str, directory: Path):
        super().__init__(place, directory)
        self._is_first = True
        self._lease: Lease | None = None
        self._steps: set[int] = set()
        self._versions: dict[str, str] = {}
        self._saver = ThreadPoolExecutor(1)

    @contextlib.contextmanager
    def lock(self, part: str = "") -> Iterator[None]:
        """Hold the lease; where the whole run is locked, fetch what its training needs."""
        from mswitch.models.training.distributed import is_first, on_first, together

        self._is_first = is_first()
        place = storage.join(self.place, part) if part else self.place
        with contextlib.ExitStack() as stack:
            held: list[Lease] = []

            def hold() -> str:
                if not part:
                    self._names()
                held.append(stack.enter_context(hold_lease(place, _STAGES[part])))
                return held[0].key

            key = on_first(hold)
            lease = held[0] if held else stack.enter_context(follow_lease(place, key))
            # What a process that was killed here left; it had the lease.
            prefix = self.directory.name.rpartition("-")[0]
            for other in self.directory.parent.glob(f"{prefix}-*"):
                if other != self.directory:
                    shutil.rmtree(other, ignore_errors=True)
            if not part:
                together(self._fetch_newest)
            self._lease = lease
            yield

    @property
    def steps(self) -> Collection[int]:
        """Steps of the checkpoints in the bucket."""
        return self._steps

    @property
    def begun(self) -> bool:
        """Whether the run is locked, and the bucket was seen to work."""
        return self._lease is not None

    def _sizes(self, part: str = "") -> dict[str, int]:
        """Sizes of all files; a name that would lead out of the copy is not one of a run's."""
        with objects.reaching(self.place):
            sizes = storage.file_sizes(storage.join(self.place, part) if part else self.place)
        return {name: size for name, size in sizes.items() if ".." not in name.split("/")}

    def _names(self) -> Set[str]:
        """Names of all files."""
        names = self._sizes().keys()
        if names - {LEASE, CLAIM} and CONFIG not in names:
            raise UserError(
                f"{self.place} holds files that are not a training run: choose a new --out"
            )
        return names

    def _fetch_newest(self) -> None:
        names = self._names()
        parts: dict[int, set[str]] = {}
        for match in filter(None, map(_CHECKPOINT.fullmatch, names)):
            parts.setdefault(int(match[1]), set()).add(match[2])
        self._steps = {step for step, those in parts.items() if those >= _DESCRIPTIONS}
        if self._is_first:
            for step in parts.keys() - self._steps:
                self._remove(step)
        wanted = {CONFIG, MARKER, METRICS} & names
        if MARKER not in names and self._steps:
            newest = f"{CHECKPOINTS}/{max(self._steps)}/"
            wanted |= {name for name in names if name.startswith(newest)}
        self._fetch(wanted)
        if found := objects.read_version(storage.join(self.place, METRICS)):
            self._versions[METRICS] = found[1]

    def check(self) -> None:
        """Check the lease."""
        if self._lease is not None:
            self._lease.check()

    def refresh(self, *, metrics: bool = False, predictions: bool = False) -> None:
        """Fetch what the run holds by now and is not here."""
        self._fetch(
            name
            for name, size in self._sizes().items()
            if _SMALL.fullmatch(name)
            or (metrics and name == METRICS)
            or (predictions and name.startswith(f"{PREDICTIONS}/"))
            if not (here := self.directory / name).is_file() or here.stat().st_size != size
        )

    def _fetch(self, names: Iterable[str]) -> None:
        def fetch(name: str) -> None:
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            objects.download(storage.join(self.place, name), path)

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(fetch, names))

    def publish(self, *names: str) -> None:
        """Send files, several at a time."""

        def send(name: str) -> None:
            self.check()
            objects.upload(self.directory / name, storage.join(self.place, name))

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(send, names))

    def reopen(self) -> None:
        """Make it one that continues, and fetch the checkpoint that a finished one does without."""
        from mswitch.models.training.distributed import together

        super().reopen()
        together(self._fetch_newest)

    def _withdraw(self, name: str) -> None:
        self.check()
        if storage.exists(url := storage.join(self.place, name)):
            storage.remove([url])
        super()._withdraw(name)

    def _create(self, *names: str) -> None:
        """Send files of a checkpoint, which replace nothing.

        The lease may run out between its check and the request, where a machine stands still.
        """

        def send(name: str) -> None:
            path, url = self.directory / name, storage.join(self.place, name)
            self.check()
            try:
                objects.create(path, url)
            except objects.ChangedError:
                found = objects.read_version(url)
                # The same: the answer to a first try was lost.
                if found is None or found[0] != path.read_bytes():
                    raise LeaseLostError(f"{url} was written by another process") from None

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(send, names))

    def publish_records(self) -> None:
        """Send metrics and TensorBoard events, as far as they are.

        Each replaces what this process sent before and nothing else.
        """
        for name in (METRICS, *sorted(self._files(TENSORBOARD))):
            self.check()
            url, data = storage.join(self.place, name), (self.directory / name).read_bytes()
            try:
                version = objects.replace_version(url, data, self._versions.get(name))
            except objects.ChangedError:
                found = objects.read_version(url)
                if found is None or found[0] != data:  # else the answer to a first try was lost
                    raise LeaseLostError(f"{url} was written by another process") from None
                version = found[1]
            self._versions[name] = version

    def when_saved(self, step: int, wait: Callable[[], Any]) -> Callable[[], Any]:
        """Send the checkpoint in the background."""
        from mswitch.models.training.distributed import meet_in_background

        def send() -> None:
            wait()
            metadata = f"{CHECKPOINTS}/{step}/{METADATA}"
            names = self._files(f"{CHECKPOINTS}/{step}") - {metadata}
            if not self._is_first:
                names = {name for name in names if not _COMMON.fullmatch(Path(name).name)}
            self._create(*names)
            if self._is_first:
                self.publish_records()
            fault_point("train.during_upload")
            meet_in_background(f"{self.place}: step {step} is sent")
            if self._is_first:
                self._create(metadata)
            self._steps.add(step)
            fault_point("train.after_upload")

        return self._saver.submit(send).result

    def _files(self, part: str) -> set[str]:
        top = self.directory
        return {str(p.relative_to(top)) for p in (top / part).rglob("*") if p.is_file()}

    def prune(self, kept: Collection[int]) -> Collection[int]:
        """Remove older checkpoints from the bucket; here the newest is enough."""
        for old in sorted(self._steps)[:-1] if self._is_first else ():
            if old not in kept:
                self.check()
                self._remove(old)
                self._steps.remove(old)
        return ()

    def _remove(self, step: int) -> None:
        """Remove a checkpoint, its metadata first: without them it is none."""
        directory = storage.join(self.place, CHECKPOINTS, str(step))
        with objects.reaching(directory):
            if storage.exists(metadata := storage.join(directory, METADATA)):
                storage.remove([metadata])
            storage.remove_tree(directory)

    @contextlib.contextmanager
    def checkpoint(self, step: int, part: str = PARAMETERS) -> Iterator[None]:
        """Fetch a part of a checkpoint, and remove it afterwards: all need not fit."""
        top = f"{CHECKPOINTS}/{step}"
        names = [
            f"{top}/{name}"
            for name in self._sizes(top)
            if name.startswith(f"{part}/") or not part or name.endswith("_METADATA")
        ]
        self._fetch(names)
        yield
        for name in names:
            if not name.endswith("_METADATA"):
                (self.directory / name).unlink()


@contextlib.contextmanager
def open_files(
    place: str | Path, part: str | None = None, *, shared: bool = False
) -> Iterator[RunFiles]:
    """Give a run directory to work with, which may be in a bucket.

    The working copy is below the directory for temporary files (`TMPDIR`).

    Args:
        place: a path, or a gs:// or s3:// URL.
        part: what is going to be locked: "" is the whole run; None if it is only read. Who gets a
            lock removes the copies of those that held it before.
        shared: whether other processes of a job work with it too.

    Where the lease is lost or the bucket fails later, one process exits with code 75; of a job, all
    raise LeaseLostError.
    """
    if not storage.is_remote(place):
        yield RunFiles(place, Path(place))
        return
    url = str(place).rstrip("/")
    objects.check_url(url)
    digest = hashlib.sha256(storage.join(url, part or "").encode()).hexdigest()[:12]
    name = f"mswitch-{'read-' if part is None else ''}{digest}"
    # Processes of one machine have a copy each.
    prefix = f"{name}-"
    if shared:
        import jax

        prefix = f"{name}.{jax.process_index()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as copy:
        run = BucketFiles(url, Path(copy))
        try:
            yield run
        except (LeaseLostError, objects.BucketError) as error:
            if not run.begun:
                raise
            say("run", f"{error}; the same command continues from what the bucket holds")
            if shared:  # the others are not at this point
                raise LeaseLostError(str(error)) from error
            sys.exit(RESUME)
        except UserError as error:
            # All processes of a job may raise what one of them found in its copy.
            other = rf"[^\s'\"]*/{name}\.\d+-\w{{8}}"
            text = re.sub(other, lambda _: url, str(error).replace(copy, url))
            raise type(error)(text) from error
