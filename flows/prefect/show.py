"""Show artifacts, pages and progress of a run in Prefect, beside its logs.

A failure to write an artifact is ignored.
"""

import base64
import contextlib
import functools
import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run as this_flow_run

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import describe_starter
from mswitch.flows.prefect.steps import SERVER_ERRORS, step
from mswitch.flows.reports.downstream import RUN_DATA, RUN_PAGE, write_run_page
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.numbers import with_interval
from mswitch.flows.reports.pair import PAGE, write_report
from mswitch.models.training.metrics import METRICS
from mswitch.pipelines import objects, storage
from mswitch.pipelines.outputs import read_json_object

#: Bytes at the end of metrics.jsonl: enough for its last lines, even with every expert's load.
_TAIL_BYTES = 1 << 20
#: Fewest measured steps whose median estimates the time of a step.
MEASURED_STEPS = 20
_RECENT_STEPS = 100
#: The runs of a report: the baseline's, and the candidates'.
Sides = tuple[Sequence[Path | str], Sequence[Path | str]]


def make_key(*names: str) -> str:
    """Return the key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower()).strip("-")


def show_markdown(key: str, markdown: str) -> None:
    """Show a text; it replaces an earlier text with the same key."""
    with contextlib.suppress(*SERVER_ERRORS):
        create_markdown_artifact(markdown, key)


def show_table(key: str, rows: list[dict[str, Any]], description: str = "") -> None:
    """Show rows, with numbers rounded to four digits, because Prefect shows all digits."""
    shown = [
        {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    ]
    with contextlib.suppress(*SERVER_ERRORS):
        create_table_artifact(shown, key, description)


def show_page(key: str, page: Path, text: str) -> None:
    """Show a text with a link to a page."""
    show_markdown(key, f"{text}: {read_operators().make_link(page)}")


@step("report {out.parent.name}")
def write_page(sides: Sides, out: Path, config: ReportConfig) -> str:
    """Write the report, show its verdict, and return verdict and address.

    It replaces a report of fewer runs, because an experiment may get another seed.
    """
    verdict = report_runs(sides, out, config)["verdict"]
    if (before := locate_so_far(out)).exists():
        shutil.rmtree(before)
    show_report(out, verdict)
    return f"{verdict} {read_operators().make_address(out / PAGE)}"


def locate_so_far(out: Path) -> Path:
    """Return the directory of the report on unfinished runs, beside the final report."""
    return out.with_name(f"{out.name}-so-far")


def report_runs(
    sides: Sides, out: Path, config: ReportConfig, *, unfinished: bool = False
) -> dict[str, Any]:
    """Write a report that names this flow run and who started it; return the report's summary."""
    maker: dict[str, Any] = {"started_by": describe_starter(), "flow_run": this_flow_run.ui_url}
    return write_report(*sides, out, config, unfinished=unfinished, replace=True, **maker)


def show_report(out: Path, verdict: str) -> None:
    """Show a report's verdict, its link, and the loss curves of every candidate."""
    name = out.parent.name
    show_markdown(make_key("verdict", name, out.name), verdict)
    page = f"Report {name}/{out.name}: {read_operators().make_link(out / PAGE)}"
    curves = [base64.b64encode(path.read_bytes()) for path in sorted(out.rglob("pooled.svg"))]
    images = [f"![Loss curves](data:image/svg+xml;base64,{svg.decode()})" for svg in curves]
    show_markdown(make_key("report", name, out.name), "\n\n".join([page, *images]))


@step("index of reports")
def index_reports(storage: Path) -> None:
    """Update the page of all reports, and show it."""
    write_index(storage)
    show_page("reports", storage / "index.html", "All reports")


