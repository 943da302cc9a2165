"""Save the checkpoints of a run with Orbax, in the background; restore only complete ones.

A checkpoint is the directory `checkpoints/<step>`, where `step` counts finished optimizer steps.
Orbax writes it under a temporary name, commits a timestamp to its metadata and renames it. The
name alone proves nothing: a killed `rm -r` or an interrupted copy leaves partial directories.

All processes of a job save and restore together on a shared file system; only process 0 removes. If
the run is in a bucket, each process saves its part in its own working copy
(`mswitch.models.training.run_files`).
"""

import contextlib
import itertools
import json
import logging
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from orbax import checkpoint as v0
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from mswitch.models.training.distributed import WAITED, JobError, is_first, say_once, together
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    METADATA,
    OPTIMIZER,
    PARAMETERS,
    SELECTED,
)
from mswitch.models.training.state import Parameters, TrainState
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError, causes, full_disk, is_disk_full
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import read_json_object

if TYPE_CHECKING:
    from mswitch.models.training.run_files import RunFiles

INCOMPLETE = "incomplete"

RESTORE_IT = "restore it from a copy, or train again into another --out"
#: TensorStore's error for an array whose bytes have changed since they were written.
_DAMAGED = re.compile(
    r'in (?:"([^"]+)" in OCDBT database at )?local file "([^"]+)"[^"]*: Digest mismatch'
)

#: Longest error text to quote from a library, in characters.
MAX_REASON = 400

#: Errors that Orbax logs with long tracebacks although it also raises them.
RAISED_TOO = ("_SignalingThread.run() raised", "Failed to get metadata for checkpointable")
logging.getLogger("absl").addFilter(
    lambda record: not any(text in str(record.msg) for text in RAISED_TOO)
)

_build_zarr3_metadata = tensorstore_utils._build_zarr3_metadata


def _build_checked_metadata(*shape: Any, **options: Any) -> dict[str, Any]:
    """Add a CRC-32C to each chunk of an array, which is checked when the chunk is read.

    Zarr has a codec for this, but Orbax has no option: it only protects the index of the chunks.
    """
    metadata = _build_zarr3_metadata(*shape, **options)
    for codec in metadata["codecs"]:
        codec["configuration"]["codecs"].append({"name": "crc32c"})
    return metadata


tensorstore_utils._build_zarr3_metadata = _build_checked_metadata

STEP = re.compile(r"0|[1-9][0-9]*")
#: Pattern of directories that Orbax is still writing or `Checkpoints` is still removing.
LEFTOVER = re.compile(r"(.*\.orbax-checkpoint-tmp.*|\.[0-9]+\.removed)")


def is_complete(checkpoint: Path) -> bool:
    """Return whether Orbax committed this checkpoint and both its parts exist."""
    try:
        metadata = json.loads((checkpoint / METADATA).read_text())
        for part in (PARAMETERS, OPTIMIZER):
            (checkpoint / part / "_METADATA").stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise UserError(
            f"{error.filename or checkpoint} cannot be read ({error.strerror or error}): give the "
            "same command again when its file system answers; nothing was removed"
        ) from error
    return isinstance(metadata, dict) and metadata.get("commit_timestamp_nsecs") is not None


def list_complete_steps(directory: Path) -> list[int]:
    """Return the steps of all complete checkpoints in `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in _list_named_by_step(directory) if is_complete(path))


def find_step(files: "RunFiles", asked: int | None) -> int:
    """Return `asked` if the run has that checkpoint, or its newest step if `asked` is None."""
    steps = list_complete_steps(files.directory / CHECKPOINTS)
    if not steps:
        raise UserError(f"{files.place} has no checkpoint yet: train it first")
    if asked is not None and asked not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"{files.place} has no checkpoint of step {asked}: choose among {known}")
    return steps[-1] if asked is None else asked


def choose_step(files: "RunFiles", asked: int | None) -> int:
    """Return the step to use: `asked`, else the run's selected step, else the newest."""
    path = files.directory / SELECTED
    if asked is None and path.is_file():
        asked = int(read_json_object(path)["step"])
    return find_step(files, asked)


