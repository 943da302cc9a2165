"""Places of this machine for trainings: so many train at a time, whichever flow or command asks.

A place is the lock file of an attempt (`mswitch.flows.jobs.local`), and taken for as long as that
is held: the kernel frees the place of a training that was killed.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mswitch.flows.jobs.job import Job, NoPlace
from mswitch.pipelines.directory_lock import is_held
from mswitch.pipelines.outputs import write_atomically

#: Commands that train, and so need a place.
TRAININGS = ("train", "finetune", "distill")


def take_place(job: Job, lock: Path, limit: int) -> None:
    """Give a place to the attempt whose lock the caller holds, if the job trains.

    Raises:
        NoPlace: others have all of them.
    """
    if job.argv[0] not in TRAININGS:
        return
    file = _places_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{file}.lock", "ab") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        others = [other for other in _taken() if other != lock]
        if len(others) >= limit:
            raise NoPlace(_describe(others))
        write_atomically(file, json.dumps([*map(str, others), str(lock)]))


def describe_wait(job: Job) -> str:
    """Say for whom a job waits; empty if it needs no place, or nobody has one."""
    return _describe(_taken()) if job.argv[0] in TRAININGS else ""


def _taken() -> list[Path]:
    try:
        locks = map(Path, json.loads(_places_file().read_bytes()))
    except (FileNotFoundError, ValueError):  # after a loss of power it may hold zeros
        return []
    return [lock for lock in locks if is_held(lock)]


def _describe(locks: Sequence[Path]) -> str:
    outs = [lock.parent.with_name(lock.parent.name[1:].removesuffix(".job")) for lock in locks]
    return f"waiting for a place, taken by {', '.join(map(str, outs))}" if outs else ""


def _places_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    # A home may be on several machines.
    return Path(state) / "mswitch" / f"trainings-{os.uname().nodename}.json"
