"""One page over all reports and comparisons of fine-tuned runs in a place, and the same as JSON."""

import datetime
import os
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import BaseModel, FiniteFloat, NonNegativeInt
from pydantic_core import from_json

from mswitch.flows.reports import text as report_text
from mswitch.flows.reports.pages import template_environment
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, write_atomically
from mswitch.pipelines.progress import say

STAGE = "report index"
PAGE, DATA = "index.html", "index.json"
REPORT, DOWNSTREAM = "report.json", "downstream.json"
#: Reports read at the same time: a bucket answers slowly.
_READERS = 16

Censored = Literal["none", "lower", "upper"]


class Median(BaseModel):
    """A figure over languages, as report.json has it."""

    value: FiniteFloat
    ci: tuple[FiniteFloat, FiniteFloat] | None
    ci_censored: tuple[Censored, Censored] | None = None  # older reports do not say
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


class Named(BaseModel):
    """A task or a run."""

    name: str


class Score(BaseModel):
    """A score or a difference of scores, as downstream.json has it."""

    value: FiniteFloat
    ci: tuple[FiniteFloat, FiniteFloat] | None


class Average(BaseModel):
    """The means over languages of all models, and the difference of the first two."""

    models: Annotated[list[Score], MinLen(2)]
    difference: Score


class Result(BaseModel):
    """The scores of one metric and way of decoding."""

    metric: str
    average: Average


class DownstreamSummary(BaseModel):
    """What the index takes from a comparison's summary."""

    verdict: str
    split: str
    languages: NonNegativeInt


class Downstream(BaseModel):
    """The fields of downstream.json that the index shows; other files are refused.

    The first result leads.
    """

    summary: DownstreamSummary
    task: Named
    runs: Annotated[list[Named], MinLen(2)]
    results: Annotated[list[Any], MinLen(1)]


def write_index(directory: str | Path) -> dict[str, Any]:
    """Write index.html and index.json over all reports and comparisons below a directory or URL.

    Args:
        directory: a local directory, or a gs:// or s3:// URL.

    Returns:
        Summary: stage, out, reports, and downstream, the number of comparisons.
    """
    names = storage.list_names(directory)
    if MARKER in names:
        raise UserError(f"{directory} is itself an output: give the directory above the reports")
    if PAGE in names and DATA not in names:
        raise UserError(
            f"{directory} has an {PAGE} that is not one of reports: give another directory"
        )
    # Of several candidates, the marker is that of the report above.
    rows = _rows(str(directory), REPORT, _report, above=1)
    downstream = _rows(str(directory), DOWNSTREAM, _downstream)
    if not rows and not downstream:
        raise UserError(f"{directory} has no finished report below it: check the path")
    data = {"reports": rows, "downstream": downstream}
    environment = template_environment()
    page = environment.get_template("index.html.j2").render(
        rows=rows,
        downstream=downstream,
        data=data,
        name=storage.name_of(str(directory).rstrip("/")) or str(directory),
        text=report_text,
    )
    write_atomically(storage.join(directory, PAGE), page)
    storage.write_json(storage.join(directory, DATA), data)
    return {
        "stage": STAGE,
        "out": storage.join(directory, PAGE),
        **{k: len(v) for k, v in data.items()},
    }


def _rows(
    directory: str,
    name: str,
    describe: Callable[[Any], dict[str, Any] | None],
    above: int = 0,
) -> list[dict[str, Any]]:
    """What the page shows of each file of this name, newest first; damaged ones are said."""
    found = [
        file
        for file in storage.find(directory, name)
        # Outputs under way are hidden.
        if not any(part.startswith(".") for part in _relative(file.path, directory).split("/"))
    ]

    def read(file: storage.FileStatus) -> dict[str, Any] | str | None:
        places = [os.path.dirname(file.path)]
        places += [os.path.dirname(places[0])] * above
        if not any(storage.exists(storage.join(place, MARKER)) for place in places):
            return None
        try:
            # Unlike the json module's, its error for deep nesting is a ValueError.
            row = describe(from_json(storage.read_bytes(file.path)))
        except (ValueError, TypeError, OSError) as error:  # pydantic's own are among these
            return f"{file.path} is left out: {str(error).splitlines()[0]}"
        return row and {**_place(file, directory), **row}

    with ThreadPoolExecutor(_READERS) as pool:
        read_rows = list(pool.map(read, found))
    for row in read_rows:
        if isinstance(row, str):
            say(STAGE, row)
    rows = [row for row in read_rows if isinstance(row, dict)]
    return sorted(rows, key=lambda row: (row["date"], row["path"]), reverse=True)


def _report(content: Any) -> dict[str, Any] | None:
    if "candidates" in content:
        return None  # each of them is listed
    report = Report.model_validate(content)
    return {
        "baseline": report.runs.baseline.name,
        "candidate": report.runs.candidate.name,
        "steps": report.runs.baseline.steps,
        "examples_config_hash": report.method.examples_config_hash,
        **report.summary.model_dump(mode="json"),
    }


def _downstream(content: Any) -> dict[str, Any]:
    found = Downstream.model_validate(content)
    lead = Result.model_validate(found.results[0])
    baseline, candidate, *_ = lead.average.models
    return {
        "task": found.task.name,
        "metric": lead.metric,
        "baseline": {"name": found.runs[0].name, **baseline.model_dump(mode="json")},
        "candidate": {"name": found.runs[1].name, **candidate.model_dump(mode="json")},
        "difference": lead.average.difference.model_dump(mode="json"),
        **found.summary.model_dump(mode="json"),
    }


def _place(file: storage.FileStatus, directory: str) -> dict[str, Any]:
    path = f"{_relative(file.path, directory).removesuffix('.json')}.html"
    written = datetime.datetime.fromtimestamp(file.updated, datetime.UTC)
    return {
        "path": os.fsencode(path).decode(errors="replace"),
        # With a dot in front no name of a directory is taken for a scheme.
        "href": "./" + urllib.parse.quote(os.fsencode(path)),
        "date": written.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _relative(path: str, directory: str) -> str:
    return path.removeprefix(storage.join(directory, ""))
