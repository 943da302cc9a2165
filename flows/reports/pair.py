"""The report: how many fewer steps the candidate needed, language by language.

One self-contained HTML page, the same numbers as JSON and CSV, and the figures as SVG.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.flows.reports import sentences
from mswitch.flows.reports.downstream_section import Downstream, check_downstream, read_downstream
from mswitch.flows.reports.headline import LanguageResult, Pooled, measure_language, pool
from mswitch.flows.reports.horizon import measure_horizons
from mswitch.flows.reports.intervals import DEFAULT_CONFIG, ReportConfig
from mswitch.flows.reports.pages import publish, render_page
from mswitch.flows.reports.pair_data import overview_data, report_data, run_names, to_csv
from mswitch.flows.reports.pair_page import alone, draw, render
from mswitch.flows.reports.pairs import Pairs, check_seeds, merged, model_names, pair_up
from mswitch.flows.reports.runs import (
    EvaluatedRun,
    are_trained,
    common_steps,
    open_runs,
    pair_losses,
    read_evaluated_run,
)
from mswitch.pipelines import storage
from mswitch.pipelines.progress import Progress

STAGE = "report"
PAGE, DATA = "report.html", "report.json"
#: Raised when the same runs give other figures, so that a report by an older statistic is refused
#: and not taken for this one.
STATISTICS = 6


def write_report(
    baseline: str | Path | Sequence[str | Path],
    candidate: str | Path | Sequence[str | Path],
    out: str | Path,
    config: ReportConfig = DEFAULT_CONFIG,
    *,
    unfinished: bool = False,
    downstream: Sequence[str | Path] = (),
    timed: bool = True,
    replace: bool = False,
    started_by: str = "",
) -> dict[str, Any]:
    """Compare evaluated runs and write the report directory.

    Runs that differ in their seed alone count as one model. With several candidates, the report is
    a page that has them side by side, and a report of each in a directory below.

    Args:
        baseline: run directory of the dense model, also in a bucket, or those of several seeds.
        candidate: run directory of the model that is meant to be faster, or those of several seeds
            or models. Each is compared with the baseline of its seed.
        out: report directory to make.
        config: resamples, seed and confidence.
        unfinished: take runs that still train: the report is of the steps at which all are
            evaluated so far, has no verdict, and may be replaced by a later one. Where nothing is
            missing any more, it is the usual report.
        downstream: directories of `mswitch report downstream` that it takes in, of runs that were
            fine-tuned from these.
        timed: compare wall-clock times too. Without, the report depends on no machine's speed.
        replace: write over a report of other runs or settings that is there.
        started_by: who started it, for the page.

    Returns:
        The stage's summary: the verdict, how many languages it rests on, and the medians.
    """
    tuned = read_downstream(downstream)
    with open_runs(baseline) as baselines, open_runs(candidate) as candidates:
        sides = {"baseline": baselines, "candidate": candidates}
        return _write_report(sides, out, config, unfinished, tuned, timed, replace, started_by)


def _write_report(
    sides: Mapping[str, Sequence[Path]],
    out: str | Path,
    config: ReportConfig,
    unfinished: bool,
    downstream: Sequence[Downstream],
    timed: bool,
    replace: bool,
    started_by: str,
) -> dict[str, Any]:
    steps = common_steps([*sides["baseline"], *sides["candidate"]]) if unfinished else None
    baselines, candidates = (
        [read_evaluated_run(directory, role, steps) for directory in directories]
        for role, directories in sides.items()
    )
    if not timed:
        baselines, candidates = (
            [dataclasses.replace(run, step_secs=None) for run in runs]
            for runs in (baselines, candidates)
        )
    comparisons = [Comparison.of(pairs) for pairs in pair_up(baselines, candidates)]
    check_downstream(downstream, [each.pairs for each in comparisons])
    first = comparisons[0].runs[0]
    identity = {
        "report": dataclasses.asdict(config),
        "statistics": STATISTICS,
        "baseline": merged(baselines).identity,
        "candidate": merged(candidates).identity,
    }
    if not timed:
        identity["timed"] = False
    if downstream:
        identity["downstream"] = sorted(one.hash for one in downstream)
    if steps is not None:
        identity["unfinished"] = {"step": steps[-1], "steps": max(first.config["eval_steps"])}

    def is_superseded(manifest: Mapping[str, Any]) -> bool:
        before = manifest["config"]
        return replace or (
            "unfinished" in before
            and all(before[role]["run"] == identity[role]["run"] for role in sides)
        )

    def make() -> tuple[dict[str, Any], Mapping[str, str]]:
        so_far = identity.get("unfinished")
        if len(comparisons) == 1:
            names = run_names(*(run.name for run in comparisons[0].runs))
            return _make(comparisons[0], names, config, so_far, downstream, started_by)
        return _make_all(comparisons, config, so_far, downstream, started_by)

    report, summary = publish(out, STAGE, identity, DATA, make, is_superseded)
    summary |= {key: report["summary"][key] for key in ("verdict", "languages")}
    if "candidates" not in report:
        return {**summary, **_figures(report["summary"])}
    figures = {each["name"]: _figures(each["summary"]) for each in report["candidates"]}
    return {**summary, "candidates": figures}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One candidate against the baseline.

    Attributes:
        pairs: the runs of each seed.
        runs: what stands for baseline and candidate over all seeds.
    """

    pairs: Pairs
    runs: tuple[EvaluatedRun, EvaluatedRun]

    @classmethod
    def of(cls, pairs: Pairs) -> "Comparison":
        """Merge the runs of each side."""
        baselines, candidates = zip(*pairs, strict=True)
        return cls(pairs, (merged(baselines), merged(candidates)))


