"""The headline over languages, and one pooled figure for runs too small to have a headline."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flows.report.speedup import (
    Censoring,
    Delta,
    LanguageLosses,
    SpeedUp,
    language_generator,
    measure_speed_up,
)

#: Fewer units than this give no interval: documents of a language, languages of the headline.
MINIMUM_UNITS = 5
FOURFOLD = 4.0
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """What is reported of one language.

    Attributes:
        losses: its evaluations.
        baseline_curve: [S] nats per token of the baseline.
        candidate_curve: [S] nats per token of the candidate.
        delta: difference at the last step.
        speed_up: step speed-up.
        trained: whether both models saw training text of it.
        in_headline: whether it has the documents, the training text and a speed-up.
    """

    losses: LanguageLosses
    baseline_curve: np.ndarray
    candidate_curve: np.ndarray
    delta: Delta
    speed_up: SpeedUp
    trained: bool
    in_headline: bool


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The macro-average over all trained languages, each counted once.

    Attributes:
        languages: how many languages it averages.
        documents: how many documents they have.
        baseline_curve: [S] mean over languages of nats per token.
        candidate_curve: the same of the candidate.
        delta: difference at the last step (interval of the bootstrap below, no p value).
        speed_up: step speed-up of the averaged curves.
    """

    languages: int
    documents: int
    baseline_curve: np.ndarray
    candidate_curve: np.ndarray
    delta: Delta
    speed_up: SpeedUp


def holm_rejections(p_values: Sequence[float], level: float = LEVEL) -> np.ndarray:
    """Which hypotheses Holm's step-down method rejects at family-wise error `level`."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= level / (len(values) - np.arange(len(values)))
    kept = np.logical_and.accumulate(passed)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = kept
    return rejected


def _bounds(speed_up: SpeedUp) -> tuple[float, float]:
    """The range in which the true speed-up lies."""
    assert speed_up.value is not None
    low = 0.0 if speed_up.censored == "upper" else speed_up.value
    high = float("inf") if speed_up.censored == "lower" else speed_up.value
    return low, high


def _figure(
    values: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: np.ndarray | None,
    confidence: float,
) -> dict[str, Any]:
    """One headline figure: value with bounds counted as bounds, range, interval over languages."""
    ci = None
    if draws is not None:
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        ci = [float(end) for end in np.quantile(statistic(values[draws]), tails)]
    low, high = (float(statistic(limit)) for limit in limits)
    return {
        "value": float(statistic(values)),
        "ci": ci,
        "range": [low, high if np.isfinite(high) else None],
    }


def headline(
    results: Sequence[LanguageResult], *, resamples: int, seed: int, confidence: float
) -> dict[str, Any]:
    """Summarise the languages of the headline; figures are None where no language qualifies.

    A censored language counts at its bound. `range` holds what each figure would be if the
    censored languages lay at the far ends (zero, or without limit: null).
    """
    chosen = [result for result in results if result.in_headline]
    marks: list[Censoring] = [result.speed_up.censored for result in chosen]
    summary: dict[str, Any] = {
        "languages": len(results),
        "languages_in_headline": len(chosen),
        "languages_under_minimum_documents": sum(
            result.losses.documents < MINIMUM_UNITS for result in results
        ),
        "languages_without_training_text": sum(not result.trained for result in results),
        "languages_without_defined_speedup": sum(r.speed_up.value is None for r in results),
        "censored": {mark: marks.count(mark) for mark in ("none", "lower", "upper")},
        "median_step_speedup": None,
        "mean_step_speedup": None,
        "share_at_least_4x": None,
        "improved": None,
    }
    if not chosen:
        return summary
    values = np.array([result.speed_up.value for result in chosen], dtype=float)
    lows, highs = np.array([_bounds(result.speed_up) for result in chosen]).T
    draws = None
    if len(chosen) >= MINIMUM_UNITS:
        generator = language_generator("headline", seed)
        draws = generator.integers(0, len(chosen), (resamples, len(chosen)))

    median, mean = (functools.partial(f, axis=-1) for f in (np.median, np.mean))
    # Only languages known to be at 4x or more count; the range adds those that may be.
    fours, perhaps = ((limit >= FOURFOLD).astype(float) for limit in (lows, highs))
    for name, array, limits, statistic in (
        ("median_step_speedup", values, (lows, highs), median),
        ("mean_step_speedup", values, (lows, highs), mean),
        ("share_at_least_4x", fours, (fours, perhaps), mean),
    ):
        summary[name] = _figure(array, limits, statistic, draws, confidence)
    summary["improved"] = _improved(chosen, draws, confidence)
    return summary


def _improved(
    chosen: Sequence[LanguageResult], draws: np.ndarray | None, confidence: float
) -> dict[str, Any]:
    """Count languages whose final loss is clearly better, alone and after Holm's correction."""
    intervals = [result.delta.ci for result in chosen]
    better = np.array([ci is not None and ci[1] < 0 for ci in intervals], dtype=float)
    worse = [ci is not None and ci[0] > 0 for ci in intervals]
    p_values = [1.0 if r.delta.p_value is None else r.delta.p_value for r in chosen]
    holm = holm_rejections(p_values)
    signs = np.array([result.delta.value < 0 for result in chosen])
    return {
        **_figure(better, (better, better), lambda a: np.mean(a, axis=-1), draws, confidence),
        "languages": int(better.sum()),
        "languages_worse": int(sum(worse)),
        "languages_after_holm": int((holm & signs).sum()),
        "languages_worse_after_holm": int((holm & ~signs).sum()),
        "method": "Holm, family-wise error 5 %, jackknife t test with documents as clusters",
    }


def pool(
    results: Sequence[LanguageResult],
    resampled: Mapping[str, tuple[np.ndarray, np.ndarray]],
    steps: np.ndarray,
    *,
    seed: int,
    confidence: float,
) -> Pooled | None:
    """Average the loss over all trained languages and measure the speed-up of the average.

    Resamples draw languages with replacement (clusters), then documents within each drawn one;
    a language drawn twice gets two independent draws of its documents. Languages with a single
    document vary as clusters only.

    Args:
        results: all languages.
        resampled: curves [R, S] of both models per language, from `resample_curves`.
        steps: [S] evaluated steps.
        seed: seed of the draws.
        confidence: of the interval.

    Returns:
        None when no language has training text.
    """
    trained = [result for result in results if result.trained]
    if not trained:
        return None
    curves = (
        np.mean([result.baseline_curve for result in trained], axis=0),
        np.mean([result.candidate_curve for result in trained], axis=0),
    )
    drawn = None
    delta_ci = None
    if len(trained) >= MINIMUM_UNITS:
        tables = [np.stack([resampled[r.losses.lang][model] for r in trained]) for model in (0, 1)]
        _, resamples, _ = tables[0].shape
        generator = language_generator("pooled", seed)
        langs = generator.integers(0, len(trained), (resamples, len(trained)))
        copies = generator.integers(0, resamples, (resamples, len(trained)))
        drawn = (
            tables[0][langs, copies].mean(axis=1),
            tables[1][langs, copies].mean(axis=1),
        )
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(drawn[1][:, -1] - drawn[0][:, -1], tails)
        delta_ci = (float(low), float(high))
    return Pooled(
        languages=len(trained),
        documents=sum(result.losses.documents for result in trained),
        baseline_curve=curves[0],
        candidate_curve=curves[1],
        delta=Delta(float(curves[1][-1] - curves[0][-1]), delta_ci, None),
        speed_up=measure_speed_up(steps, curves, drawn, confidence),
    )
