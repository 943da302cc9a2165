"""Measure the difference in final loss of two models, per language, with its uncertainty."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mswitch.flows.reports.intervals import TOLERANCE, Estimate, measure_seed_errors, t_test
from mswitch.flows.reports.speedup import LanguageLosses, mean_losses


def measure_delta(
    losses: LanguageLosses, confidence: float | None, of_seeds: Sequence[float] | np.ndarray = ()
) -> Estimate:
    """Compare both models at the last step; clusters are documents and, if several, seeds.

    The standard error is the delete-one jackknife's: the root of the sum of squares of the
    difference's changes when one document is left out (HC3 for a ratio; MacKinnon, Nielsen and
    Webb, "Cluster-robust inference", 2023). Degrees of freedom are Kish's effective number of
    documents minus one, so a few long documents among short ones count as few
    (docs/decisions/0024).

    Args:
        losses: the evaluations of one language, the mean of all seeds.
        confidence: confidence of the interval; None gives neither interval nor p value.
        of_seeds: [K] the difference with each seed, if there are several.
    """
    baseline, candidate = (float(curve[-1]) for curve in losses.curves())
    value = candidate - baseline
    if confidence is None:
        return Estimate(value, None, None)
    total = losses.tokens.sum()
    weights = losses.tokens / total
    freedom = float(1 / np.sum(weights**2) - 1)
    if freedom < 1:
        return Estimate(value, None, 1.0)
    differences = losses.candidate[:, -1] - losses.baseline[:, -1]
    moves = (differences - value * losses.tokens) / total / (1 - weights)
    error = float(np.sqrt(np.sum(moves**2)))
    errors = [(error, freedom), *measure_seed_errors(of_seeds)]
    estimate = t_test(value, errors, confidence, scale=baseline)
    if error <= TOLERANCE * baseline:
        return estimate
    return dataclasses.replace(estimate, skewness=_skewness(moves), error=error, freedom=freedom)


def _skewness(moves: np.ndarray) -> float:
    """Estimate the skewness of a sum of independent terms from `moves` [D], corrected for bias."""
    count = len(moves)
    correction = math.sqrt(count * (count - 1)) / max(count - 2, 1)
    return float(correction * np.sum(moves**3) / np.sum(moves**2) ** 1.5)


def delta_over_seeds(seeds: Sequence[LanguageLosses], confidence: float | None) -> Estimate:
    """Compare both models at the last step, with documents and seeds as clusters.

    The effect of a seed on single documents counts twice, so the interval is rather too wide.
    """
    ends = [[curve[-1] for curve in losses.curves()] for losses in seeds]
    deltas = [candidate - baseline for baseline, candidate in ends]
    return measure_delta(mean_losses(seeds), confidence, deltas)
