"""The report: how many fewer steps the candidate needed, language by language.

One self-contained HTML page, the same numbers as JSON and CSV, and the figures as SVG.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt

from flows.pages.svg import standalone_svg
from flows.report.data import report_data, to_csv
from flows.report.headline import MINIMUM_UNITS, LanguageResult, Pooled, pool
from flows.report.page import draw, render
from flows.report.runs import Run, check_pair, common_steps, pair_losses, read_evaluated_run
from flows.report.speedup import measure_delta, measure_speed_up, resample_curves
from flows.report.text import figure_mark
from pipelines import storage
from pipelines.outputs import file_sha256, stage_output, write_atomically
from pipelines.progress import Progress, say
from pipelines.validation import check_fields

STAGE = "report"
#: Raised when the same runs give other figures, so that a report by an older statistic is refused
#: and not taken for this one. 2: the t interval of the final difference (docs/decisions/0024).
STATISTICS = 2


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """How the uncertainty is computed.

    Attributes:
        resamples: bootstrap resamples per language.
        seed: seed of all draws.
        confidence: of every interval.
    """

    resamples: Annotated[int, Ge(100)] = 1000
    seed: int = 0
    confidence: Annotated[float, Ge(0.5), Lt(1)] = 0.95

    def __post_init__(self):
        check_fields(self)


DEFAULT_CONFIG = ReportConfig()


def write_report(
    baseline: str | Path,
    candidate: str | Path,
    out: str | Path,
    config: ReportConfig = DEFAULT_CONFIG,
    *,
    unfinished: bool = False,
) -> dict[str, Any]:
    """Compare two evaluated runs and write the report directory.

    Args:
        baseline: run directory of the dense model.
        candidate: run directory of the model that is meant to be faster.
        out: report directory to make.
        config: resamples, seed and confidence.
        unfinished: take runs that still train: the report is of the steps at which both are
            evaluated so far, has no verdict, and may be replaced by a later one. Where nothing is
            missing any more, it is the usual report.

    Returns:
        The stage's summary: the verdict, how many languages it rests on, and the medians.

    Raises:
        UserError: a run is unfinished or not evaluated, or the two cannot be compared.
    """
    steps = common_steps((baseline, candidate)) if unfinished else None
    runs = (
        read_evaluated_run(baseline, "baseline", steps),
        read_evaluated_run(candidate, "candidate", steps),
    )
    check_pair(*runs)
    identity = {
        "report": dataclasses.asdict(config),
        "statistics": STATISTICS,
        "baseline": runs[0].identity,
        "candidate": runs[1].identity,
    }
    if steps is not None:
        identity["unfinished"] = {"step": steps[-1], "steps": runs[0].planned_steps[-1]}

    def is_superseded(manifest: Mapping[str, Any]) -> bool:
        before = manifest["config"]
        return "unfinished" in before and all(
            before[run.role]["run"] == run.identity["run"] for run in runs
        )

    with stage_output(out, stage=STAGE, config=identity, replaces=is_superseded) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out} holds this report, nothing to do")
            report = json.loads((staged.out / "report.json").read_text(encoding="utf-8"))
            return _summary_line(report, out, reused=True)
        results, pooled = measure(runs, config)
        report = report_data(
            runs, results, pooled, identity.get("unfinished"), **dataclasses.asdict(config)
        )
        drawings = draw(
            report, results, pooled, runs[1].routing, np.array(runs[0].steps, dtype=float)
        )
        csv = to_csv(report["languages"])
        files = {
            "per_language.csv": csv,
            **{f"{name}.svg": standalone_svg(d, name) for name, d in drawings.files.items()},
            "report.html": render(report, drawings, csv),
        }
        for name, text in files.items():
            write_atomically(staged.directory / name, text)
        storage.write_json(staged.directory / "report.json", report)
        names = sorted([*files, "report.json"])
        staged.publish(
            {"files": [{"path": n, "sha256": file_sha256(staged.directory / n)} for n in names]}
        )
    say(STAGE, report["summary"]["verdict"])
    return _summary_line(report, out, reused=False)


def measure(
    runs: tuple[Run, Run], config: ReportConfig
) -> tuple[list[LanguageResult], Pooled | None]:
    """Measure every language and the pooled average."""
    steps = np.array(runs[0].steps, dtype=float)
    pairs = pair_losses(*runs)
    progress = Progress(STAGE, "bootstrap", len(pairs), "languages")
    results, resampled = [], {}
    for losses in pairs:
        drawn = resample_curves(losses, config.resamples, config.seed)
        resampled[losses.lang] = drawn
        enough = losses.documents >= MINIMUM_UNITS
        curves = losses.curves()
        speed_up = measure_speed_up(steps, curves, drawn if enough else None, config.confidence)
        trained = all(
            run.config["languages"].get(losses.lang, {}).get("train_records", 0) > 0 for run in runs
        )
        results.append(
            LanguageResult(
                losses=losses,
                baseline_curve=curves[0],
                candidate_curve=curves[1],
                delta=measure_delta(losses, config.confidence if enough else None),
                speed_up=speed_up,
                trained=trained,
                in_headline=enough and trained and speed_up.value is not None,
            )
        )
        progress.add()
    pooled = pool(results, resampled, steps, seed=config.seed, confidence=config.confidence)
    return results, pooled


def _summary_line(report: Mapping[str, Any], out: str | Path, *, reused: bool) -> dict[str, Any]:
    summary = report["summary"]
    median, pooled = summary["median_step_speedup"], summary["pooled"]
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "verdict": summary["verdict"],
        "languages": summary["languages"],
        "languages_in_headline": summary["languages_in_headline"],
        "median_step_speedup": median and median["value"],
        "median_step_speedup_censored": median and figure_mark(median),
        "pooled_step_speedup": pooled and pooled["step_speedup"],
        "pooled_step_speedup_censored": pooled and pooled["censored"],
    }
