"""Steps that write the report of runs and the index of all reports."""

from collections.abc import Sequence
from pathlib import Path

from flows.operators.artifacts import key_of, show_markdown, show_page
from flows.operators.steps import step
from flows.report.build import ReportConfig, write_report
from flows.report.index import write_index


@step("report {out.parent.name}")
def write_page(
    baselines: Sequence[Path | str],
    candidates: Sequence[Path | str],
    out: Path,
    config: ReportConfig,
) -> str:
    """Write the report, show its verdict and return it.

    It takes the place of one of fewer runs: an experiment may have got a seed more.
    """
    summary = write_report(baselines, candidates, out, config, replace=True)
    name = out.parent.name
    show_markdown(key_of("verdict", name, out.name), summary["verdict"])
    show_page(key_of("report", name, out.name), out / "report.html", f"Report {name}/{out.name}")
    return summary["verdict"]


@step("index of reports")
def index_reports(storage: Path) -> None:
    """Bring the page of all reports up to date, and show it."""
    write_index(storage)
    show_page("reports", storage / "index.html", "All reports")
