"""`mswitch report`: compare two runs; list the reports of a place."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.commands.common import Json, finish
from flows.report.build import ReportConfig, write_report

app = App(name="report")

Runs = Annotated[list[str], Parameter(negative="")]


@app.default
def report(
    *,
    baseline: Runs,
    candidate: Runs,
    out: Path,
    config: Annotated[ReportConfig, Parameter(name="*")] = ReportConfig(),  # noqa: B008
    unfinished: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Write report.html (one self-contained file), report.json and per_language.csv.

    It says, language by language and with intervals, how many fewer steps the candidate needed to
    reach the baseline's final quality. Both runs must be evaluated on the same examples.

        mswitch report --baseline dense --candidate sparse --out report

    Give --baseline and --candidate once for each seed that a model was trained with: figures are
    then means over seeds, and intervals draw seeds too. Runs that differ in more are several
    candidates, each compared with the baseline on a page below that of all.

    Args:
        baseline: the run directory of the dense model or its URL, once for each seed.
        candidate: the run directory of the sparse model, once for each seed and model.
        out: the directory to make.
        unfinished: report on runs that still train, up to the last step at which both are evaluated
            (`mswitch evaluate --watch`). The same command replaces that report by a later one.
    """
    return finish(write_report(baseline, candidate, out, config, unfinished=unfinished), json)


@app.command
def index(directory: str, /, *, json: Json = False) -> int:
    """Write DIR/index.html over all reports below a directory or bucket, and DIR/index.json.

    The page has the date, the pair, the data, the median step speed-up with its interval and a
    link of each report. A finished report gets there when the command is given again.

        mswitch report index runs

    Args:
        directory: where reports lie, at any depth; a gs:// or s3:// URL too.
    """
    from flows.report.index import write_index

    return finish(write_index(directory), json)
