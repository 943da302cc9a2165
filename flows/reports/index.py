"""Index all reports and comparisons of fine-tuned runs below a directory, as a page and as JSON."""

import datetime
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from pydantic_core import from_json

from mswitch.flows.reports.pages import template_environment
from mswitch.flows.reports.speedup import SPEED_UP_KEYS
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, write_atomically
from mswitch.pipelines.progress import say

STAGE = "report index"
PAGE, DATA = "index.html", "index.json"
REPORT, DOWNSTREAM = "report.json", "downstream.json"
#: Reports read at the same time, because a bucket answers slowly.
_READERS = 16
#: Errors of reading or showing a file that is damaged or not a report.
_NOT_OURS = (LookupError, TypeError, ValueError, ArithmeticError, OSError, jinja2.TemplateError)


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
            f"{directory} has an {PAGE} that is not an index of reports: give another directory"
        )
    environment = template_environment()
    show: Any = environment.get_template("index_rows.html.j2").module
    # Each of several candidate models has a report in its own directory. Only the parent of these
    # directories has a completion marker.
    reports = _rows(str(directory), REPORT, _report, show.report_row, above=1)
    downstream = _rows(str(directory), DOWNSTREAM, _downstream, show.downstream_row)
    if not reports and not downstream:
        raise UserError(f"{directory} has no finished report below it: check the path")
    data = {"reports": [row for row, _ in reports], "downstream": [row for row, _ in downstream]}
    page = environment.get_template("index.html.j2").render(
        rows=[shown for _, shown in reports],
        downstream=[shown for _, shown in downstream],
        data=data,
        name=_shown(storage.get_name(str(directory).rstrip("/")) or str(directory)),
    )
    write_atomically(storage.join(directory, PAGE), page)
    storage.write_json(storage.join(directory, DATA), data)
    counts = {name: len(rows) for name, rows in data.items()}
    return {"stage": STAGE, "out": storage.join(directory, PAGE), **counts}


def _rows(
    directory: str,
    name: str,
    describe: Callable[[Any], dict[str, Any]],
    show: Callable[[Mapping[str, Any]], Markup],
    above: int = 0,
) -> list[tuple[dict[str, Any], Markup]]:
    """Return the data of each file called `name`, and its row of the index page; newest first."""
    files = [
        file
        for file in storage.find(directory, name)
        # Unfinished outputs are in hidden directories.
        if not any(part.startswith(".") for part in _relative(file.path, directory).split("/"))
    ]

    def read(file: storage.FileStatus) -> tuple[dict[str, Any], Markup] | None:
        places = [os.path.dirname(file.path)]
        places += [os.path.dirname(places[0])] * above
        if not any(storage.exists(storage.join(place, MARKER)) for place in places):
            return None
        try:
            # Unlike the json module, `from_json` raises a ValueError for deep nesting.
            content = from_json(storage.read_bytes(file.path), allow_inf_nan=False)
            if "candidates" in content:
                # A comparison of several candidates gets no row; each candidate's report does.
                return None
            row = {**_place(file, directory), **describe(content)}
            return row, show(row)
        except _NOT_OURS as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            say(STAGE, f"{file.path} is left out: {why.partition(chr(10))[0]}")
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        rows = filter(None, list(pool.map(read, files)))
    return sorted(rows, key=lambda item: (item[0]["date"], item[0]["path"]), reverse=True)


def _report(content: Mapping[str, Any]) -> dict[str, Any]:
    summary, runs = content["summary"], content["runs"]
    median, pooled = summary["median_step_speedup"], summary["pooled"]
    return {
        "baseline": runs["baseline"]["name"],
        "candidate": runs["candidate"]["name"],
        "steps": runs["baseline"]["steps"],
        "examples_config_hash": content["method"]["examples_config_hash"],
        **_pick(summary, "verdict", "languages", "languages_in_headline", "train_tokens"),
        "median_step_speedup": median
        and _pick(median, "value", "ci", "ci_censored", "range", "seeds"),
        "pooled": pooled and _pick(pooled, *SPEED_UP_KEYS),
        "unfinished": summary["unfinished"],
        "started_by": str(content.get("started_by", "")),
    }


def _downstream(content: Mapping[str, Any]) -> dict[str, Any]:
    lead, runs = content["results"][0], content["runs"]
    sides = zip(("baseline", "candidate"), runs, lead["average"]["models"], strict=False)
    return {
        "task": content["task"]["name"],
        "metric": lead["metric"],
        **{side: {"name": run["name"], **_pick(of, "value", "ci")} for side, run, of in sides},
        "difference": _pick(lead["average"]["difference"], "value", "ci"),
        **_pick(content["summary"], "verdict", "split", "languages"),
    }


def _pick(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] for key in keys}


def _place(file: storage.FileStatus, directory: str) -> dict[str, Any]:
    path = f"{_relative(file.path, directory).removesuffix('.json')}.html"
    # The name that a person gave, in `pairs/NAME/report` or `experiments/NAME/MIXTURE`.
    name = re.sub(r"/report(-so-far)?$", "", os.path.dirname(path))
    written = datetime.datetime.fromtimestamp(file.updated, datetime.UTC)
    return {
        "name": _shown(name.partition("/")[2] or name or path),
        "path": _shown(path),
        # Without `./`, a browser would read the part before a colon as a URL scheme.
        "href": "./" + urllib.parse.quote(os.fsencode(path)),
        "date": written.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")


def _relative(path: str, directory: str) -> str:
    return path.removeprefix(storage.join(directory, ""))
