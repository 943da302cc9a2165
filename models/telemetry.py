"""What a run records: metrics.jsonl with each step once, and TensorBoard events.

Lines are written as steps end and forced to disk before a checkpoint of those steps. A resumed
run cuts the lines after the step it restored, so that a killed run leaves no trace in the file.
A number that is not finite is null: JSON has no other way to say it.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.outputs import write_atomically

METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a run's metrics.jsonl; a last line that a kill cut off is left out."""
    path = run / METRICS
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def cut_metrics(run: Path, step: int) -> None:
    """Keep the lines of steps 1 to `step`.

    Raises:
        UserError: a step's line is missing.
    """
    lines = []
    for metrics in read_metrics(run):
        if metrics["step"] > step:
            break
        lines.append(json.dumps(metrics) + "\n")
        if metrics["step"] != len(lines):
            break
    if len(lines) != step or (lines and json.loads(lines[-1])["step"] != step):
        raise UserError(
            f"{run / METRICS} lacks steps before {step}, which a checkpoint has: restore the file, "
            "or choose another --out"
        )
    write_atomically(run / METRICS, "".join(lines))


class Telemetry:
    """Writes metrics.jsonl and TensorBoard events of one run, from one step on."""

    def __init__(self, run: Path, step: int):
        from tensorboardX import SummaryWriter

        cut_metrics(run, step)
        self._file = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record one step: numbers go to both, arrays (expert loads) to TensorBoard alone."""
        line: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            if np.ndim(value) == 0:
                number = float(value)
                line[name] = number if math.isfinite(number) else None
                self._board.add_scalar(name, number, step)
            else:
                for layer, row in enumerate(np.asarray(value)):
                    self._board.add_scalars(
                        f"{name}/layer_{layer}", {str(i): float(x) for i, x in enumerate(row)}, step
                    )
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Force what was written to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the files."""
        self.sync()
        self._file.close()
        self._board.close()

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
