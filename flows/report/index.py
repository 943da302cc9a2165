"""One page over all reports in a place, which people bookmark, and the same as JSON."""

import datetime
import os
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, FiniteFloat, NonNegativeInt
from pydantic_core import from_json

from flows.pages.templates import template_environment
from flows.report import text as report_text
from pipelines import storage
from pipelines.errors import UserError
from pipelines.outputs import MARKER, write_atomically
from pipelines.progress import say

STAGE = "report index"
PAGE, DATA = "index.html", "index.json"
REPORT = "report.json"
#: Reports read at the same time: a bucket answers slowly.
_READERS = 16

Censored = Literal["none", "lower", "upper"]


class Median(BaseModel):
    """A figure over languages, as report.json has it."""

    value: FiniteFloat
    ci: tuple[FiniteFloat, FiniteFloat] | None
    range: tuple[FiniteFloat, FiniteFloat | None]


class PooledSpeedUp(BaseModel):
    """The speed-up of the averaged curves."""

    step_speedup: FiniteFloat | None
    step_speedup_ci: tuple[FiniteFloat, FiniteFloat] | None
    step_speedup_ci_censored: tuple[Censored, Censored] | None
    censored: Censored


class Unfinished(BaseModel):
    """How far a report on runs in training goes."""

    step: NonNegativeInt
    steps: NonNegativeInt


class Summary(BaseModel):
    """What the index takes from a report's summary."""

    verdict: str
    languages: NonNegativeInt
    languages_in_headline: NonNegativeInt
    train_tokens: NonNegativeInt
    median_step_speedup: Median | None
    pooled: PooledSpeedUp | None
    unfinished: Unfinished | None = None


class ComparedRun(BaseModel):
    """One side of a report."""

    name: str
    steps: NonNegativeInt


class ComparedRuns(BaseModel):
    """Both sides."""

    baseline: ComparedRun
    candidate: ComparedRun


class Method(BaseModel):
    """What identifies the data."""

    examples_config_hash: str | None


class Report(BaseModel):
    """The fields of report.json that the index shows; other files are refused."""

    summary: Summary
    runs: ComparedRuns
    method: Method


def write_index(directory: str | Path) -> dict[str, Any]:
    """Write index.html and index.json over all reports below a directory or URL.

    Args:
        directory: a local directory, or a gs:// or s3:// URL.

    Returns:
        Summary: stage, out, reports.

    Raises:
        UserError: there is none, the directory is itself a stage's output, or it has another
            index.html.
    """
    names = storage.list_names(directory)
    if MARKER in names:
        raise UserError(f"{directory} is itself an output: give the directory above the reports")
    if PAGE in names and DATA not in names:
        raise UserError(
            f"{directory} has an {PAGE} that is not one of reports: give another directory"
        )
    rows = list(_rows(str(directory)))
    if not rows:
        raise UserError(f"{directory} has no finished report below it: check the path")
    rows.sort(key=lambda row: (row["date"], row["path"]), reverse=True)
    data = {"reports": rows}
    environment = template_environment("flows.report")
    page = environment.get_template("index.html.j2").render(
        rows=rows,
        data=data,
        name=storage.name_of(str(directory).rstrip("/")) or str(directory),
        text=report_text,
    )
    write_atomically(storage.join(directory, PAGE), page)
    storage.write_json(storage.join(directory, DATA), data)
    return {"stage": STAGE, "out": storage.join(directory, PAGE), "reports": len(rows)}


def _rows(directory: str) -> Iterator[dict[str, Any]]:
    """What the page shows of each report; what is damaged is left out and said."""
    found = [
        file
        for file in storage.find(directory, REPORT)
        # Outputs under way are hidden.
        if not any(part.startswith(".") for part in _relative(file.path, directory).split("/"))
    ]

    def read(file: storage.FileStatus) -> dict[str, Any] | str | None:
        # Of several candidates, the marker is that of the report above.
        folder = os.path.dirname(file.path)
        markers = (storage.join(place, MARKER) for place in (folder, os.path.dirname(folder)))
        if not any(map(storage.exists, markers)):
            return None
        try:
            # Unlike the json module's, its error for deep nesting is a ValueError.
            content = from_json(storage.read_bytes(file.path))
            if "candidates" in content:
                return None  # each of them is listed
            report = Report.model_validate(content)
        except (ValueError, TypeError, OSError) as error:  # pydantic's own are among these
            return f"{file.path} is left out: {str(error).splitlines()[0]}"
        return _row(report, file, directory)

    with ThreadPoolExecutor(_READERS) as pool:
        for row in pool.map(read, found):
            if isinstance(row, str):
                say(STAGE, row)
            elif row is not None:
                yield row


def _row(report: Report, file: storage.FileStatus, directory: str) -> dict[str, Any]:
    path = _relative(file.path, directory).removesuffix(REPORT) + "report.html"
    written = datetime.datetime.fromtimestamp(file.updated, datetime.UTC)
    return {
        "path": os.fsencode(path).decode(errors="replace"),
        # With a dot in front no name of a directory is taken for a scheme.
        "href": "./" + urllib.parse.quote(os.fsencode(path)),
        "date": written.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "baseline": report.runs.baseline.name,
        "candidate": report.runs.candidate.name,
        "steps": report.runs.baseline.steps,
        "examples_config_hash": report.method.examples_config_hash,
        **report.summary.model_dump(mode="json"),
    }


def _relative(path: str, directory: str) -> str:
    return path.removeprefix(storage.join(directory, ""))
