"""The tables of docs/results.md, from reports on pairs.

    python tests/benchmarks/results_table.py runs/debian/report runs/evidence/report

Prints a row for each report, and for each report a row for each horizon.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing import markdown

from mswitch.flows.reports.numbers import bounded, number
from mswitch.flows.reports.sentences import figure_interval, figure_words, in_brackets

HEAD = ("experts, baseline", "by steps", "by FLOPs", "better, worse (by chance)")
HORIZON_HEAD = (
    "step",
    "median",
    "pooled",
    "sparse less dense, nats a token",
    "baseline's last doubling, nats",
)


def figure(found: Mapping[str, Any] | None) -> str:
    """A figure over languages with its interval."""
    if found is None:
        return ""
    return f"{figure_words(found)} {in_brackets('95 ', figure_interval(found), found['seeds'])}"


def row(report: Mapping[str, Any]) -> tuple[str, ...]:
    """What the report says at its end."""
    summary, (baseline, candidate) = report["summary"], report["runs"].values()
    improved = summary["improved"]
    by_chance = improved["most_by_chance"] or "not testable"
    return (
        f"`{candidate['name']}`, `{baseline['name']}`",
        figure(summary["median_step_speedup"]),
        figure(summary["median_flop_speedup"]),
        f"{improved['languages']}, {improved['languages_worse']} ({by_chance})",
    )


def horizon_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What the report says of each step, had training ended there."""
    return [
        (
            f"{each['step']:,}",
            figure(each["median_step_speedup"]),
            bounded(each["pooled_step_speedup"], each["pooled_censored"]),
            f"{each['delta']:+.3f}",
            number(each["baseline_last_doubling"], 3),
        )
        for each in report["horizons"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The tables of docs/results.md, from reports.")
    parser.add_argument("reports", nargs="+", type=Path)
    paths = parser.parse_args().reports
    reports = [json.loads((path / "report.json").read_text()) for path in paths]
    print(*markdown(HEAD, map(row, reports)), sep="\n")
    for path, report in zip(paths, reports, strict=True):
        if rows := horizon_rows(report):
            print(f"\n{path}\n", *markdown(HORIZON_HEAD, rows), sep="\n")


if __name__ == "__main__":
    main()
