"""Write the report: how many fewer steps the candidate needed, language by language.

It is one self-contained HTML page, the same numbers as JSON and CSV, and the figures as SVG.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.flows.reports import figures, figures_by_language, sentences
from mswitch.flows.reports.downstream import Downstream, check_downstream, read_downstream
from mswitch.flows.reports.headline import LanguageResult, Pooled, measure_language, pool
from mswitch.flows.reports.horizon import measure_horizons
from mswitch.flows.reports.intervals import DEFAULT_CONFIG, ReportConfig
from mswitch.flows.reports.names import name_models
from mswitch.flows.reports.numbers import rounded
from mswitch.flows.reports.pages import csv_link, publish, render_page
from mswitch.flows.reports.pair_data import overview_data, report_data, to_csv
from mswitch.flows.reports.pairs import Pairs, merge_seeds, pair_seed_losses, pair_up
from mswitch.flows.reports.routing import Routing, most_informative_layer
from mswitch.flows.reports.runs import are_trained, find_common_steps, open_runs, read_evaluated_run
from mswitch.flows.reports.svg import (
    SCREENS,
    Drawing,
    arrange,
    inline_svgs,
    on_screens,
    standalone_svg,
)
from mswitch.pipelines import storage
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.progress import Progress

STAGE = "report"
PAGE, DATA = "report.html", "report.json"
#: Version: incremented when the same runs give other figures, so that an older report is refused.
STATISTICS = 8

ROWS_PER_PANEL = 36
CURVES_SHOWN = 12
#: Drawings of each figure in a report, by the figure's name. A figure has one drawing for wide and
#: one for narrow screens, or several panels, each for some of the languages. A figure without data
#: has no drawing.
Drawings = Mapping[str, Sequence[Drawing]]
#: Number of columns, and title of the SVG file, of each figure with several panels.
GRIDS = {
    "quality": (3, "Final quality"),
    "curves": (4, "Loss curves"),
    "routing": (3, "Routing by language"),
}
#: Contents of report.json, and texts of the other files by name.
Made = tuple[dict[str, Any], Mapping[str, str]]


def write_report(
    baseline: str | Path | Sequence[str | Path],
    candidate: str | Path | Sequence[str | Path],
    out: str | Path,
    config: ReportConfig = DEFAULT_CONFIG,
    *,
    unfinished: bool = False,
    downstream: Sequence[str | Path] = (),
    timed: bool = True,
    text: Mapping[str, Any] | None = None,
    replace: bool = False,
    started_by: str = "",
    flow_run: str = "",
) -> dict[str, Any]:
    """Compare evaluated runs and write the report directory.

    Runs that differ only in their seed count as one model. With several candidates, the report is a
    page that shows them side by side, and a report of each in a directory below.

    Args:
        baseline: run directory or URL of the dense model, or those of several seeds.
        candidate: run directory of the model that should be faster, or those of several seeds or
            models. Each is compared with the baseline of its seed.
        out: report directory to make.
        config: resamples, seed and confidence.
        unfinished: accept runs that still train. The report is then of the steps at which all are
            evaluated so far, has no verdict, and may be replaced by a later one. If nothing is
            missing, it is the usual report.
        downstream: outputs of `mswitch report downstream` to include, of runs fine-tuned from
            these.
        timed: compare wall-clock times too. If not, the report does not depend on speed.
        text: figures of the held-out text (`mswitch.flows.chains.held_out_text.summarize`).
        replace: replace an existing report of other runs or settings.
        started_by: who started it, for the page.
        flow_run: address of the flow run that makes it, for the page.

    Returns:
        The stage's summary: the verdict, its number of languages, and the medians.
    """
    tuned = read_downstream(downstream)
    extras = {"started_by": started_by, "flow_run": flow_run, "text": rounded(text)}
    extras = {key: value for key, value in extras.items() if value}
    with open_runs(baseline) as baselines, open_runs(candidate) as candidates:
        steps = find_common_steps([*baselines, *candidates]) if unfinished else None
        sides = {
            role: [read_evaluated_run(directory, role, steps) for directory in directories]
            for role, directories in (("baseline", baselines), ("candidate", candidates))
        }
        if not timed:
            for role, runs in sides.items():
                sides[role] = [dataclasses.replace(run, step_secs=None) for run in runs]
        compared = pair_up(*sides.values())
        check_downstream(tuned, compared)
        identity = {
            "report": identifying_settings(config),
            "statistics": STATISTICS,
            **{role: merge_seeds(runs).identity for role, runs in sides.items()},
        }
        if not timed:
            identity["timed"] = False
        if text:
            identity["text"] = extras["text"]
        if tuned:
            identity["downstream"] = sorted(comparison.hash for comparison in tuned)
        if steps is not None:
            planned = compared[0][0][0].config["eval_steps"]
            identity["unfinished"] = {"step": steps[-1], "steps": max(planned)}

        def is_superseded(manifest: Mapping[str, Any]) -> bool:
            before = manifest["config"]
            return replace or (
                "unfinished" in before
                and all(before[role]["run"] == identity[role]["run"] for role in sides)
            )

        def make_one(pairs: Pairs, names: Sequence[str]) -> Made:
            so_far = identity.get("unfinished")
            return _make(pairs, names, config, so_far, tuned, extras)

        def make() -> Made:
            if len(compared) > 1:
                return _make_all(compared, make_one, extras)
            return make_one(compared[0], name_models(compared[0][0]))

        report, summary = publish(out, STAGE, identity, DATA, make, is_superseded)
    summary |= {key: report["summary"][key] for key in ("verdict", "languages")}
    if "candidates" not in report:
        return {**summary, **_figures(report["summary"])}
    figures = {each["name"]: _figures(each["summary"]) for each in report["candidates"]}
    return {**summary, "candidates": figures}


def _make(
    pairs: Pairs,
    names: Sequence[str],
    config: ReportConfig,
    so_far: Mapping[str, int] | None,
    downstream: Sequence[Downstream],
    extras: Mapping[str, Any],
) -> Made:
    baseline, candidate = map(merge_seeds, zip(*pairs, strict=True))
    runs, steps = (baseline, candidate), np.array(baseline.steps, dtype=float)
    of_languages = pair_seed_losses(pairs)
    progress = Progress(STAGE, "bootstrap", len(of_languages), "languages")
    results = []
    for seeds in of_languages:
        results.append(measure_language(seeds, steps, are_trained(runs, seeds[0].lang), config))
        progress.add()
    pooled = pool(results, steps, config)
    # With `--decay`, the learning rate falls only in a training's last steps. A shorter training
    # would also end with a low rate. So its final loss would not be this run's loss at that step.
    horizons = [] if baseline.decay else measure_horizons(results, steps, config)
    report = report_data(runs, names, results, pooled, horizons, so_far, config)
    report |= extras
    report["summary"]["cautions"] += sentences.text_cautions(extras.get("text"))
    tuned = [comparison for comparison in downstream if comparison.began_with(pairs)]
    report["downstream"] = [comparison.section(pairs) for comparison in tuned]
    drawings = _draw(report, results, pooled, candidate.routing, steps)
    csv = to_csv(report["languages"])
    page = render_page(
        "pair.html.j2",
        report,
        **report["runs"],
        figures={
            name: inline_svgs(parts, name, () if name in GRIDS else SCREENS)
            for name, parts in drawings.items()
        },
        layer=report["routing"] and most_informative_layer(report["routing"]),
        csv=csv_link(csv),
    )
    files = {"per_language.csv": csv, PAGE: page}
    for name, parts in drawings.items():
        if parts:
            whole = arrange(parts, *GRIDS[name], parts[0].desc) if name in GRIDS else parts[0]
            files[f"{name}.svg"] = standalone_svg(whole, name)
    for comparison in tuned:
        files |= {f"{comparison.folder}/{name}": text for name, text in comparison.files.items()}
    return report, files


def _make_all(
    compared: Sequence[Pairs],
    make_one: Callable[[Pairs, Sequence[str]], Made],
    extras: Mapping[str, Any],
) -> Made:
    baseline, *names = name_models([compared[0][0][0], *(pairs[0][1] for pairs in compared)])
    reports, files = {}, {}
    for number, (name, pairs) in enumerate(zip(names, compared, strict=True), start=1):
        folder = f"{number}-{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-')}"
        reports[folder], made = make_one(pairs, (baseline, name))
        made = {**made, DATA: storage.json_text(reports[folder])}
        files |= {f"{folder}/{file}": text for file, text in made.items()}
    report = {**overview_data(reports), **extras}
    report["summary"]["cautions"] = sentences.text_cautions(extras.get("text"))
    return report, {**files, PAGE: render_page("overview.html.j2", report)}


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    median, pooled = summary["median_step_speedup"], summary["pooled"]
    return {
        "languages_in_headline": summary["languages_in_headline"],
        "median_step_speedup": median and median["value"],
        "median_step_speedup_censored": median and sentences.figure_mark(median),
        "pooled_step_speedup": pooled and pooled["step_speedup"],
        "pooled_step_speedup_censored": pooled and pooled["censored"],
    }


def _draw(
    report: Mapping[str, Any],
    results: Sequence[LanguageResult],
    pooled: Pooled | None,
    routing: Routing | None,
    steps: np.ndarray,
) -> Drawings:
    rows = report["languages"]
    count = math.ceil(len(rows) / ROWS_PER_PANEL)
    most = sorted(zip(results, rows, strict=True), key=lambda p: (-p[1]["documents"], p[1]["lang"]))
    names = report["runs"]["baseline"]["name"], report["runs"]["candidate"]["name"]
    average: list[Drawing] = []
    if pooled is not None:
        label = f"Mean of {pooled.languages} languages"
        average = on_screens(functools.partial(figures.curve_panel, pooled, label, steps))
    histograms = [
        figures.speedup_histogram(
            rows, report["summary"]["median_step_speedup"], width=width, name=name
        )
        for width, name in ((720, "speedup"), (340, "speedup-narrow"))
        if any(row["step_speedup"] is not None for row in rows)
    ]
    heat: list[Drawing] = []
    if routing is not None:
        layer = most_informative_layer(report["routing"])["layer"]
        english = {row["lang"]: row["name"] for row in rows}
        heat = figures_by_language.routing_panels(routing, layer, english, count)
    return {
        "speedup": histograms,
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
    panel = functools.partial(figures.step_panel, lines, label, title, desc, ratios=True, log=True)
    return on_screens(panel)