def _make(
    comparison: Comparison,
    names: tuple[str, str],
    config: ReportConfig,
    so_far: Mapping[str, int] | None,
    downstream: Sequence[Downstream],
    started_by: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What report.json holds of one candidate, and the text of the other files."""
    runs = comparison.runs
    results, pooled, horizons = measure(comparison, config)
    report = report_data(runs, names, results, pooled, horizons, so_far, config)
    report |= {"started_by": started_by} if started_by else {}
    tuned = [one for one in downstream if one.is_of(comparison.pairs)]
    report["downstream"] = [one.section for one in tuned]
    steps = np.array(runs[0].steps, dtype=float)
    drawings = draw(report, results, pooled, runs[1].routing, steps)
    csv = to_csv(report["languages"])
    files = {"per_language.csv": csv, PAGE: render(report, drawings, csv), **alone(drawings)}
    for one in tuned:
        files |= {f"{one.folder}/{name}": text for name, text in one.files.items()}
    return report, files


def _make_all(
    comparisons: Sequence[Comparison],
    config: ReportConfig,
    so_far: Mapping[str, int] | None,
    downstream: Sequence[Downstream],
    started_by: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The same of several candidates; each one's files are in a directory below."""
    baseline, *names = model_names([comparisons[0].runs[0], *(c.runs[1] for c in comparisons)])
    reports, files = {}, {}
    for number, (name, comparison) in enumerate(zip(names, comparisons, strict=True), start=1):
        folder = f"{number}-{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-')}"
        reports[folder], made = _make(
            comparison, (baseline, name), config, so_far, downstream, started_by
        )
        made[DATA] = storage.json_text(reports[folder])
        files |= {f"{folder}/{file}": text for file, text in made.items()}
    report = overview_data(reports)
    return report, {**files, PAGE: render_page("overview.html.j2", report, sentences=sentences)}


def measure(
    comparison: Comparison, config: ReportConfig
) -> tuple[list[LanguageResult], Pooled | None, list[dict[str, Any]]]:
    """Measure every language, the pooled average, and what both were at earlier steps."""
    runs = comparison.runs
    steps = np.array(runs[0].steps, dtype=float)
    by_seed = [pair_losses(*pair) for pair in comparison.pairs]
    check_seeds(by_seed, runs)
    progress = Progress(STAGE, "bootstrap", len(by_seed[0]), "languages")
    results = []
    for seeds in zip(*by_seed, strict=True):
        trained = are_trained(runs, seeds[0].lang)
        results.append(measure_language(seeds, steps, trained, config))
        progress.add()
    return results, pool(results, steps, config), measure_horizons(results, steps, config)


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    median, pooled = summary["median_step_speedup"], summary["pooled"]
    return {
        "languages_in_headline": summary["languages_in_headline"],
        "median_step_speedup": median and median["value"],
        "median_step_speedup_censored": median and sentences.figure_mark(median),
        "pooled_step_speedup": pooled and pooled["step_speedup"],
        "pooled_step_speedup_censored": pooled and pooled["censored"],
    }
