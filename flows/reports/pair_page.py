"""The report's page: its figures and the template that holds them."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports import figures, figures_by_language, numbers, routing_map, sentences
from mswitch.flows.reports.headline import LanguageResult, Pooled
from mswitch.flows.reports.pages import csv_link, render_page
from mswitch.flows.reports.routing import Routing, most_informative_layer
from mswitch.flows.reports.speedup import isotonic_fit
from mswitch.flows.reports.svg import (
    SCREENS,
    Drawing,
    arrange,
    inline_svgs,
    on_screens,
    standalone_svg,
)

ROWS_PER_PANEL = 36
CURVES_SHOWN = 12


#: Figures of a report by name. Those of one drawing are there for wide and for narrow screens, the
#: others have a panel for each part of the languages; there is none where there is nothing to draw.
Drawings = Mapping[str, Sequence[Drawing]]
#: The panels that stand in a grid of so many columns in a file of their own, with their titles.
GRIDS = {
    "quality": (3, "Final quality"),
    "curves": (4, "Loss curves"),
    "routing": (3, "Routing by language"),
}


def alone(drawings: Drawings) -> dict[str, str]:
    """Every figure as a file of its own, by the file's name."""
    return {
        f"{name}.svg": standalone_svg(
            arrange(parts, *GRIDS[name], parts[0].desc) if name in GRIDS else parts[0], name
        )
        for name, parts in drawings.items()
        if parts
    }


def draw(
    report: Mapping[str, Any],
    results: Sequence[LanguageResult],
    pooled: Pooled | None,
    routing: Routing | None,
    steps: np.ndarray,
) -> Drawings:
    """Draw every figure from the rounded report and the measured curves."""
    rows = report["languages"]
    count = math.ceil(len(rows) / ROWS_PER_PANEL)
    most = sorted(zip(results, rows, strict=True), key=lambda p: (-p[1]["documents"], p[1]["lang"]))
    average: list[Drawing] = []
    if pooled is not None:
        pair = _curve_pair(pooled, f"Mean of {pooled.languages} languages", steps)
        average = on_screens(functools.partial(figures.curve_panel, pair))
    heat: list[Drawing] = []
    if routing is not None:
        layer = most_informative_layer(report["routing"])["layer"]
        english = {row["lang"]: row["name"] for row in rows}
        heat = routing_map.routing_panels(routing, layer, english, count)
    return {
        "speedup": _draw_histograms(report),
        "quality": _draw_quality(report, count),
        "pooled": average,
        "curves": [
            figures.curve_panel(_curve_pair(result, row["name"], steps), width=172, height=136)
            for result, row in most[:CURVES_SHOWN]
        ],
        "routing": heat,
        "horizons": _draw_horizons(report["horizons"]),
    }


def _draw_horizons(horizons: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    if len(horizons) < 2:
        return []
    steps = [each["step"] for each in horizons]
    medians = [each["median_step_speedup"] for each in horizons]
    lines = (
        figures.Line("median language", "c", steps, medians),
        figures.Line(
            "pooled",
            "b",
            steps,
            [
                {"value": each["pooled_step_speedup"], "ci": each["pooled_step_speedup_ci"]}
                for each in horizons
            ],
        ),
    )
    return on_screens(
        functools.partial(
            figures.step_panel,
            lines,
            "steps of training (log scale)",
            "Step speed-up by horizon",
            "Speed-ups as if training had ended at each step; the table holds every value.",
            ratios=True,
            log=True,
        )
    )


def _draw_histograms(report: Mapping[str, Any]) -> list[Drawing]:
    """The histogram for a wide and for a narrow screen."""
    bars = [
        figures.Bar(row["step_speedup"], row["censored"], row["in_headline"])
        for row in report["languages"]
        if row["step_speedup"] is not None
    ]
    if not bars:
        return []
    median = report["summary"]["median_step_speedup"]
    value = median and median["value"]
    label = f"median {sentences.figure_words(median)}" if median else ""
    return [
        figures.speedup_histogram(bars, value, label, width=720, name="speedup"),
        figures.speedup_histogram(bars, value, label, width=340, name="speedup-narrow"),
    ]


def _draw_quality(report: Mapping[str, Any], count: int) -> list[Drawing]:
    """The dot plot, the best quality of the baseline first."""
    rows = [
        figures_by_language.QualityRow(
            row["name"], -row["baseline_nll"], -row["candidate_nll"], _quality_interval(row)
        )
        for row in sorted(report["languages"], key=lambda row: (row["baseline_nll"], row["lang"]))
    ]
    runs = report["runs"]
    names = (runs["baseline"]["name"], runs["candidate"]["name"])
    return figures_by_language.quality_panels(rows, names, count)


def _quality_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The paired interval of the difference, added to the baseline's quality."""
    if row["delta_ci"] is None:
        return None
    low, high = row["delta_ci"]
    return -row["baseline_nll"] - high, -row["baseline_nll"] - low


def _curve_pair(
    result: LanguageResult | Pooled, label: str, steps: np.ndarray
) -> figures.CurvePair:
    speed_up = result.speed_up
    return figures.CurvePair(
        label=label,
        note=numbers.bounded(speed_up.value, speed_up.censored),
        steps=steps,
        baseline=result.curves[0],
        candidate=result.curves[1],
        baseline_fit=isotonic_fit(result.curves[0]),
        candidate_fit=isotonic_fit(result.curves[1]),
        baseline_steps=speed_up.baseline_steps,
        candidate_steps=speed_up.candidate_steps,
    )


def render(report: Mapping[str, Any], drawings: Drawings, csv: str) -> str:
    """Render the page of what report.json holds; it offers per_language.csv for download."""
    svgs = {
        name: inline_svgs(parts, name, () if name in GRIDS else SCREENS)
        for name, parts in drawings.items()
    }
    return render_page(
        "pair.html.j2",
        report,
        sentences=sentences,
        **report["runs"],
        figures=svgs,
        layer=report["routing"] and most_informative_layer(report["routing"]),
        csv=csv_link(csv),
    )
