"""Compute the contents of the report, as the data of report.json and per_language.csv."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports import sentences
from mswitch.flows.reports.headline import LanguageResult, Pooled, headline
from mswitch.flows.reports.horizon import extrapolate_doubling, last_doubling
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.numbers import MINIMUM_UNITS, rounded
from mswitch.flows.reports.pages import csv_text, language_fields
from mswitch.flows.reports.routing import routing_data
from mswitch.flows.reports.runs import EvaluatedRun
from mswitch.flows.reports.speedup import SPEED_UP_KEYS, SpeedUp
from mswitch.flows.reports.verdicts import judge_candidates, judge_pair

#: Keys of one candidate's results in one language, for a report on several candidates.
OF_CANDIDATES = ("candidate_nll", "delta", "delta_ci", *SPEED_UP_KEYS, "in_headline")
#: Fields of a language that all candidates share.
SHARED = ("documents", "near_duplicates", "baseline_nll")


def report_data(
    runs: tuple[EvaluatedRun, EvaluatedRun],
    names: Sequence[str],
    results: Sequence[LanguageResult],
    pooled: Pooled | None,
    horizons: Sequence[Mapping[str, Any]],
    unfinished: Mapping[str, int] | None,
    config: ReportConfig,
) -> dict[str, Any]:
    """Return the contents of report.json, rounded.

    For runs in training, `unfinished` has the last step so far (`step`) and the last planned step
    (`steps`).
    """
    last = float(runs[0].steps[-1])
    train_tokens = sum(row.get("train_tokens", 0) for row in runs[0].config["languages"].values())
    factors = cost_factors(*runs)
    model, routing = runs[1].config["model"], runs[1].routing
    summary = headline(results, config)
    copies = [result.losses.near_duplicates for result in results]
    percent = f"{100 * config.confidence:g}"
    median = summary["median_step_speedup"]
    summary |= {
        "unfinished": unfinished,
        "confidence_percent": percent,
        "train_tokens": train_tokens,
        "validation_documents": sum(result.losses.documents for result in results),
        "near_duplicates": None if None in copies else sum(filter(None, copies)),
        "validation_target_tokens": sum(int(r.losses.tokens.sum()) for r in results),
        "languages_on_a_plateau": sum(
            r.speed_up.baseline_steps is not None and r.speed_up.baseline_steps < last * (1 - 1e-9)
            for r in results
        ),
        "languages_that_worsened": sum(result.worsened for result in results),
        "median_flop_speedup": scaled_figure(median, factors["flop"]),
        "median_wall_speedup": scaled_figure(median, factors["wall"]),
        "pooled": _pooled_json(pooled, factors, percent),
    }
    summary["verdict"] = judge_pair(summary, *names)
    seen_tokens = runs[0].config["tokens_per_step"] * runs[0].steps[-1]
    summary["cautions"] = sentences.caution(summary, min(train_tokens, seen_tokens))
    if runs[0].steps_before:
        summary["cautions"].insert(0, sentences.continued_caution(runs[0].steps_before))
    if runs[0].decay:
        summary["cautions"].insert(0, sentences.decay_caution(runs[0].decay))
    if unfinished:
        summary["cautions"].insert(0, sentences.so_far_caution(unfinished["step"]))
    return rounded(
        {
            "summary": summary,
            "horizons": horizons,
            "after_twice_the_steps": extrapolate_doubling(horizons),
            "sizes": _sizes(results, runs[0], config),
            "languages": [_language_json(r, runs[0], factors) for r in results],
            "method": {**dataclasses.asdict(config), **_method(runs, factors)},
            "routing": routing
            and routing_data(routing, model["encoder_layers"] // model["sparse_every"]),
            "runs": {r.role: _run_json(r, n) for r, n in zip(runs, names, strict=True)},
        }
    )


def cost_factors(baseline: EvaluatedRun, candidate: EvaluatedRun) -> dict[str, float | None]:
    """Return factors that convert a step speed-up to FLOPs and to time (None if not comparable).

    Time is only compared on the same kind of device.
    """
    wall = None
    same_device = baseline.config["device"] == candidate.config["device"]
    if same_device and baseline.step_secs and candidate.step_secs:
        wall = baseline.step_secs / candidate.step_secs
    return {"flop": baseline.flops_per_step / candidate.flops_per_step, "wall": wall}


def _scaled(value: Any, factor: float | None) -> Any:
    """Multiply a number or each number of a list; None if a number or the factor is missing."""
    if value is None or factor is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_scaled(item, factor) for item in value]
    return value * factor


def scaled_figure(figure: Mapping[str, Any] | None, factor: float | None) -> Any:
    """Multiply all numbers of a step speed-up by `factor`, to convert it to FLOPs or time."""
    if figure is None or factor is None:
        return None
    return {
        **figure,
        **{key: _scaled(figure[key], factor) for key in ("value", "ci", "range", "seeds")},
    }


def speed_up_json(speed_up: SpeedUp, factors: Mapping[str, float | None]) -> dict[str, Any]:
    """Return a speed-up by steps, by FLOPs and by time."""
    return {
        **speed_up.as_json(),
        "flop_speedup": _scaled(speed_up.value, factors["flop"]),
        "wall_speedup": _scaled(speed_up.value, factors["wall"]),
        "baseline_steps": speed_up.baseline_steps,
        "candidate_steps": speed_up.candidate_steps,
    }


#: Units of losses, by `EvaluatedRun.in_bytes`: numerator and denominator.
UNITS = {False: ("nats", "target token"), True: ("bits", "byte of masked text")}


def _language_json(
    result: LanguageResult, run: EvaluatedRun, factors: Mapping[str, float | None]
) -> dict[str, Any]:
    losses = result.losses
    trained = run.config["languages"].get(losses.lang, {})
    steps = np.array(run.steps, dtype=float)
    return {
        **language_fields(losses.lang),
        "documents": losses.documents,
        "near_duplicates": losses.near_duplicates,
        "target_tokens": None if run.in_bytes else int(losses.tokens.sum()),
        "target_bytes": int(losses.target_bytes.sum()),
        **{
            key: int(trained.get(key, 0))
            for key in ("train_records", "train_tokens", "train_bytes")
        },
        "rate": float(trained.get("rate", 0.0)),
        "baseline_nll": float(result.curves[0][-1]),
        "candidate_nll": float(result.curves[1][-1]),
        "delta": result.delta.value,
        "delta_ci": result.delta.ci,
        "delta_p_value": result.delta.p_value,
        **speed_up_json(result.speed_up, factors),
        "baseline_last_doubling": last_doubling(result.curves[0], steps),
        "in_headline": result.in_headline,
    }


def _sizes(
    results: Sequence[LanguageResult], run: EvaluatedRun, config: ReportConfig
) -> list[dict[str, Any]]:
    """Return median speed-ups of languages with little, medium and much training text.

    Each group is a third of headline languages.
    """

    def tokens(result: LanguageResult) -> int:
        return int(run.config["languages"][result.losses.lang].get("train_tokens", 0))

    chosen = sorted((result for result in results if result.in_headline), key=tokens)
    if len(chosen) < 3 * MINIMUM_UNITS:
        return []
    ends = [round(third * len(chosen) / 3) for third in range(4)]
    return [
        {
            "languages": end - start,
            "train_tokens": [tokens(chosen[start]), tokens(chosen[end - 1])],
            "median_step_speedup": headline(chosen[start:end], config)["median_step_speedup"],
        }
        for start, end in itertools.pairwise(ends)
    ]


def _pooled_json(
    pooled: Pooled | None, factors: Mapping[str, float | None], percent: str
) -> dict[str, Any] | None:
    if pooled is None:
        return None
    return {
        "languages": pooled.languages,
        "documents": pooled.documents,
        "baseline_nll": float(pooled.curves[0][-1]),
        "candidate_nll": float(pooled.curves[1][-1]),
        "delta": pooled.delta.value,
        "delta_ci": pooled.delta.ci,
        **speed_up_json(pooled.speed_up, factors),
        "step_speedup_seeds": list(pooled.speed_up.of_seeds),
        "confidence_percent": percent,
    }


def _run_json(run: EvaluatedRun, name: str) -> dict[str, Any]:
    """Describe a run for the page, without its path."""
    config = run.config
    steps = int(run.steps[-1])
    return {
        "name": name,
        "preset": run.preset,
        "parameters": config["parameters"],
        "parameters_by_group": config["parameters_by_group"],
        "tokens_per_step": config["tokens_per_step"],
        "device": config["device"],
        "model": config["model"],
        "train": config["train"],
        "active_parameters": _active_parameters(config),
        "flops_per_step": run.flops_per_step,
        "total_flops": run.flops_per_step * steps,
        "steps": steps,
        "tokens_seen": config["tokens_per_step"] * steps,
        "step_secs": run.step_secs,
        "config_hash": run.identity["run"],
        "seeds": list(run.seeds),
        "final_metrics": {
            key: value
            for key, value in run.final_metrics.items()
            if key.startswith("router/") or key in ("step", "train/loss")
        },
    }


def _active_parameters(config: Mapping[str, Any]) -> int:
    """Count the parameters that a token uses: one expert of each sparse layer (top-1 routing)."""
    total, experts = config["parameters"], config["model"]["experts"]
    if not experts:
        return total
    sparse = config["parameters_by_group"]["experts"]
    return total - sparse + sparse // experts


def _method(
    runs: tuple[EvaluatedRun, EvaluatedRun], factors: Mapping[str, float | None]
) -> dict[str, Any]:
    options = [run.config["train"] for run in runs]
    return {
        "eval_steps": list(runs[0].steps),
        "minimum_documents": MINIMUM_UNITS,
        "minimum_languages_for_interval": MINIMUM_UNITS,
        "flop_factor": factors["flop"],
        "wall_factor": factors["wall"],
        "fit": "isotonic in log step; crossing by linear interpolation in (log step, loss)",
        "target": "last fitted value of the baseline",
        "interval": "paired percentile bootstrap over documents, widened for few; seeds added",
        "delta_interval": "t interval, jackknife over documents, effective documents - 1 df; "
        "in quadrature with that of seeds",
        "multiple_testing": "Holm",
        "censored": "a bound counts as the bound",
        "train_options_that_differ": sorted(
            key
            for key in options[0].keys() | options[1].keys()
            if options[0].get(key) != options[1].get(key)
        ),
        "loss_unit": list(UNITS[runs[0].in_bytes]),
        "border_share": [run.border_share for run in runs],
        "mixture": runs[0].config.get("mixture") or {},
        "examples_config_hash": runs[0].config["examples"].get("config_hash"),
        "vocabulary_sha256": runs[0].config["examples"].get("vocabulary_sha256"),
        "candidate_vocabulary_sha256": runs[1].config["examples"].get("vocabulary_sha256"),
    }


def overview_data(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the contents of the overview's report.json from the reports in each directory."""
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
            "verdict": judge_candidates(candidates, baseline["name"]),
            "languages": first["summary"]["languages"],
            "unfinished": first["summary"]["unfinished"],
        },
        "baseline": baseline,
        "candidates": candidates,
        "languages": [
            {
                **language_fields(rows[0]["lang"]),
                **{field: rows[0][field] for field in SHARED},
                "candidates": [{field: row[field] for field in OF_CANDIDATES} for row in rows],
            }
            for rows in zip(*(report["languages"] for report in reports.values()), strict=True)
        ],
        "method": first["method"],
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a line per language; an interval has two columns, a missing value is empty."""
    flat = []
    for row in rows:
        cells: dict[str, Any] = {}
        for key, value in row.items():
            if "_ci" not in key:
                cells[key] = value
                continue
            for end, part in zip(("low", "high"), value or (None, None), strict=True):
                cells[key.replace("_ci", f"_ci_{end}")] = part
        flat.append(cells)
    return csv_text(flat)