def _list_named_by_step(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if STEP.fullmatch(path.name)]


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        place: path or URL of the checkpoints, for messages.
        kept: steps to keep; other checkpoints go once a newer one is known to be good.
        run: the run's `config_hash`, stored in each checkpoint; empty accepts any run's.
        files: the run's files, if they upload each checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        kept: Sequence[int],
        run: str = "",
        files: "RunFiles | None" = None,
    ):
        self._files = files
        self.directory = directory.absolute()
        self.place = storage.join(files.place, directory.name) if files else str(self.directory)
        self.kept = frozenset(kept)
        self.run = run
        self._pending: tuple[int, Callable[[], Any]] | None = None
        self._bytes = 0

    @property
    def _is_apart(self) -> bool:
        return self._files is not None and self._files.is_copy and jax.process_count() > 1

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return max(list_complete_steps(self.directory), default=None)

    def remove_leftovers(self) -> None:
        """Remove what killed runs left: unfinished writes and half-removed checkpoints.

        A killed run never leaves an incomplete directory under a checkpoint's name. If there is
        one, rename it, so that somebody can repair it. Directories with other names stay.
        """
        if not self.directory.is_dir():
            return
        for path in list(self.directory.iterdir()):
            if LEFTOVER.fullmatch(path.name) and path.is_dir():
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise UserError(
                        f"{path}, left by a killed run, cannot be removed "
                        f"({error.strerror or error}): remove it, and give the same command again"
                    ) from error
        for path in _list_named_by_step(self.directory):
            if path.is_dir() and not is_complete(path):
                names = (path.with_suffix(f".{INCOMPLETE}{n or ''}") for n in itertools.count())
                aside = path.rename(next(name for name in names if not name.exists()))
                say_once("train", f"{path} is not a complete checkpoint: it is {aside} now")

    def save(self, state: TrainState, step: int, *, prune: bool = True) -> None:
        """Wait for the previous save, then start to save `state` in the background.

        A step records its metrics before its update, so only later steps show whether a
        checkpoint is good. The newest therefore stays until the next one is saved. The caller
        must first write to disk everything that belongs to these steps (metrics).

        With `prune`, remove older checkpoints, since the steps after the newest were good.
        """
        self.wait()
        if prune:
            self.prune()
        fault_point("train.before_checkpoint")
        if jax.default_backend() == "cpu":
            # On CPU, Orbax's copy is only a view of the state's memory, which the next step reuses.
            state = jax.tree.map(jnp.copy, state)
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        parts, path = _split_state(state), self.directory / str(step)
        notes: dict[str, Any] = {"run": self.run}
        if self._is_apart:
            wait = _save_apart(path, parts, notes)
        else:
            wait = ocp.save_checkpointables_async(str(path), parts, custom_metadata=notes).result
        self._pending = step, self._files.upload_when_saved(step, wait) if self._files else wait
        fault_point("train.during_checkpoint")

    def wait(self) -> None:
        """Wait until the current save is complete."""
        if self._pending is None:
            return
        step, wait = self._pending
        try:
            wait()
        except Exception as error:
            if is_disk_full(error):
                raise full_disk(self.directory, self._bytes) from error
            raise
        self._pending = None
        assert is_complete(self.directory / str(step))
        fault_point("train.after_checkpoint")

    def prune(self) -> None:
        """Remove all checkpoints except the newest and the steps in `kept`."""
        if not is_first() and not self._is_apart:
            return
        try:
            steps = list_complete_steps(self.directory)
        except UserError:
            return  # training can continue: the next save removes old steps
        kept = self._files.prune(self.kept) if self._files else self.kept
        for old in steps[:-1]:
            if old not in kept:
                # Rename first, so that a half-removed checkpoint never has its name.
                hidden = self.directory / f".{old}.removed"
                (self.directory / str(old)).rename(hidden)
                shutil.rmtree(hidden)

    def restore(self, step: int, like: TrainState, fix: str = "") -> TrainState:
        """Load the whole state and place it on the devices of `like`.

        Args:
            step: the checkpoint's step.
            like: shapes, types and shardings of the state.
            fix: advice if it cannot be read; empty for a run that continues.
        """
        checkpoint = self.directory / str(step)
        fix = fix or self._advise(step)
        loaded = _load(checkpoint, _split_state(like), self.run, fix)
        optimizer = loaded[OPTIMIZER]
        if int(optimizer["step"]) != step:
            raise JobError(f"{checkpoint} is a checkpoint of step {optimizer['step']}: {fix}")
        return TrainState(loaded[PARAMETERS], optimizer["moments"], optimizer["step"])

    def _advise(self, step: int) -> str:
        steps = set(self._files.steps if self._files else ())
        with contextlib.suppress(UserError):  # reading the checkpoint raises this error again
            steps.update(list_complete_steps(self.directory))
        if before := [other for other in steps if other < step]:
            return f"remove it, and training continues from the checkpoint of step {max(before):,}"
        return RESTORE_IT


