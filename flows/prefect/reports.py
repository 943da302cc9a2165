"""Steps that write the report of runs and the index of all reports."""

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run as this_flow_run

from mswitch.flows.prefect.artifacts import key_of, show_markdown, show_page
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import started_by
from mswitch.flows.prefect.steps import step
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import PAGE, write_report


@step("report {out.parent.name}")
def write_page(
    baselines: Sequence[Path | str],
    candidates: Sequence[Path | str],
    out: Path,
    config: ReportConfig,
) -> str:
    """Write the report, show its verdict and return it, with its address.

    It takes the place of one of fewer runs: an experiment may have got a seed more.
    """
    verdict = report_runs(baselines, candidates, out, config)["verdict"]
    if (before := so_far(out)).exists():
        shutil.rmtree(before)
    show_report(out, verdict)
    return f"{verdict} {read_operators().address(out / PAGE)}"


def so_far(out: Path) -> Path:
    """Return where a report on runs that still train goes, beside that on finished ones."""
    return out.with_name(f"{out.name}-so-far")


def report_runs(
    baselines: Sequence[Path | str],
    candidates: Sequence[Path | str],
    out: Path,
    config: ReportConfig,
    *,
    unfinished: bool = False,
) -> dict[str, Any]:
    """Write a report that says by whom and by which flow run it was made; return its summary."""
    maker: dict[str, Any] = {"started_by": started_by(), "flow_run": this_flow_run.ui_url}
    return write_report(
        baselines, candidates, out, config, unfinished=unfinished, replace=True, **maker
    )


def show_report(out: Path, verdict: str) -> None:
    """Show what a report says, where it lies, and its loss curves; those of every candidate."""
    name = out.parent.name
    show_markdown(key_of("verdict", name, out.name), verdict)
    page = f"Report {name}/{out.name}: {read_operators().link(out / PAGE)}"
    curves = [base64.b64encode(path.read_bytes()) for path in sorted(out.rglob("pooled.svg"))]
    images = [f"![Loss curves](data:image/svg+xml;base64,{svg.decode()})" for svg in curves]
    show_markdown(key_of("report", name, out.name), "\n\n".join([page, *images]))


@step("index of reports")
def index_reports(storage: Path) -> None:
    """Bring the page of all reports up to date, and show it."""
    write_index(storage)
    show_page("reports", storage / "index.html", "All reports")
