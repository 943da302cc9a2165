"""Limit the number of trainings that run on this machine at a time, over all flows and commands.

A place is the lock file of an attempt (`mswitch.flows.jobs.local`). It is taken as long as the lock
is held, so the kernel frees the place of a training that was killed.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mswitch.flows.jobs.job import Job, NoPlace, Unreachable
from mswitch.pipelines.directory_lock import is_held
from mswitch.pipelines.outputs import write_atomically

TRAININGS = ("train", "finetune", "distill")


def take_place(job: Job, lock: Path, limit: int) -> None:
    """If a job trains, add its attempt to the list of trainings that run on this machine.

    `lock` is the attempt's lock file, which the caller holds.

    Raises:
        NoPlace: other trainings take all places.
        Unreachable: the list of places cannot be written.
    """
    if job.argv[0] not in TRAININGS:
        return
    file = _locate_places_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{file}.lock", "ab") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            others = [other for other in _list_taken() if other != lock]
            if len(others) >= limit:
                raise NoPlace(_describe(others))
            write_atomically(file, json.dumps([*map(str, others), str(lock)]))
    except OSError as error:
        raise Unreachable(
            f"cannot write the places of trainings in {file.parent} ({error.strerror}): set "
            "XDG_STATE_HOME to a directory of yours on this machine"
        ) from error


def describe_wait(job: Job) -> str:
    """Name the running trainings that a job waits for; return "" if the job does not train."""
    return _describe(_list_taken()) if job.argv[0] in TRAININGS else ""


def _list_taken() -> list[Path]:
    try:
        locks = json.loads(_locate_places_file().read_bytes())
    except (OSError, ValueError):  # after a power failure the file may contain zeros
        return []
    return [Path(lock) for lock in locks if _is_held(lock)] if isinstance(locks, list) else []


def _is_held(lock: object) -> bool:
    """Return whether a training holds this lock; a lock that cannot be read counts as free."""
    with contextlib.suppress(OSError):
        return isinstance(lock, str) and is_held(Path(lock))
    return False


def _describe(locks: Sequence[Path]) -> str:
    outs = [lock.parent.with_name(lock.parent.name[1:].removesuffix(".job")) for lock in locks]
    return f"waiting for a place, taken by {', '.join(map(str, outs))}" if outs else ""


def _locate_places_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):  # the user has no home directory
        state = os.path.join(tempfile.gettempdir(), f"mswitch-{os.getuid()}")
    # Several machines may share a home directory.
    return Path(state) / "mswitch" / f"trainings-{os.uname().nodename}.json"
