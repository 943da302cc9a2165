"""Draw the report's figures, and render its page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports import figures, figures_by_language, sentences
from mswitch.flows.reports.headline import LanguageResult, Pooled
from mswitch.flows.reports.pages import csv_link, render_page
from mswitch.flows.reports.routing import Routing, most_informative_layer
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


#: Figures of a report by name. Some have one drawing for wide and one for narrow screens. Others
#: have a panel for each part of the languages. A figure without data has no drawing.
Drawings = Mapping[str, Sequence[Drawing]]
#: For each figure with several panels, the number of columns and the title of its SVG file.
GRIDS = {
    "quality": (3, "Final quality"),
    "curves": (4, "Loss curves"),
    "routing": (3, "Routing by language"),
}


def draw_files(drawings: Drawings) -> dict[str, str]:
    """Return every figure as its own file, by the file's name."""
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
    names = report["runs"]["baseline"]["name"], report["runs"]["candidate"]["name"]
    average: list[Drawing] = []
    if pooled is not None:
        label = f"Mean of {pooled.languages} languages"
        average = on_screens(
            lambda width, height: figures.curve_panel(
                pooled, label, steps, width=width, height=height
            )
        )
    heat: list[Drawing] = []
    if routing is not None:
        layer = most_informative_layer(report["routing"])["layer"]
        english = {row["lang"]: row["name"] for row in rows}
        heat = figures_by_language.routing_panels(routing, layer, english, count)
    return {
        "speedup": _draw_histograms(report),
        "quality": figures_by_language.quality_panels(rows, names, count),
        "pooled": average,
        "curves": [
            figures.curve_panel(result, row["name"], steps, width=172, height=136)
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
    marked = [figure and {**figure, "mark": sentences.figure_mark(figure)} for figure in medians]
    keys = {"value": "step_speedup", "ci": "step_speedup_ci", "mark": "censored"}
    pooled = [{key: each[f"pooled_{of}"] for key, of in keys.items()} for each in horizons]
    lines = (
        figures.Line("median language", "c", steps, marked),
        figures.Line("pooled", "b", steps, pooled),
    )
    label, title = "steps of training (log scale)", "Step speed-up by horizon"
    desc = "Speed-ups as if training had ended at each step; the table holds every value."
    return on_screens(
        lambda width, height: figures.step_panel(
            lines, label, title, desc, ratios=True, log=True, width=width, height=height
        )
    )


def _draw_histograms(report: Mapping[str, Any]) -> list[Drawing]:
    """Draw the histogram for a wide and for a narrow screen."""
    rows = report["languages"]
    if all(row["step_speedup"] is None for row in rows):
        return []
    median = report["summary"]["median_step_speedup"]
    value = median and median["value"]
    label = f"median {sentences.figure_words(median)}" if median else ""
    return [
        figures.speedup_histogram(rows, value, label, width=720, name="speedup"),
        figures.speedup_histogram(rows, value, label, width=340, name="speedup-narrow"),
    ]


def render(report: Mapping[str, Any], drawings: Drawings, csv: str) -> str:
    """Render the page from report.json's contents, with per_language.csv for download."""
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
