"""What a run records: metrics.jsonl with each step once, and TensorBoard events.

Lines are written as steps end and forced to disk before a checkpoint of those steps. A resumed
run cuts the lines after the step it restored, so that a killed run leaves no trace in the file.
A number that is not finite is null: JSON has no other way to say it. The load of every expert in
every layer is many numbers, and written down in the first step and every hundredth alone.
"""

import collections
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from pipelines.errors import UserError

METRICS = "metrics.jsonl"
#: Steps between those in which matrices are written down.
MATRICES_EVERY = 100
#: How much of metrics.jsonl is read at once from its end.
BLOCK_BYTES = 1 << 18


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a run's metrics.jsonl; a last line that a kill cut off is left out."""
    path = run / METRICS
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield _parsed(line, path)


def latest_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a run's metrics.jsonl, the last one first; reads no more than asked."""
    path = run / METRICS
    if path.is_file():
        with open(path, "rb") as file:
            for _, line in _lines_from_end(file):
                yield _parsed(line, path)


def last_step(run: Path) -> int:
    """The newest step in metrics.jsonl, 0 for none."""
    if (run / METRICS).is_file():
        with open(run / METRICS, "rb") as file:
            for _, line in _lines_from_end(file):
                if (found := _step_line(line)) is not None:
                    return found["step"]
    return 0


def _parsed(line: str | bytes, path: Path) -> dict[str, Any]:
    """A step's line.

    Raises:
        UserError: it is none.
    """
    found = _step_line(line)
    if found is None:
        raise UserError(
            f"{path} has a line that is of no step ({line[:40]!r}): restore the file from a copy, "
            "or train again into another --out"
        )
    return found


def _step_line(line: str | bytes) -> dict[str, Any] | None:
    """A step's line; None for what a machine may leave that lost power, or a disk that is bad."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    is_step = isinstance(found, dict) and type(found.get("step")) is int
    return found if is_step else None


def cut_metrics(run: Path, step: int) -> None:
    """Keep the lines of steps 1 to `step`: what follows is cut off the file, in place.

    Raises:
        UserError: a step's line is missing.
    """
    path = run / METRICS
    if not path.is_file() and not step:
        return
    end = 0
    if step:
        found = _end_of_step(path, step) if path.is_file() else None
        if found is None:
            raise UserError(
                f"{path} lacks steps before {step}, which a checkpoint has: restore the file, or "
                "choose another --out"
            )
        end = found
    with open(path, "r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())


def _end_of_step(path: Path, step: int) -> int | None:
    """Where the line of `step` ends, if it is line number `step`."""
    with open(path, "rb") as file:
        for end, line in _lines_from_end(file):
            found = _step_line(line)
            if found is not None and found["step"] <= step:
                return end if found["step"] == step == _count_lines(file, end) else None
    return None


def _count_lines(file: BinaryIO, end: int) -> int:
    count = 0
    file.seek(0)
    while end > 0:
        block = file.read(min(BLOCK_BYTES, end))
        count += block.count(b"\n")
        end -= len(block)
    return count


def _lines_from_end(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The complete lines, the last one first, each with the offset of its end."""
    start = file.seek(0, os.SEEK_END)
    parts: collections.deque[bytes] = collections.deque()  # of the line that begins before `start`
    end: int | None = None  # its end, once its newline is found
    while start:
        size = min(BLOCK_BYTES, start)
        start -= size
        file.seek(start)
        block = file.read(size)
        *earlier, last = block.split(b"\n") if b"\n" in block else [block]
        if not earlier:
            parts.appendleft(block)
            continue
        at = start + len(block) - len(last)  # after the block's last newline
        if end is not None:
            yield end, last + b"".join(parts)
        for line in reversed(earlier[1:]):
            yield at, line
            at -= len(line) + 1
        parts, end = collections.deque([earlier[0]]), at
    if end is not None:
        yield end, b"".join(parts)


def _finite(value: Any) -> Any:
    """Numbers in any depth of lists, null for those that are not finite."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if math.isfinite(value) else None


class Telemetry:
    """Writes metrics.jsonl and TensorBoard events of one run, from one step on."""

    def __init__(self, run: Path, step: int):
        from tensorboardX import SummaryWriter

        cut_metrics(run, step)
        self._file = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record one step.

        Args:
            step: from 1.
            metrics: numbers; vectors, a value of each layer; and matrices, a row of each layer
                with a share of each expert, which TensorBoard shows as a histogram.
        """
        line: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            values = np.asarray(value, np.float64)
            if values.ndim == 2:
                if step != 1 and step % MATRICES_EVERY:
                    continue
                for layer, row in enumerate(values):
                    self._add_shares(f"{name}/{layer}", row, step)
            elif values.ndim == 1:
                for layer, number in enumerate(values.tolist()):
                    self._board.add_scalar(f"{name}/{layer}", number, step)
            else:
                self._board.add_scalar(name, float(values), step)
            line[name] = _finite(values.tolist())
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _add_shares(self, name: str, shares: np.ndarray, step: int) -> None:
        """Add a histogram with a bucket of each expert."""
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
