"""Show the losses of trainings that run side by side, in one line."""

import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mswitch.models.training.metrics import METRICS
from mswitch.pipelines.progress import INTERVAL_SECS, say

#: A loss is the median of this number of steps, because single batches differ.
_SMOOTHED_STEPS = 25
#: A rate of steps before this one still contains compilation.
_FIRST_STEPS = 5


def show_losses(name: str, runs: Mapping[str, Path], steps: int, ended: threading.Event) -> None:
    """Print one line on all trainings every ten seconds, until `ended` is set.

    The line has each training's step and training loss, the seconds left, and the step at which
    the first training (the baseline) had the loss that the second has now.

    Args:
        name: the command.
        runs: run directories by the names of their models, the baseline first.
        steps: the last step.
        ended: tells that the trainings have ended.
    """
    begun = dict[str, tuple[float, int]]()
    while not ended.wait(INTERVAL_SECS):
        losses = {model: read_losses(run) for model, run in runs.items()}
        now = time.monotonic()
        for model, values in losses.items():
            if len(values) >= _FIRST_STEPS:
                begun.setdefault(model, (now, len(values)))
        if line := format_line(losses, steps):
            left = [
                (now - start) * (steps - len(losses[model])) / (len(losses[model]) - first)
                for model, (start, first) in begun.items()
                if len(losses[model]) > first
            ]
            say(name, line + (f" · {max(left):.0f} s left" if left else ""))


def format_line(losses: Mapping[str, Sequence[float]], steps: int) -> str:
    """Describe trainings by their losses so far; return "" before all have begun."""
    if not all(losses.values()):
        return ""
    curves = [smooth(values) for values in losses.values()]
    parts = [
        f"{model}: step {len(curve):,} of {steps:,}, loss {curve[-1]:.2f}"
        for model, curve in zip(losses, curves, strict=True)
    ]
    baseline, *others = curves
    if others and len(others[0]) >= _SMOOTHED_STEPS:
        goal = others[0][-1]
        reached = next((step for step, loss in enumerate(baseline, 1) if loss <= goal), None)
        when = f"at step {reached:,}" if reached else "not yet"
        parts[1] += f" ({next(iter(losses))}: {when})"
    return " · ".join(parts)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return for each step the median of the last losses up to it."""
    return [
        statistics.median(losses[max(0, end - _SMOOTHED_STEPS) : end])
        for end in range(1, len(losses) + 1)
    ]


def read_losses(run: Path) -> list[float]:
    """Read the training loss of each step so far; a line that is being written is left out."""
    path = run / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    values = (json.loads(line).get("train/loss") for line in lines if line.endswith("\n"))
    return [value for value in values if value is not None]
