"""How far a training is, how fast, and how long it will take, from the metrics it writes."""

import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect.artifacts import key_of
from mswitch.flows.prefect.steps import SERVER_ERRORS
from mswitch.models.training.metrics import METRICS
from mswitch.pipelines import objects, storage

#: Enough for the last lines of metrics.jsonl, loads of all experts included.
_TAIL_BYTES = 1 << 20
#: Steps after which their median is taken for the rest.
MEASURED_STEPS = 20
_RECENT_STEPS = 100


def last_metrics(run: Path | str, count: int = 1) -> list[dict[str, Any]]:
    """The metrics of the last steps that a run wrote down whole, at most `count` of them.

    A bucket, in which they are as old as the last checkpoint, is asked once a minute.

    Raises:
        BucketError: it does not answer.
    """
    if isinstance(run, Path):
        tail = _tail(run / METRICS)
    else:
        tail = _remote_tail(storage.join(run, METRICS), time.monotonic() // 60)
    lines = tail.split(b"\n")
    found = []
    for line in lines[-1 - count : -1]:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _tail(metrics: Path | str) -> bytes:
    try:
        return storage.head_and_tail(metrics, _TAIL_BYTES)[2]
    except FileNotFoundError:
        return b""


@functools.lru_cache(maxsize=64)
def _remote_tail(metrics: str, minute: float) -> bytes:
    del minute
    with objects.reaching(metrics):
        return _tail(metrics) if storage.exists(metrics) else b""


def step_secs(run: Path | str) -> float | None:
    """Seconds of a step, the median of a run's last ones; None before there are enough.

    Raises:
        BucketError: the bucket of the run does not answer.
    """
    found = [one.get("train/step_secs") for one in last_metrics(run, _RECENT_STEPS)]
    secs = [one for one in found if one is not None]
    return statistics.median(secs) if len(secs) >= MEASURED_STEPS else None


class TrainingProgress:
    """A progress artifact of a training: percent, loss, steps a second, time left, and a note."""

    def __init__(self, job: Job, steps: int, note: Callable[[], str] = str):
        self._run, self._place = job.out, job.place
        self._steps, self._note = steps, note
        self._id: Any = None

    def update(self) -> None:
        """Bring it up to date, where the bucket of the run answers."""
        with contextlib.suppress(objects.BucketError):
            self._update()

    def finish(self) -> None:
        """Show the last step, once the training has ended."""
        _remote_tail.cache_clear()
        with contextlib.suppress(*SERVER_ERRORS):
            self.update()

    def _update(self) -> None:
        found = last_metrics(self._run)
        if not found:
            return
        [metrics] = found
        percent = 100 * metrics["step"] / self._steps
        if self._id is None:
            key = key_of("train", self._place.parent.name, self._place.name)
            self._id = create_progress_artifact(percent, key, self._describe(metrics))
        else:
            update_progress_artifact(self._id, percent, self._describe(metrics))

    def _describe(self, metrics: Mapping[str, Any]) -> str:
        step, loss = metrics["step"], metrics.get("train/loss")
        parts = [
            f"{self._place.name}: step {step:,} of {self._steps:,}",
            "loss not finite" if loss is None else f"loss {loss:.3f}",
        ]
        if secs := step_secs(self._run):
            left = (self._steps - step) * secs
            parts += [f"{1 / secs:.2f} steps/s", f"{left / 60:.0f} min left"]
        if "router/drop_fraction" in metrics:
            parts.append(f"{metrics['router/drop_fraction']:.1%} of tokens dropped")
        if note := self._note():
            parts.append(note)
        return " · ".join(parts)
