"""Runs in buckets: how tests start them, look at them, and copy them."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import train_child as child
from trained_runs import TIMES

from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.state import Skeleton
from mswitch.pipelines import objects, storage

SCRIPT = Path(__file__).with_name("train_child.py")
#: Short, but longer than a busy machine may keep a renewal waiting.
LEASE_SECS = 8


def metrics(data: bytes) -> list[dict]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in data.splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in lines]


def final_arrays(preset: str, steps: int, checkpoints: Path) -> list[np.ndarray]:
    """Parameters and moments of the last step."""
    import jax

    plan = child.plan(preset, steps)
    like = Skeleton.of(plan.model, plan.train).abstract_state(optimizer_of(plan.train))
    state = Checkpoints(checkpoints, ()).restore(steps, like)
    return [np.asarray(x) for x in jax.tree.leaves(state)]


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


def assert_same_runs(made: Path, undisturbed: Path, preset: str, steps: int) -> None:
    """Compare all that training leaves, but for times and where the examples were."""
    for name in ("_COMPLETED", "config.json"):
        ours, theirs = (json.loads((each / name).read_bytes()) for each in (made, undisturbed))
        for described in (ours, theirs) if name == "config.json" else ():
            described["examples"].pop("path")
        assert ours == theirs
    ours, theirs = (metrics((each / "metrics.jsonl").read_bytes()) for each in (made, undisturbed))
    assert ours == theirs
    one, other = (final_arrays(preset, steps, each / "checkpoints") for each in (made, undisturbed))
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def copied(run: str, out: Path) -> Path:
    """Fetch a run from a bucket."""
    for name in storage.file_sizes(run):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        objects.download(f"{run}/{name}", out / name)
    return out
