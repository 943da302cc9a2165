"""Which steps of a training are bad: no finite loss or gradient, or a spike of the loss.

The verdict on a step is a function of the losses before it, which metrics.jsonl holds: a resumed
run, and every process of a job, comes to the same one.
"""

import collections
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.telemetry import latest_metrics
from pipelines.errors import UserError

#: Steps whose losses a loss is compared with, and how many of them there must be.
WINDOW_STEPS = 100
MIN_STEPS = 20


class LossWatch:
    """Compares each loss with those before it.

    Args:
        spike: standard deviations above the mean at which a loss is a spike; None for never.
        history: metrics of the last `WINDOW_STEPS + 1` steps or more, in order.

    Attributes:
        skipped: steps in a row, up to the last, whose update was left out.
    """

    def __init__(self, spike: float | None, history: Iterable[Mapping[str, Any]] = ()):
        self.skipped = 0
        self._spike = spike
        self._losses: collections.deque[tuple[int, float]] = collections.deque(
            maxlen=WINDOW_STEPS + 1
        )
        for metrics in history:
            self.add(metrics)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Remember a step's loss, unless the step was skipped."""
        if metrics.get("train/skipped"):
            self.skipped += 1
        else:
            self.skipped = 0
            # From JSON it is a float already; NumPy would add up float32 otherwise.
            self._losses.append((int(metrics["step"]), float(metrics["train/loss"])))

    def limit(self, step: int) -> float:
        """The largest loss that is no spike at `step`.

        The step before it does not count: its loss is not known yet when `step` begins.
        """
        if self._spike is None:
            return math.inf
        before = [loss for at, loss in self._losses if step - 1 - WINDOW_STEPS <= at < step - 1]
        if len(before) < MIN_STEPS:
            return math.inf
        # In float32, as the device compares.
        return float(np.float32(np.mean(before) + self._spike * np.std(before)))

    def fault(self, metrics: Mapping[str, Any]) -> str | None:
        """Say what is wrong with a step, if anything."""
        loss, norm = float(metrics["train/loss"]), float(metrics["train/gradient_norm"])
        limit = self.limit(int(metrics["step"]))
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradient became {norm} (the loss is {loss:.4f})"
        if loss > limit:
            return f"the loss jumped to {loss:.4f} (--loss-spike allows {limit:.4f})"
        return None


class Rewinds:
    """What came of going back to each checkpoint: whether it is ruined, and how often it was tried.

    A checkpoint has the parameters after its step's update, which no loss has judged yet. The step
    after it does: once good, the checkpoint is; twice bad, on two batches, it is taken for ruined.
    """

    def __init__(self) -> None:
        self._times: collections.Counter[int] = collections.Counter()
        self._bad_at_once: collections.Counter[int] = collections.Counter()
        self._good: set[int] = set()

    def is_ruined(self, checkpoint: int, bad_step: int) -> bool:
        """Take note of the bad step that came after the newest checkpoint, and judge that one."""
        if bad_step > checkpoint + 1:
            self._good.add(checkpoint)
        if not checkpoint or checkpoint in self._good:
            return False
        self._bad_at_once[checkpoint] += 1
        return self._bad_at_once[checkpoint] > 1

    def set_aside(self, checkpoint: int, before: int) -> None:
        """Forget one that is gone; the one before it is good, as steps went on from there."""
        del self._bad_at_once[checkpoint], self._times[checkpoint]
        self._good.add(before)

    def times(self, checkpoint: int) -> int:
        """Count going back to a checkpoint once more."""
        self._times[checkpoint] += 1
        return self._times[checkpoint]


def recent_losses(run: Path) -> list[dict[str, Any]]:
    """What `LossWatch` needs to go on after the last step of metrics.jsonl."""
    wanted = ("step", "train/loss", "train/skipped")
    lines = list(itertools.islice(latest_metrics(run), WINDOW_STEPS + 1))[::-1]
    return [{name: line[name] for name in wanted if name in line} for line in lines]


def last_loss(run: Path) -> float:
    """The loss of the last step that has one.

    Raises:
        UserError: none has.
    """
    for line in latest_metrics(run):
        if line["train/loss"] is not None:
            return line["train/loss"]
    raise UserError(f"no step of {run} has a loss: lower --base-learning-rate")
