"""Several candidates against one baseline: their reports side by side."""

from collections.abc import Mapping
from typing import Any

from mswitch.flows.reports import text as report_text
from mswitch.flows.reports.pages import render_page

#: What the page says of a language of each candidate.
LANGUAGE_FIELDS = (
    "candidate_nll",
    "delta",
    "delta_ci",
    "step_speedup",
    "step_speedup_ci",
    "step_speedup_ci_censored",
    "censored",
    "in_headline",
)
#: What is the same for all candidates.
SHARED_FIELDS = ("lang", "name", "autonym", "direction", "script", "documents", "baseline_nll")


def overview_data(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the overview's report.json holds, from the reports by directory."""
    first = next(iter(reports.values()))
    candidates = [
        {
            "name": report["runs"]["candidate"]["name"],
            "path": f"{folder}/report.html",
            "summary": report["summary"],
            "run": report["runs"]["candidate"],
        }
        for folder, report in reports.items()
    ]
    baseline = first["runs"]["baseline"]
    return {
        "summary": {
            "verdict": report_text.overview_verdict(candidates, baseline["name"]),
            "languages": first["summary"]["languages"],
            "unfinished": first["summary"]["unfinished"],
        },
        "baseline": baseline,
        "candidates": candidates,
        "languages": [
            {
                **{field: rows[0][field] for field in SHARED_FIELDS},
                "candidates": [{field: row[field] for field in LANGUAGE_FIELDS} for row in rows],
            }
            for rows in zip(*(report["languages"] for report in reports.values()), strict=True)
        ],
        "method": first["method"],
    }


def render_overview(overview: Mapping[str, Any]) -> str:
    """Render the page."""
    return render_page(
        "overview.html.j2",
        overview["languages"],
        text=report_text,
        data=overview,
        summary=overview["summary"],
        baseline=overview["baseline"],
        candidates=overview["candidates"],
        method=overview["method"],
    )
