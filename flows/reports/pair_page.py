"""The report's page: its figures and the template that holds them."""

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports import figures, panels
from mswitch.flows.reports import text as report_text
from mswitch.flows.reports.headline import LanguageResult, Pooled
from mswitch.flows.reports.pages import render_page
from mswitch.flows.reports.routing import Routing, most_informative_layer
from mswitch.flows.reports.speedup import isotonic_fit
from mswitch.flows.reports.svg import SCREENS, Drawing, arrange, inline_svgs

ROWS_PER_PANEL = 36
CURVES_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Drawings:
    """The figures of a report.

    Attributes:
        histogram: of step speed-ups, for wide and for narrow screens; none if no language has one.
        quality: panels of the dot plot.
        pooled: averaged loss curves, for wide and for narrow screens; none if there is no average.
        curves: small loss curves.
        routing: panels of the heat map; none for a model without experts.
        horizons: speed-ups by horizon, for wide and for narrow screens; none of too few steps.
    """

    histogram: Sequence[Drawing]
    quality: Sequence[Drawing]
    pooled: Sequence[Drawing]
    curves: Sequence[Drawing]
    routing: Sequence[Drawing]
    horizons: Sequence[Drawing]

    @property
    def files(self) -> dict[str, Drawing]:
        """Every figure that becomes its own file, by name."""
        grids = (
            ("quality", self.quality, 3, "Final quality"),
            ("curves", self.curves, 4, "Loss curves"),
            ("routing", self.routing, 3, "Routing by language"),
        )
        files = {
            name: arrange(drawings, columns, title, drawings[0].desc)
            for name, drawings, columns, title in grids
            if drawings
        }
        for name, pair in (
            ("speedup", self.histogram),
            ("pooled", self.pooled),
            ("horizons", self.horizons),
        ):
            if pair:
                files[name] = pair[0]
        return files


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
        average = [
            figures.curve_panel(pair, width=720, height=300),
            figures.curve_panel(pair, width=340, height=240),
        ]
    heat: list[Drawing] = []
    if routing is not None:
        layer = most_informative_layer(report["routing"])["layer"]
        english = {row["lang"]: row["name"] for row in rows}
        heat = panels.routing_panels(routing, layer, english, count)
    return Drawings(
        histogram=_draw_histograms(report),
        quality=_draw_quality(report, count),
        pooled=average,
        curves=[
            figures.curve_panel(_curve_pair(result, row["name"], steps), width=172, height=136)
            for result, row in most[:CURVES_SHOWN]
        ],
        routing=heat,
        horizons=_draw_horizons(report["horizons"]),
    )


def _draw_horizons(horizons: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """The speed-ups by horizon for a wide and for a narrow screen."""
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
    return [
        figures.horizon_panel(lines, width=720, height=300),
        figures.horizon_panel(lines, width=340, height=240),
    ]


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
    label = f"median {report_text.bounded(value, report_text.figure_mark(median))}" if value else ""
    return [
        figures.speedup_histogram(bars, value, label, width=720, name="speedup"),
        figures.speedup_histogram(bars, value, label, width=340, name="speedup-narrow"),
    ]


def _draw_quality(report: Mapping[str, Any], count: int) -> list[Drawing]:
    """The dot plot, the best quality of the baseline first."""
    rows = [
        panels.QualityRow(
            row["name"], -row["baseline_nll"], -row["candidate_nll"], _quality_interval(row)
        )
        for row in sorted(report["languages"], key=lambda row: (row["baseline_nll"], row["lang"]))
    ]
    runs = report["runs"]
    names = (runs["baseline"]["name"], runs["candidate"]["name"])
    return panels.quality_panels(rows, names, count)


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
        note=report_text.bounded(speed_up.value, speed_up.censored),
        steps=steps,
        baseline=result.curves[0],
        candidate=result.curves[1],
        baseline_fit=isotonic_fit(result.curves[0]),
        candidate_fit=isotonic_fit(result.curves[1]),
        baseline_steps=speed_up.baseline_steps,
        candidate_steps=speed_up.candidate_steps,
    )


def render(report: Mapping[str, Any], drawings: Drawings, csv: str) -> str:
    """Render the page.

    Args:
        report: what report.json holds.
        drawings: its figures.
        csv: per_language.csv, which the page offers for download.
    """
    return render_page(
        "pair.html.j2",
        report["languages"],
        text=report_text,
        data=report,
        summary=report["summary"],
        baseline=report["runs"]["baseline"],
        candidate=report["runs"]["candidate"],
        method=report["method"],
        histogram=inline_svgs(drawings.histogram, "speedup", SCREENS),
        horizon_figure=inline_svgs(drawings.horizons, "horizons", SCREENS),
        quality=inline_svgs(drawings.quality, "quality"),
        pooled_curve=inline_svgs(drawings.pooled, "pooled", SCREENS),
        routing=report["routing"],
        layer=report["routing"] and most_informative_layer(report["routing"]),
        heat=inline_svgs(drawings.routing, "routing"),
        curves=inline_svgs(drawings.curves, "curves"),
        # With a byte order mark, by which spreadsheets know UTF-8.
        csv=base64.b64encode(csv.encode("utf-8-sig")).decode("ascii"),
    )
