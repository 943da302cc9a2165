"""Several trainings of each model, one a seed: one speed-up of all, and its uncertainty.

The step speed-up over seeds is the geometric mean of those of each seed, in which both models saw
the same data in the same order. Its interval comes from resampling seeds and documents together:
documents as with one seed, the same ones for all seeds, and seeds with replacement. K seeds drawn
so vary too little, by K - 1 in K of their variance, and the normal's quantiles are too small for
few. `widened` makes up for both, as Hesterberg expands percentiles ("What Teachers Should Know
About the Bootstrap", 2015), with degrees of freedom by Welch and Satterthwaite: where documents
vary more than seeds, few seeds matter less.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from mswitch.flows.reports.speedup import (
    AT_FIRST,
    NEVER,
    Censoring,
    Delta,
    LanguageLosses,
    SpeedUp,
    isotonic_fits,
    log_speed_ups,
    measure_delta,
    measure_speed_up,
    percentile_interval,
)

Curves = tuple[np.ndarray, np.ndarray]


def mean_losses(seeds: Sequence[LanguageLosses]) -> LanguageLosses:
    """Average the nats of each document and step over seeds."""
    if len(seeds) == 1:
        return seeds[0]
    return dataclasses.replace(
        seeds[0],
        baseline=np.mean([losses.baseline for losses in seeds], axis=0),
        candidate=np.mean([losses.candidate for losses in seeds], axis=0),
    )


def resample_seeds(
    values: np.ndarray, generator: np.random.Generator, confidence: float
) -> np.ndarray:
    """Average over seeds that are drawn with replacement.

    Args:
        values: [K, R] of each seed in each resample of documents.
        generator: of the draws.
        confidence: of the interval that the result is for.

    Returns:
        [R], `widened`; of one seed, its values.
    """
    draws = draw_seeds(len(values), values.shape[1], generator)
    drawn = np.take_along_axis(values, draws, axis=0).mean(axis=0)
    return widened(values.mean(axis=0), drawn, len(values), confidence)


def draw_seeds(seeds: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw which of the seeds are averaged in each resample, [seeds, resamples]."""
    return generator.integers(0, seeds, (seeds, resamples))


def widened(of_all: np.ndarray, of_drawn: np.ndarray, seeds: int, confidence: float) -> np.ndarray:
    """Spread resamples so far from their mean that their percentiles suit so few seeds.

    Args:
        of_all: [R] a figure over all seeds; each resample has drawn documents or languages.
        of_drawn: [R] the same over drawn seeds.
        seeds: how many there are.
        confidence: of the interval.
    """
    if seeds == 1:
        return of_all
    centre = of_all.mean()
    by_seeds = math.sqrt(seeds / (seeds - 1)) * (of_drawn - of_all)
    variances = float(of_all.var()), float(by_seeds.var())
    if variances[1] == 0:
        return of_all
    freedom = (seeds - 1) * (sum(variances) / variances[1]) ** 2
    tail = (1 + confidence) / 2
    return centre + float(stdtrit(freedom, tail) / ndtri(tail)) * (of_all - centre + by_seeds)


def speed_up_over_seeds(
    steps: np.ndarray,
    curves: Sequence[Curves],
    resampled: Sequence[Curves] | None,
    confidence: float,
    generator: np.random.Generator,
) -> SpeedUp:
    """Measure the geometric mean of the seeds' step speed-ups; with one seed, that one.

    It is a bound if that of a seed is, and not defined where one of a seed is not, or where both
    kinds of bounds meet.

    Args:
        steps: [S] evaluated steps.
        curves: [S] of baseline and candidate, for each seed.
        resampled: [R, S] of the same, the same documents for all seeds in a row; or None.
        confidence: of the interval.
        generator: draws the seeds.
    """
    if len(curves) == 1:
        return measure_speed_up(steps, curves[0], resampled[0] if resampled else None, confidence)
    each = [measure_speed_up(steps, pair, None, confidence) for pair in curves]
    values = [found.value for found in each if found.value is not None]
    bounds: set[Censoring] = {found.censored for found in each if found.censored != "none"}
    if len(values) < len(each) or len(bounds) > 1:
        return SpeedUp(None, "none", None, None, None, None)
    ci = ci_censored = None
    if resampled is not None:
        log_steps = np.log(steps)
        drawn = [log_speed_ups(log_steps, *map(isotonic_fits, pair))[:2] for pair in resampled]
        logs, codes = (np.stack(part) for part in zip(*drawn, strict=True))
        ci, ci_censored = percentile_interval(
            resample_seeds(logs, generator, confidence),
            (codes == NEVER).any(axis=0),
            (codes == AT_FIRST).any(axis=0),
            confidence,
        )
    return SpeedUp(
        value=_geometric_mean(values),
        censored=bounds.pop() if bounds else "none",
        ci=ci,
        ci_censored=ci_censored,
        baseline_steps=_geometric_mean([found.baseline_steps for found in each]),
        candidate_steps=_geometric_mean([found.candidate_steps for found in each]),
    )


def delta_over_seeds(seeds: Sequence[LanguageLosses], confidence: float | None) -> Delta:
    """Compare both models at the last step, with documents and seeds as clusters.

    What a seed does to single documents counts twice, so the interval is rather too wide.
    """
    ends = [[curve[-1] for curve in losses.curves()] for losses in seeds]
    deltas = [candidate - baseline for baseline, candidate in ends]
    return measure_delta(mean_losses(seeds), confidence, deltas)


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(known)))) if len(known) == len(values) else None
