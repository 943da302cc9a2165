"""Record a run: metrics.jsonl with each step once, and TensorBoard events.

Lines are written as steps end, and forced to disk before a checkpoint of those steps. A resumed run
cuts the lines after its restored step, so that a killed run leaves no trace in the file. A number
that is not finite becomes null, since JSON cannot express it. The load of every expert in every
layer is many numbers, so only the first and every hundredth step record it.
"""

import collections
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines.errors import UserError

METRICS = "metrics.jsonl"
MATRICES_EVERY = 100


def cut_metrics(run: Path, step: int, recent: int = 1) -> list[dict[str, Any]]:
    """Cut metrics.jsonl in place after the line of `step`.

    A million lines of a kilobyte take about two seconds.

    Returns:
        The metrics of the last `recent` steps, in order; fewer if there are fewer.
    """
    path = run / METRICS
    if not path.is_file() and not step:
        return []
    lines: collections.deque[bytes] = collections.deque(maxlen=recent)
    count = end = 0
    try:
        with open(path, "r+b") as file:
            for line in itertools.islice(file, step):
                count, end = count + 1, end + len(line)
                lines.append(line)
            metrics = [json.loads(line) for line in lines]
            if count != step or (step and metrics[-1]["step"] != step):
                raise ValueError(f"it has {count:,} lines up to there")
            file.truncate(end)
            os.fsync(file.fileno())
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} lacks steps up to {step}, which a checkpoint has ({error}): restore the file, "
            "or choose another --out"
        ) from error
    return metrics


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each step of metrics.jsonl, in order."""
    path = run / METRICS
    if not path.is_file() or not path.stat().st_size:
        raise UserError(f"{path} is missing or empty: restore it, or train the run again")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                metrics = json.loads(line)
                int(metrics["step"])
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}, is not JSON of a step: restore the file, or train the "
                    "run again"
                ) from error
            yield metrics


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, list):
        return [_replace_infinite(item) for item in value]
    return value if math.isfinite(value) else None


def select_written(step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Select the metrics that a step records, so that no other metrics leave the device."""
    matrices = step == 1 or step % MATRICES_EVERY == 0
    return {name: value for name, value in metrics.items() if matrices or value.ndim < 2}


class MetricsWriter:
    """Writes metrics.jsonl and TensorBoard events of one run, for steps after `step`.

    Attributes:
        history: metrics of the last `recent` steps before.
    """

    def __init__(self, run: Path, step: int, recent: int = 1):
        """Cut the metrics after `step`."""
        from tensorboardX import SummaryWriter

        self.history = cut_metrics(run, step, recent)
        self._file = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record one step.

        Args:
            step: number of the step, from 1.
            metrics: numbers; vectors with a value per layer; and matrices with a row per layer
                and a share per expert, which TensorBoard shows as a histogram.
        """
        line: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            values = np.asarray(value, np.float64)
            if values.ndim == 2:
                for layer, row in enumerate(values):
                    self._add_shares(f"{name}/{layer}", row, step)
            elif values.ndim == 1:
                for layer, number in enumerate(values.tolist()):
                    self._board.add_scalar(f"{name}/{layer}", number, step)
            else:
                self._board.add_scalar(name, float(values), step)
            line[name] = _replace_infinite(values.tolist())
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _add_shares(self, name: str, shares: np.ndarray, step: int) -> None:
        experts = np.arange(shares.size)
        self._board.add_histogram_raw(
            name,
            min=0,
            max=shares.size,
            num=shares.sum(),
            sum=(experts * shares).sum(),
            sum_squares=(experts**2 * shares).sum(),
            bucket_limits=(experts + 1).tolist(),
            bucket_counts=shares.tolist(),
            global_step=step,
        )

    def sync(self) -> None:
        """Flush all lines to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        self.sync()
        self._file.close()
        self._board.close()
