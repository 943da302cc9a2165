"""The table of docs/results.md, from the reports that runs left.

    python tests/benchmarks/results_table.py runs/debian/report runs/evidence/report

Prints a row for each report below the paper's, and one for each horizon.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing import markdown

from mswitch.flows.reports.numbers import NOT_AVAILABLE, bounded, number
from mswitch.flows.reports.sentences import figure_interval, figure_words

HEAD = (
    "pair",
    "device",
    "text, input and target tokens seen",
    "hours",
    "seeds",
    "languages",
    "median",
    "mean",
    "at 2x, at 4x",
    "better, worse after Holm",
)
PAPER = (
    "mSwitch-Base / mT5-Base, 1 M steps ([paper](https://arxiv.org/abs/2101.03961), section 4.3)",
    "TPU",
    "mC4, 10^12",
    "",
    "1",
    "101",
    "",
    "5x",
    "at 4x 91 %",
    "",
)
TWOFOLD = 2.0


def hours(report: Mapping[str, Any], directory: Path) -> float | None:
    """Hours of all training steps, of the runs of `mswitch evidence` or by their median step."""
    if (directory.parent / "chain.json").exists():
        metrics = (directory.parent / "runs").glob("*/metrics.jsonl")
        lines = [json.loads(line) for path in metrics for line in path.read_text().splitlines()]
        return sum(line["train/step_secs"] for line in lines) / 3600
    sides = report["runs"].values()
    if any(side["step_secs"] is None for side in sides):
        return None
    return sum(side["step_secs"] * side["steps"] * len(side["seeds"]) for side in sides) / 3600


def figure(found: Mapping[str, Any] | None) -> str:
    """A figure over languages with its interval."""
    if found is None:
        return ""
    interval = figure_interval(found)
    return figure_words(found) + (f" ({interval})" if interval else "")


def row(directory: Path) -> tuple[str, ...]:
    report = json.loads((directory / "report.json").read_text())
    summary, (baseline, candidate) = report["summary"], report["runs"].values()
    counted = [each for each in report["languages"] if each["in_headline"]]
    at_twofold = sum(
        each["step_speedup"] >= TWOFOLD and each["censored"] != "upper" for each in counted
    )
    shares = [at_twofold / len(counted), summary["share_at_least_4x"]["value"]] if counted else []
    taken, improved = hours(report, directory), summary["improved"]
    holm = [improved["languages_after_holm"], improved["languages_worse_after_holm"]]
    return (
        f"`{candidate['name']}` / `{baseline['name']}`, {baseline['steps']:,} steps",
        baseline["device"],
        f"{summary['train_tokens'] / 1e6:,.1f} M, {baseline['tokens_seen'] / 1e6:,.1f} M seen",
        "" if taken is None else f"{taken:.2g}",
        str(len(baseline["seeds"])),
        str(summary["languages_in_headline"]),
        figure(summary["median_step_speedup"]),
        figure(summary["mean_step_speedup"]),
        ", ".join(f"{share:.0%}" for share in shares),
        ", ".join(NOT_AVAILABLE if count is None else str(count) for count in holm),
    )


def horizon_rows(directory: Path) -> list[tuple[str, ...]]:
    """What the report says of each step, had training ended there."""
    report = json.loads((directory / "report.json").read_text())
    return [
        (
            f"{each['step']:,}",
            figure(each["median_step_speedup"]),
            bounded(each["pooled_step_speedup"], each["pooled_censored"]),
            f"{each['delta']:+.3f}",
            number(each["baseline_last_doubling"], 3),
        )
        for each in report.get("horizons", ())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The table of docs/results.md, from reports.")
    parser.add_argument("reports", nargs="+", type=Path)
    reports = parser.parse_args().reports
    print(*markdown(HEAD, [PAPER, *map(row, reports)]), sep="\n")
    head = (
        "step",
        "median",
        "pooled",
        "sparse less dense, nats a token",
        "baseline's last doubling, nats",
    )
    for report in reports:
        if rows := horizon_rows(report):
            print(f"\n{report}\n", *markdown(head, rows), sep="\n")


if __name__ == "__main__":
    main()
