"""Detect bad training steps, and skip them or stop the run.

A step is bad if its loss or gradient is not finite, or if its loss is a spike. The verdict depends
on the losses before it, which metrics.jsonl holds. So a resumed run, and every process of a job,
reaches the same verdict. `mswitch.models.training.step` omits the update of a skipped step.
"""

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mswitch.models.config import BadLossPolicy
from mswitch.models.training.distributed import JobError, say_once

WINDOW_STEPS = 100
#: With fewer earlier losses than this, no loss counts as a spike.
MIN_STEPS = 20
HISTORY_STEPS = WINDOW_STEPS + 1
#: Number of bad steps in a row that `skip` allows; the next one ends the run.
PATIENCE = 10


class LossWatch:
    """Compares each loss with the losses before it.

    Args:
        spike: standard deviations above the mean at which a loss is a spike; None for never.
        history: metrics of the last `HISTORY_STEPS` steps or more, in order.

    Attributes:
        skipped: steps in a row, up to the last, whose update was left out.
        last_loss: the loss of the newest step that was not skipped, or None.
    """

    def __init__(self, spike: float | None, history: Iterable[Mapping[str, Any]] = ()):
        self.skipped = 0
        self.last_loss: float | None = None
        self._spike = spike
        self._losses: collections.deque[tuple[int, float]] = collections.deque(maxlen=HISTORY_STEPS)
        for metrics in history:
            self.add(metrics)

    def judge(
        self, metrics: Mapping[str, Any], policy: BadLossPolicy, checkpoint: str | None
    ) -> None:
        """Judge a step: remember it, log it if it is skipped, or end the run by a JobError.

        The policy `skip` ends a run after `PATIENCE` skipped steps, `stop` at the first bad step.
        `checkpoint` is the newest checkpoint's path, if any.
        """
        step = int(metrics["step"])
        if fault := self.find_fault(metrics):
            if policy == "stop" or self.skipped >= PATIENCE:
                raise JobError(_explain_stop(step, fault, policy, checkpoint))
            say_once("train", f"step {step:,}: {fault}; its update is skipped")
        self.add(metrics)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Remember a step's loss, unless the step was skipped."""
        if metrics.get("train/skipped"):
            self.skipped += 1
            return
        self.skipped = 0
        # Convert a new loss, because NumPy would sum float32 values in float32.
        self.last_loss = float(metrics["train/loss"])
        self._losses.append((int(metrics["step"]), self.last_loss))

    def find_limit(self, step: int) -> float:
        """Return the largest loss that is not a spike at `step`.

        The step before does not count: its loss is not yet known when `step` begins.
        """
        if self._spike is None:
            return math.inf
        before = [loss for at, loss in self._losses if step - 1 - WINDOW_STEPS <= at < step - 1]
        if len(before) < MIN_STEPS:
            return math.inf
        # Round to float32, because the device compares float32 values.
        return float(np.float32(np.mean(before) + self._spike * np.std(before)))

    def find_fault(self, metrics: Mapping[str, Any]) -> str | None:
        """Return a description of the fault of a step, or None."""
        loss, norm = float(metrics["train/loss"]), float(metrics["train/gradient_norm"])
        limit = self.find_limit(int(metrics["step"]))
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradient became {norm} (the loss is {loss:.4f})"
        if loss > limit:
            return f"the loss jumped to {loss:.4f} (--loss-spike allows {limit:.4f})"
        return None


def _explain_stop(step: int, fault: str, policy: BadLossPolicy, checkpoint: str | None) -> str:
    if policy == "skip":
        reason = f", after {PATIENCE} skipped steps"
        advice = f"remove {checkpoint} to continue from the one before" if checkpoint else ""
    else:
        reason, advice = "", "give the same command with --on-bad-loss skip"
    newest = (
        f"the newest checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
    )
    other = "train into another --out with a lower --base-learning-rate or --dtype float32"
    ways = f"{advice}, or {other}" if advice else other
    return f"step {step:,}: {fault}{reason}; {newest}. To continue, {ways}"
