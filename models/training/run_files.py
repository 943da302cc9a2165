"""Run directories: on a file system, or in a bucket with a working copy on this machine.

Training and evaluation always work on local files. If the run is in a bucket, each file is uploaded
once it is complete. Metrics go before the checkpoint that needs them, a checkpoint's metadata last.
So the bucket always holds a run that any machine can resume. The run's lock is a lease
(`mswitch.pipelines.lease`), which is checked before each write.

In a job, each process has its own working copy. It holds the whole checkpoint that the process
restores, and its own part of each checkpoint that it saves. Each process uploads its part; then
process 0 uploads the metadata. Only process 0 holds the lease, and writes and removes the rest.

Reports only read and need no JAX, so functions in which processes communicate import it late.
"""

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
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
from mswitch.models.training.working_copy import REQUESTS, WorkingCopy
from mswitch.pipelines import objects, storage
from mswitch.pipelines.directory_lock import lock_directory
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.lease import Lease, LeaseLostError, follow_lease, hold_lease
from mswitch.pipelines.outputs import MARKER
from mswitch.pipelines.progress import say

TENSORBOARD = "tensorboard"
EVALUATION = "eval"

_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/(0|[1-9][0-9]*)/(.+)")
#: Files of every complete checkpoint. METADATA is uploaded last. If a process stalls before this
#: upload, METADATA may appear much later.
_DESCRIPTIONS = {METADATA, f"{PARAMETERS}/_METADATA", f"{OPTIMIZER}/_METADATA"}
#: Files that every process writes, some with timestamps; only process 0 uploads them.
_COMMON = re.compile(r"_.+|\..+|commit_success\.txt")
#: For each part of a run directory, the stage that writes it and holds its lease. Messages about
#: the lease contain the stage's name.
_STAGES = {"": "train", EVALUATION: "evaluate", PREDICTIONS: "predict"}


class RunFiles:
    """A run directory on a file system, with nothing to upload or download.

    All processes of a job share it, and all call `lock`.

    Attributes:
        place: its path or URL, for messages.
        directory: the run directory, or a working copy of the files that are needed.
        is_copy: whether `directory` is a working copy.
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
        """Keep every other writer out of the run, or out of a part of it."""
        from mswitch.models.training.distributed import on_first

        with contextlib.ExitStack() as stack:
            option = "" if part else "--out"
            on_first(lambda: stack.enter_context(lock_directory(self.directory / part, option)))
            yield

    def check(self) -> None:
        """Check that this process may still write to the run."""

    def refresh(self, *, metrics: bool = False, predictions: bool = False) -> None:
        """Download new files of the run, except checkpoints and TensorBoard events."""

    def publish(self, *names: str) -> None:
        """Upload complete files."""

    def reopen(self) -> None:
        """Let a finished run continue: remove its completion marker and its selected step."""
        from mswitch.models.training.distributed import on_first

        on_first(lambda: [self._withdraw(name) for name in (MARKER, SELECTED)])
        fault_point("train.after_reopening")

    def _withdraw(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def publish_records(self) -> None:
        """Upload the metrics and TensorBoard events so far."""

    def upload_when_saved(self, step: int, wait: Callable[[], Any]) -> Callable[[], Any]:
        """Upload a checkpoint after `wait` returns; return a function that waits for the upload."""
        del step
        return wait

    def prune(self, kept: Collection[int]) -> Collection[int]:
        """Remove older checkpoints from a bucket; return the steps to keep in `directory`."""
        return kept

    @contextlib.contextmanager
    def checkpoint(self, step: int, part: str = PARAMETERS) -> Iterator[None]:
        """Provide a checkpoint's files in `directory` in a `with` block; all if `part` is ""."""
        del step, part
        yield