def _save_apart(path: Path, parts: dict[str, Any], notes: dict[str, Any]) -> Callable[[], Any]:
    """Start to save this process's part of a state; return a function that waits for it.

    This uses Orbax's older interface: the newer one requires the same path in all processes. OCDBT
    is off, since its index needs the files of all processes: each chunk of an array is a file.
    """
    # Each process sees only its own files.
    options = v0.options.MultiprocessingOptions(primary_host=None)
    # If Orbax makes directories in the background, a process mistakes another process's
    # directories for its own.
    in_order = v0.options.AsyncOptions(create_directories_asynchronously=False)
    registry = v0.DefaultCheckpointHandlerRegistry()
    for name in parts:
        part = v0.PyTreeCheckpointHandler(
            use_ocdbt=False, use_zarr3=True, multiprocessing_options=options
        )
        registry.add(name, v0.args.PyTreeSave, part)
    handler = v0.CompositeCheckpointHandler(
        handler_registry=registry,
        composite_options=v0.CompositeOptions(
            multiprocessing_options=options, async_options=in_order
        ),
    )
    saver = v0.AsyncCheckpointer(handler, multiprocessing_options=options, async_options=in_order)
    trees = {name: v0.args.PyTreeSave(tree) for name, tree in parts.items()}
    saver.save(path, args=v0.args.Composite(**trees), custom_metadata=notes)
    return saver.close


def _split_state(state: TrainState) -> dict[str, Any]:
    optimizer = {"moments": state.moments, "step": state.step}
    return {PARAMETERS: state.parameters, OPTIMIZER: optimizer}


def restore_parameters(files: "RunFiles", step: int, like: Parameters, run: str = "") -> Parameters:
    """Load a checkpoint's parameters without its optimizer state, placed as in `like`.

    If both `run` and the checkpoint name a run's `config_hash`, they must be equal.
    """
    checkpoint = files.directory.absolute() / CHECKPOINTS / str(step)
    with files.checkpoint(step):
        return _load(checkpoint, {PARAMETERS: like}, run, RESTORE_IT)[PARAMETERS]


def _load(checkpoint: Path, like: dict[str, Any], run: str, fix: str) -> dict[str, Any]:
    def load() -> dict[str, Any]:
        with _explain_unreadable(checkpoint, fix):
            return ocp.load_checkpointables(str(checkpoint), like)

    # If a process cannot read its part, Orbax keeps the others waiting for minutes. So each process
    # first checks what it can by itself.
    together(lambda: _check(checkpoint, like, run, fix))
    return together(load)


def _check(checkpoint: Path, like: dict[str, Any], run: str, fix: str) -> None:
    with _explain_unreadable(checkpoint, fix):
        for part, wanted in like.items():
            # Read metadata of `part` only. A working copy (`mswitch.models.training.run_files`) may
            # lack the optimizer's part.
            described = ocp.metadata(str(checkpoint), checkpointable_name=part)
            notes = described.custom_metadata
            owner = notes.get("run") if isinstance(notes, dict) else None
            if run and owner and owner != run:
                raise UserError(f"{checkpoint} is a checkpoint of another run: {fix}")
            if described.metadata:  # without metadata, loading fails and says so
                _check_same_model(checkpoint, part, described.metadata, wanted)


@contextlib.contextmanager
def _explain_unreadable(checkpoint: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = _find_reason(error)
        if any("barrier" in str(cause).lower().split() for cause in causes(error)):
            raise UserError(f"{checkpoint}: {WAITED} to read it ({reason})") from error
        if damaged := _DAMAGED.search(" ".join(map(str, causes(error)))):
            chunk = f"{damaged[2]}{damaged[1] or ''}".removeprefix(f"{checkpoint}/")
            reason = f"{chunk.rpartition('/c')[0]} has other bytes than were written"
        raise UserError(f"{checkpoint} cannot be read ({reason}): {fix}") from error


def _find_reason(error: Exception) -> str:
    """Return the line that says what went wrong; Orbax and its libraries add many other lines."""
    lines = [str(cause).strip().splitlines() for cause in causes(error)]
    sentences = [line[0] for line in lines if line and len(line[0].split()) > 2]
    reason = sentences[-1] if sentences else type(error).__name__
    return textwrap.shorten(reason.split(" [tensorstore_spec")[0], MAX_REASON, placeholder="...")


def _check_same_model(checkpoint: Path, part: str, stored: Any, wanted: Any) -> None:
    """Refuse a checkpoint whose names or shapes differ from `wanted`.

    Orbax would cut or pad its arrays.
    """
    there, here = _list_shapes(stored), _list_shapes(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{checkpoint} is a checkpoint of another model: {part} {name} is "
                f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} in this run; "
                "restore this run's own checkpoints, or choose another --out"
            )


def _list_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(getattr(x, "shape", ()))
        for path, x in leaves
    }
