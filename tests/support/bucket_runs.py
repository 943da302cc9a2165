"""Runs in buckets: how tests start them, look at them, and copy them."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from trained_runs import assert_same

from mswitch.pipelines import objects, storage

SCRIPT = Path(__file__).with_name("train_child.py")
#: Short, but longer than a busy machine may keep a renewal waiting.
LEASE_SECS = 8


def steps_in(run: str) -> dict[int, int]:
    """Number of files of each checkpoint in a bucket."""
    found: dict[int, int] = {}
    for name in storage.file_sizes(f"{run}/checkpoints"):
        step = int(name.partition("/")[0])
        found[step] = found.get(step, 0) + 1
    return found


def has_saved(run: str, *processes: subprocess.Popen[str], after: int = 0) -> Callable[[], bool]:
    """Whether there is a later checkpoint in the bucket, while all these processes run."""

    def condition() -> bool:
        assert [process.poll() for process in processes] == [None] * len(processes)
        time.sleep(0.5)  # the store answers the trainings too
        return max(steps_in(run), default=0) > after

    return condition


def assert_same_runs(made: Path, undisturbed: Path, steps: int) -> None:
    """Compare all that training leaves, but for times and where the examples were."""
    for name in ("_COMPLETED", "config.json"):
        ours, theirs = (json.loads((each / name).read_bytes()) for each in (made, undisturbed))
        for described in (ours, theirs) if name == "config.json" else ():
            described["examples"].pop("path")
        assert ours == theirs
    assert_same(made, undisturbed, steps)


def copied(run: str, out: Path) -> Path:
    """Fetch a run from a bucket."""
    for name in storage.file_sizes(run):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        objects.download(f"{run}/{name}", out / name)
    return out