class BucketFiles(WorkingCopy, RunFiles):
    """A run directory in a bucket, with its working copy."""

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
        """Keep other writers out of the run, or out of a part of it, by a lease.

        If `part` is empty, also download the files that training needs.
        """
        from mswitch.models.training.distributed import is_first, on_first, together

        self._is_first = is_first()
        place = storage.join(self.place, part) if part else self.place
        with contextlib.ExitStack() as stack:
            held: list[Lease] = []

            def hold() -> str:
                if not part:
                    self.list_names()
                held.append(stack.enter_context(hold_lease(place, _STAGES[part])))
                return held[0].key

            key = on_first(hold)
            lease = held[0] if held else stack.enter_context(follow_lease(place, key))
            # Remove working copies of killed processes: we have the lease, so nobody uses them.
            prefix = self.directory.name.rpartition("-")[0]
            for other in self.directory.parent.glob(f"{prefix}-*"):
                if other != self.directory:
                    shutil.rmtree(other, ignore_errors=True)
            if not part:
                together(self._download_newest)
            self._lease = lease
            yield

    @property
    def steps(self) -> Collection[int]:
        """Steps of the checkpoints in the bucket."""
        return self._steps

    @property
    def begun(self) -> bool:
        """Whether `lock` has succeeded, which needs a working connection to the bucket."""
        return self._lease is not None

    def _download_newest(self) -> None:
        names = self.list_names()
        parts: dict[int, set[str]] = {}
        for match in filter(None, map(_CHECKPOINT.fullmatch, names)):
            parts.setdefault(int(match[1]), set()).add(match[2])
        self._steps = {step for step, files in parts.items() if files >= _DESCRIPTIONS}
        if self._is_first:
            for step in parts.keys() - self._steps:
                self._remove(step)
        wanted = {CONFIG, MARKER, METRICS} & names
        if MARKER not in names and self._steps:
            newest = f"{CHECKPOINTS}/{max(self._steps)}/"
            wanted |= {name for name in names if name.startswith(newest)}
        self.download(wanted)
        if stored := objects.read_version(storage.join(self.place, METRICS)):
            self._versions[METRICS] = stored[1]

    def check(self) -> None:
        """Check the lease."""
        if self._lease is not None:
            self._lease.check()

    def publish(self, *names: str) -> None:
        """Upload files in parallel."""
        self._send(names, objects.upload)

    def _send(self, names: Iterable[str], send: Callable[[Path, str], None]) -> None:
        def check_and_send(name: str) -> None:
            self.check()
            send(self.directory / name, storage.join(self.place, name))

        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(check_and_send, names))

    def reopen(self) -> None:
        """Let a finished run continue, and download its newest checkpoint.

        If a run is finished, `lock` does not download a checkpoint.
        """
        from mswitch.models.training.distributed import together

        super().reopen()
        together(self._download_newest)

    def _withdraw(self, name: str) -> None:
        self.check()
        if storage.exists(url := storage.join(self.place, name)):
            storage.remove([url])
        super()._withdraw(name)

    def publish_records(self) -> None:
        """Upload the metrics and TensorBoard events so far.

        Each file may only replace the version that this process uploaded before.
        """
        for name in (METRICS, *sorted(self.list_local(TENSORBOARD))):
            self.check()
            url, data = storage.join(self.place, name), (self.directory / name).read_bytes()
            try:
                version = objects.replace_version(url, data, self._versions.get(name))
            except objects.ChangedError:
                version = _require_same(url, data)
            self._versions[name] = version

    def upload_when_saved(self, step: int, wait: Callable[[], Any]) -> Callable[[], Any]:
        """Upload the checkpoint in the background."""
        from mswitch.models.training.distributed import meet_in_background

        def upload() -> None:
            wait()
            metadata = f"{CHECKPOINTS}/{step}/{METADATA}"
            names = self.list_local(f"{CHECKPOINTS}/{step}") - {metadata}
            if not self._is_first:
                names = {name for name in names if not _COMMON.fullmatch(Path(name).name)}
            self._send(names, _create)
            if self._is_first:
                self.publish_records()
            fault_point("train.during_upload")
            meet_in_background(f"{self.place}: step {step} is sent")
            if self._is_first:
                self._send([metadata], _create)
            self._steps.add(step)
            fault_point("train.after_upload")

        return self._saver.submit(upload).result

    def prune(self, kept: Collection[int]) -> Collection[int]:
        """Remove checkpoints from the bucket, except the newest and the steps in `kept`.

        Return no steps: this machine keeps only the newest checkpoint.
        """
        for old in sorted(self._steps)[:-1] if self._is_first else ():
            if old not in kept:
                self.check()
                self._remove(old)
                self._steps.remove(old)
        return ()

    def _remove(self, step: int) -> None:
        """Remove a checkpoint, metadata first, so that the rest does not count as a checkpoint."""
        directory = storage.join(self.place, CHECKPOINTS, str(step))
        with objects.reaching(directory):
            if storage.exists(metadata := storage.join(directory, METADATA)):
                storage.remove([metadata])
            storage.remove_tree(directory)


def _create(path: Path, url: str) -> None:
    """Upload a file of a checkpoint, unless the bucket already has a file of this name.

    If this machine stalls, the lease may expire between its check and the upload.
    """
    try:
        objects.create(path, url)
    except objects.ChangedError:
        _require_same(url, path.read_bytes())


def _require_same(url: str, data: bytes) -> str:
    """Return an object's version if its content is `data`.

    If so, our first upload had succeeded.

    Raises:
        LeaseLostError: another process wrote other data, or removed the object.
    """
    stored = objects.read_version(url)
    if stored is None or stored[0] != data:
        raise LeaseLostError(f"{url} was written by another process")
    return stored[1]


@contextlib.contextmanager
def open_files(
    place: str | Path, part: str | None = None, *, shared: bool = False
) -> Iterator[RunFiles]:
    """Open a run directory, which may be in a bucket.

    The working copy is in the directory for temporary files (`TMPDIR`).

    Args:
        place: a path, or a gs:// or s3:// URL.
        part: what the caller will lock: "" is the whole run, None only reads. Taking a lock
            removes the working copies of earlier holders.
        shared: whether other processes of a job open it too.

    If the lease is lost or the bucket fails after locking, a single process exits with code 75. In
    a job, all processes raise LeaseLostError.
    """
    if not storage.is_remote(place):
        yield RunFiles(place, Path(place))
        return
    url = str(place).rstrip("/")
    objects.check_url(url)
    digest = hashlib.sha256(storage.join(url, part or "").encode()).hexdigest()[:12]
    name = f"mswitch-{'read-' if part is None else ''}{digest}"
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
            if shared:  # do not wait for other processes: they have not reached this point
                raise LeaseLostError(str(error)) from error
            sys.exit(RESUME)
        except UserError as error:
            text = _replace_copies(str(error).replace(copy, url), name, url)
            raise type(error)(text) from error


def _replace_copies(text: str, name: str, url: str) -> str:
    return re.sub(rf"[^\s'\"]*/{name}\.\d+-\w{{8}}", lambda _: url, text)
