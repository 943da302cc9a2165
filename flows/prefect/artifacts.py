"""What a person sees of a run in Prefect besides its logs. All of it may fail without harm."""

import contextlib
import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect.profile import read_operators
from mswitch.flows.prefect.steps import SERVER_ERRORS
from mswitch.models.training.metrics import METRICS
from mswitch.pipelines import objects, storage

#: Enough for the last lines of metrics.jsonl, loads of all experts included.
_TAIL_BYTES = 1 << 20


def key_of(*names: str) -> str:
    """The key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower()).strip("-")


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


class TrainingProgress:
    """A progress artifact of a training: percent, loss, steps a second, time left, and a note."""

    def __init__(self, job: Job, steps: int, note: Callable[[], str] = str):
        self._run, self._place = job.out, job.place
        self._steps, self._note = steps, note
        self._id: Any = None
        self._before: tuple[int, float] | None = None
        self._rate = 0.0

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
        step, now = metrics["step"], time.monotonic()
        if self._before is not None and step > self._before[0]:
            self._rate = (step - self._before[0]) / (now - self._before[1])
        if self._before is None or step > self._before[0]:
            self._before = step, now
        percent = 100 * step / self._steps
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
        if self._rate:
            left = (self._steps - step) / self._rate
            parts += [f"{self._rate:.2f} steps/s", f"{left / 60:.0f} min left"]
        if "router/drop_fraction" in metrics:
            parts.append(f"{metrics['router/drop_fraction']:.1%} of tokens dropped")
        if note := self._note():
            parts.append(note)
        return " · ".join(parts)


def show_markdown(key: str, markdown: str) -> None:
    """Show a text; one of the same key replaces the one before."""
    with contextlib.suppress(*SERVER_ERRORS):
        create_markdown_artifact(markdown, key)


def show_table(key: str, rows: list[dict[str, Any]], description: str = "") -> None:
    """Show rows, numbers with four digits: Prefect shows all that there are."""
    shown = [
        {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    ]
    with contextlib.suppress(*SERVER_ERRORS):
        create_table_artifact(shown, key, description)


def show_page(key: str, page: Path, text: str) -> None:
    """Show where a page is."""
    show_markdown(key, f"{text}: {read_operators().link(page)}")