@step("page of {place.name}")
def show_scores(run: Path | str, place: Path, split: str) -> str:
    """Write and show a fine-tuned run's page and scores; return the first metric's average."""
    page = place.with_name(f"{place.name}-{split}")
    write_run_page(run, page, split=split, replace=True)
    data = read_json_object(page / RUN_DATA)
    lead = data["results"][0]
    rows = []
    for language in data["languages"]:
        scores = language["results"][0]
        [score] = scores["models"]
        low, high = score["ci"] or (None, None)
        row = {name: language[name] for name in ("lang", "rows", "groups")}
        row |= {lead["metric"]: score["value"], "low": low, "high": high}
        rows.append(row | {"majority": scores["majority"]})
    figure = (
        f"{lead['metric']} on {split} of {data['task']['name']}: "
        f"{with_interval(lead['average']['models'][0])}, {data['runs'][0]['reads']}"
    )
    show_table(make_key("scores", place.name, split), rows, figure)
    show_page(make_key("page", place.name, split), page / RUN_PAGE, f"Page of {place.name}")
    return figure


def read_last_metrics(run: Path | str, count: int = 1) -> list[dict[str, Any]]:
    """Return the metrics of the last steps whose lines are complete, at most `count` steps.

    A bucket, whose metrics are as old as the last checkpoint, is read at most once a minute.

    Raises:
        BucketError: it does not answer.
    """
    if isinstance(run, Path):
        tail = _read_tail(run / METRICS)
    else:
        tail = _read_remote_tail(storage.join(run, METRICS), time.monotonic() // 60)
    lines = tail.split(b"\n")
    metrics = []
    for line in lines[-1 - count : -1]:
        with contextlib.suppress(ValueError):
            metrics.append(json.loads(line))
    return metrics


def _read_tail(metrics: Path | str) -> bytes:
    try:
        return storage.head_and_tail(metrics, _TAIL_BYTES)[2]
    except FileNotFoundError:
        return b""


@functools.lru_cache(maxsize=64)
def _read_remote_tail(metrics: str, minute: float) -> bytes:
    del minute
    with objects.reaching(metrics):
        return _read_tail(metrics) if storage.exists(metrics) else b""


def measure_step_secs(run: Path | str) -> float | None:
    """Return the median seconds of a run's last steps; None before enough steps are measured.

    Raises:
        BucketError: the bucket of the run does not answer.
    """
    times = [metrics.get("train/step_secs") for metrics in read_last_metrics(run, _RECENT_STEPS)]
    secs = [value for value in times if value is not None]
    return statistics.median(secs) if len(secs) >= MEASURED_STEPS else None


class TrainingProgress:
    """A progress artifact of a training: percent, loss, steps a second, time left, and a note."""

    def __init__(self, job: Job, steps: int, note: Callable[[], str] = str):
        self._run, self._place = job.out, job.path
        self._steps, self._note = steps, note
        self._id: Any = None

    def update(self) -> None:
        """Update the artifact, unless the bucket of the run does not answer."""
        with contextlib.suppress(objects.BucketError):
            self._update()

    def finish(self) -> None:
        """Show the last step, after the training has ended."""
        _read_remote_tail.cache_clear()
        with contextlib.suppress(*SERVER_ERRORS):
            self.update()

    def _update(self) -> None:
        last = read_last_metrics(self._run)
        if not last:
            return
        [metrics] = last
        percent = 100 * metrics["step"] / self._steps
        if self._id is None:
            key = make_key("train", self._place.parent.name, self._place.name)
            self._id = create_progress_artifact(percent, key, self._describe(metrics))
        else:
            update_progress_artifact(self._id, percent, self._describe(metrics))

    def _describe(self, metrics: Mapping[str, Any]) -> str:
        step, loss = metrics["step"], metrics.get("train/loss")
        parts = [
            f"{self._place.name}: step {step:,} of {self._steps:,}",
            "loss not finite" if loss is None else f"loss {loss:.3f}",
        ]
        if secs := measure_step_secs(self._run):
            left = (self._steps - step) * secs
            parts += [f"{1 / secs:.2f} steps/s", f"{left / 60:.0f} min left"]
        if "router/drop_fraction" in metrics:
            parts.append(f"{metrics['router/drop_fraction']:.1%} of tokens dropped")
        if note := self._note():
            parts.append(note)
        return " · ".join(parts)
