"""Checkpoints of a run: written by Orbax in the background, found again only when complete.

A checkpoint is the directory `checkpoints/<step>`, where `step` is the number of optimizer steps
done. Orbax writes it under a temporary name, commits a timestamp to its metadata and renames it.
A name alone proves nothing: a killed `rm -r`, or a copy that stopped, leaves directories behind.

All processes of a job save and restore together, on a file system they share; process 0 removes.
Where the run is in a bucket, each has a working copy (`mswitch.models.training.run_files`) and
saves its own part there, in files that no other process has. A checkpoint is then the files of all.
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

#: End of the name of a checkpoint that lacks a part.
INCOMPLETE = "incomplete"

#: What to do if a checkpoint cannot be read.
RESTORE_IT = "restore it from a copy, or train again into another --out"
#: What TensorStore says of an array whose bytes are not those that were written.
_DAMAGED = re.compile(
    r'in (?:"([^"]+)" in OCDBT database at )?local file "([^"]+)"[^"]*: Digest mismatch'
)

#: Characters of a reason that a library gives.
MAX_REASON = 400

#: Of what Orbax logs, with pages of tracebacks, beside the exceptions that we get.
RAISED_TOO = ("_SignalingThread.run() raised", "Failed to get metadata for checkpointable")
logging.getLogger("absl").addFilter(
    lambda record: not any(text in str(record.msg) for text in RAISED_TOO)
)

_build_zarr3_metadata = tensorstore_utils._build_zarr3_metadata


def _build_checked_metadata(*shape: Any, **options: Any) -> dict[str, Any]:
    """Give each chunk of an array a CRC-32C, which is checked when it is read.

    Zarr has a codec for this. Orbax has no option for it: it only protects the index of the chunks.
    """
    metadata = _build_zarr3_metadata(*shape, **options)
    for codec in metadata["codecs"]:
        codec["configuration"]["codecs"].append({"name": "crc32c"})
    return metadata


tensorstore_utils._build_zarr3_metadata = _build_checked_metadata

STEP = re.compile(r"0|[1-9][0-9]*")
#: Names of what Orbax is still writing and of what `Checkpoints` is still removing.
LEFTOVER = re.compile(r"(.*\.orbax-checkpoint-tmp.*|\.[0-9]+\.removed)")


def is_complete(checkpoint: Path) -> bool:
    """Whether Orbax committed this checkpoint and both its parts are there."""
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


def complete_steps(directory: Path) -> list[int]:
    """Steps of all complete checkpoints in `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in _named_by_step(directory) if is_complete(path))


def find_step(files: "RunFiles", asked: int | None) -> int:
    """The step of a run's checkpoint: the one asked for, or the newest."""
    steps = complete_steps(files.directory / CHECKPOINTS)
    if not steps:
        raise UserError(f"{files.place} has no checkpoint yet: train it first")
    if asked is not None and asked not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"{files.place} has no checkpoint of step {asked}: choose among {known}")
    return steps[-1] if asked is None else asked


def chosen_step(files: "RunFiles", asked: int | None) -> int:
    """The step to answer with: the one asked for, the one that was selected, or the newest."""
    path = files.directory / SELECTED
    if asked is None and path.is_file():
        asked = int(read_json_object(path)["step"])
    return find_step(files, asked)


def _named_by_step(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if STEP.fullmatch(path.name)]


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        directory: where they are.
        place: the same, or its URL, for messages.
        kept: steps whose checkpoints stay; others go once a newer one is known to be good.
        run: the run's `config_hash`, which a checkpoint carries; empty where any run's will do.
        files: those of the run, if checkpoints are to be sent to where it lies.
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
        """Whether each process of a job has a directory of its own."""
        return self._files is not None and self._files.is_copy and jax.process_count() > 1

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return max(complete_steps(self.directory), default=None)

    def remove_leftovers(self) -> None:
        """Remove what killed runs left: unfinished writes, checkpoints that were being removed.

        What has a checkpoint's name and is none, which neither leaves, is set aside: somebody may
        want to mend it. What has a name that is not ours is somebody else's, and stays.
        """
        if not self.directory.is_dir():
            return
        for path in list(self.directory.iterdir()):
            if LEFTOVER.fullmatch(path.name) and path.is_dir():
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise UserError(
                        f"{path}, left by a run that was killed, cannot be removed "
                        f"({error.strerror or error}): remove it, and give the same command again"
                    ) from error
        for path in _named_by_step(self.directory):
            if path.is_dir() and not is_complete(path):
                names = (path.with_suffix(f".{INCOMPLETE}{n or ''}") for n in itertools.count())
                aside = path.rename(next(name for name in names if not name.exists()))
                say_once("train", f"{path} is not a complete checkpoint: it is {aside} now")

    def save(self, state: TrainState, step: int, *, prune: bool = True) -> None:
        """Start to save `state`; a save still under way is waited for first.

        What a step recorded is from before its update: only the steps after a checkpoint tell
        whether it is good. So the newest stays until the next is saved. The caller has made sure
        that everything that belongs to these steps (metrics) is on disk.

        Args:
            state: after `step` steps.
            step: the checkpoint's name.
            prune: whether the steps since the newest checkpoint were good: older ones go.
        """
        self.wait()
        if prune:
            self.prune()
        fault_point("train.before_checkpoint")
        if jax.default_backend() == "cpu":
            # The next step reuses the state's memory, of which a host copy here is a mere view.
            state = jax.tree.map(jnp.copy, state)
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        parts, path = _parts(state), self.directory / str(step)
        notes: dict[str, Any] = {"run": self.run}
        if self._is_apart:
            wait = _save_apart(path, parts, notes)
        else:
            wait = ocp.save_checkpointables_async(str(path), parts, custom_metadata=notes).result
        self._pending = step, self._files.when_saved(step, wait) if self._files else wait
        fault_point("train.during_checkpoint")

    def wait(self) -> None:
        """Wait until the save under way is complete."""
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
        """Remove checkpoints that are neither kept nor the newest."""
        if not is_first() and not self._is_apart:
            return
        try:
            steps = complete_steps(self.directory)
        except UserError:
            return  # no reason to stop training: the next save prunes
        kept = self._files.prune(self.kept) if self._files else self.kept
        for old in steps[:-1]:
            if old not in kept:
                # Renamed first, so that no moment shows a half-removed checkpoint by its name.
                hidden = self.directory / f".{old}.removed"
                (self.directory / str(old)).rename(hidden)
                shutil.rmtree(hidden)

    def restore(self, step: int, like: TrainState, fix: str = "") -> TrainState:
        """Load the whole state, onto the devices `like` names.

        Args:
            step: of the checkpoint.
            like: shapes, types and shardings of the state.
            fix: what to do if it cannot be read; empty for a run that goes on.
        """
        checkpoint = self.directory / str(step)
        fix = fix or self._advise(step)
        loaded = _load(checkpoint, _parts(like), self.run, fix)
        optimizer = loaded[OPTIMIZER]
        if int(optimizer["step"]) != step:
            raise JobError(f"{checkpoint} is a checkpoint of step {optimizer['step']}: {fix}")
        return TrainState(loaded[PARAMETERS], optimizer["moments"], optimizer["step"])

    def _advise(self, step: int) -> str:
        """Say what to do if the checkpoint of a step cannot be read."""
        steps = set(self._files.steps if self._files else ())
        with contextlib.suppress(UserError):  # which reading it will raise
            steps.update(complete_steps(self.directory))
        if before := [other for other in steps if other < step]:
            return f"remove it, and training continues from the checkpoint of step {max(before):,}"
        return RESTORE_IT


def _save_apart(path: Path, parts: dict[str, Any], notes: dict[str, Any]) -> Callable[[], Any]:
    """Start to save what this process holds of a state; give a function that waits for it.

    Orbax's newer interface insists on one path for all processes. Without OCDBT, whose index is
    made of the files of all processes, each chunk of an array is a file.
    """
    options = v0.options.MultiprocessingOptions(primary_host=None)  # each finds its own files alone
    # In the background, a process would take another's directories for its own that are there.
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


def _parts(state: TrainState) -> dict[str, Any]:
    optimizer = {"moments": state.moments, "step": state.step}
    return {PARAMETERS: state.parameters, OPTIMIZER: optimizer}


def restore_parameters(files: "RunFiles", step: int, like: Parameters, run: str = "") -> Parameters:
    """Load a checkpoint's parameters without its optimizer state, as `like` has them placed.

    `run` is the `config_hash` of the run that it must be of, if it says; empty where any will do.
    """
    checkpoint = files.directory.absolute() / CHECKPOINTS / str(step)
    with files.checkpoint(step):
        return _load(checkpoint, {PARAMETERS: like}, run, RESTORE_IT)[PARAMETERS]


def _load(checkpoint: Path, like: dict[str, Any], run: str, fix: str) -> dict[str, Any]:
    def load() -> dict[str, Any]:
        with _readable(checkpoint, fix):
            return ocp.load_checkpointables(str(checkpoint), like)

    # Orbax lets a process that cannot read its part keep the others waiting for minutes: what each
    # can find out alone comes first.
    together(lambda: _check(checkpoint, like, run, fix))
    return together(load)


def _check(checkpoint: Path, like: dict[str, Any], run: str, fix: str) -> None:
    with _readable(checkpoint, fix):
        for part, wanted in like.items():
            # Of this part alone: a working copy may lack the other
            # (`mswitch.models.training.run_files`).
            described = ocp.metadata(str(checkpoint), checkpointable_name=part)
            notes = described.custom_metadata
            of_run = notes.get("run") if isinstance(notes, dict) else None
            if run and of_run and of_run != run:
                raise UserError(f"{checkpoint} is a checkpoint of another run: {fix}")
            if described.metadata:  # what cannot be described cannot be loaded either
                _check_same_model(checkpoint, part, described.metadata, wanted)


@contextlib.contextmanager
def _readable(checkpoint: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = _innermost_reason(error)
        if any("barrier" in str(cause).lower().split() for cause in causes(error)):
            raise UserError(f"{checkpoint}: {WAITED} to read it ({reason})") from error
        if damaged := _DAMAGED.search(" ".join(map(str, causes(error)))):
            chunk = f"{damaged[2]}{damaged[1] or ''}".removeprefix(f"{checkpoint}/")
            reason = f"{chunk.rpartition('/c')[0]} has other bytes than were written"
        raise UserError(f"{checkpoint} cannot be read ({reason}): {fix}") from error


def _innermost_reason(error: Exception) -> str:
    """The line of an error that Orbax wraps in pages about its handlers, as do its libraries."""
    lines = [str(cause).strip().splitlines() for cause in causes(error)]
    sentences = [line[0] for line in lines if line and len(line[0].split()) > 2]
    reason = sentences[-1] if sentences else type(error).__name__
    return textwrap.shorten(reason.split(" [tensorstore_spec")[0], MAX_REASON, placeholder="...")


def _check_same_model(checkpoint: Path, part: str, found: Any, wanted: Any) -> None:
    """Compare names and shapes: Orbax itself would cut or pad an array that does not fit."""
    there, here = _shapes(found), _shapes(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{checkpoint} is a checkpoint of another model: {part} {name} is "
                f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} in this run; "
                "restore this run's own checkpoints, or choose another --out"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted name, whether a level of the tree is a dictionary or a named tuple."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(getattr(x, "shape", ()))
        for path, x in leaves
    }
