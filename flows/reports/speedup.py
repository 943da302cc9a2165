"""Measure a model's step speed-up over a baseline and the final loss difference, per language.

Step speed-up = (baseline's steps) / (candidate's steps) to reach the baseline's final quality
(Switch Transformers, section 4.3 and figure 8). The paper describes no smoothing, interpolation or
error bars; these are mswitch's:

- A monotone non-increasing (isotonic) curve is fitted to each model's evaluations in log step.
  A running minimum would be biased low by noise. The target is the baseline's last fitted value.
- A model's steps are the step at which its own curve first meets the target, by linear
  interpolation in (log step, loss). For the baseline this is its last step T, or, if it stopped
  improving, the step at which its curve's plateau begins. With T itself, a candidate 0.03 nats
  better on an overfitted curve would count as 27 times faster, not 1.3.
- A candidate below the target at its first evaluation gives a lower bound; one that never meets it
  gives the upper bound T / T. Nothing is extrapolated.
- Documents are resampled jointly for both models and all steps (a paired bootstrap). The final
  difference has a t interval instead (`measure_delta`).
- Curves are averaged over seeds first. A speed-up is not linear in losses, so a mean of speed-ups
  would be biased, and a seed that never meets the target would count as none (docs/decisions/0043).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from mswitch.flows.reports.intervals import (
    TOLERANCE,
    WEIGHT_CELLS,
    Estimate,
    ReportConfig,
    document_weights,
    draw_seeds,
    language_generator,
    measure_seed_errors,
    t_test,
    widening,
)
from mswitch.flows.reports.numbers import Censoring

SPEED_UP_KEYS = ("step_speedup", "step_speedup_ci", "step_speedup_ci_censored", "censored")
#: Codes of a target: never met, met, or met already at the first evaluation.
NEVER, MET, AT_FIRST = -1, 0, 1
CENSORING: dict[int, Censoring] = {NEVER: "upper", MET: "none", AT_FIRST: "lower"}

#: Curves of baseline and candidate, [2, ..., S].
Curves = np.ndarray
#: Speed-ups (or bounds), and their smallest and largest possible values, [3, ...].
Ranges = np.ndarray


@dataclasses.dataclass(frozen=True)
class LanguageLosses:
    """Losses of both models on the same D documents of one language at the same S steps.

    Near-duplicate documents count as one of D, with their sums (`sum_clusters`).

    Attributes:
        lang: mC4 code.
        tokens: [D] target tokens of each document.
        target_bytes: [D] UTF-8 bytes of each document's masked text.
        baseline: [D, S] nats of the baseline, rows in order of document id.
        candidate: [D, S] nats of the candidate, the same rows.
        near_duplicates: documents not counted in D; None if the evaluation has no clusters.
    """

    lang: str
    tokens: np.ndarray
    target_bytes: np.ndarray
    baseline: np.ndarray
    candidate: np.ndarray
    near_duplicates: int | None = None

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.clusters + (self.near_duplicates or 0)

    @property
    def clusters(self) -> int:
        """Number of independent documents: a group of near-duplicates counts once."""
        return len(self.tokens)

    @property
    def effective_clusters(self) -> float:
        """Kish's effective number of independent documents: it is lower if lengths differ."""
        return float(self.tokens.sum() ** 2 / np.sum(self.tokens.astype(float) ** 2))

    def sum_clusters(self, clusters: np.ndarray) -> "LanguageLosses":
        """Sum the documents of each cluster, by the cluster number [D] of each document."""
        columns = self.tokens, self.target_bytes, self.baseline, self.candidate
        order = np.argsort(clusters, kind="stable")
        _, starts = np.unique(clusters[order], return_index=True)
        sums = (np.add.reduceat(x[order], starts, axis=0) for x in columns)
        return LanguageLosses(self.lang, *sums, near_duplicates=len(clusters) - len(starts))

    def curves(self) -> Curves:
        """Return nats per target token of baseline and candidate, [2, S]."""
        sums, scale = _exact_sums(self, np.ones((1, self.clusters)))
        return sums[:, 0] / scale


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """A step speed-up; if `censored` is not "none", `value` is a bound.

    Attributes:
        value: the speed-up, or None if it is not defined (see `measure_speed_up`).
        censored: "lower": the true value is above `value`; "upper": it is below.
        ci: percentile interval, or None. Resamples at a bound count as far beyond it.
        ci_censored: the same marks for both ends of the interval.
        baseline_steps: step at which the baseline's curve first met its final value.
        candidate_steps: step at which the candidate's curve first met it, or None if unknown.
        of_seeds: the speed-up with each seed, if there are several.
    """

    value: float | None
    censored: Censoring
    ci: tuple[float, float] | None
    ci_censored: tuple[Censoring, Censoring] | None
    baseline_steps: float | None
    candidate_steps: float | None
    of_seeds: tuple[float | None, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the data of this speed-up for reports."""
        values = (self.value, self.ci, self.ci_censored, self.censored)
        return dict(zip(SPEED_UP_KEYS, values, strict=True))


#: Result for curves that define no speed-up.
UNDEFINED = SpeedUp(None, "none", None, None, None, None)


def isotonic_fit(losses: np.ndarray) -> np.ndarray:
    """Fit a non-increasing curve to `losses` [S] by least squares."""
    return isotonic_regression(losses, increasing=False).x


def isotonic_fits(losses: np.ndarray) -> np.ndarray:
    """Fit all rows of `losses` [R, S] at once; results equal `isotonic_fit` of each row.

    The min-max formula: the fit at i is the least over a <= i of the greatest over b >= i of the
    mean of the losses from a to b.
    """
    count = losses.shape[1]
    totals = np.concatenate([np.zeros((len(losses), 1)), np.cumsum(losses, axis=1)], axis=1)
    index = np.arange(count)
    lengths = index[None, :] - index[:, None] + 1
    # Entry [a, b] is the mean loss from step a to step b. If b < a, the entry is minus infinity, so
    # that the maximum ignores it.
    means = (totals[:, None, 1:] - totals[:, :-1, None]) / np.where(lengths > 0, lengths, 1)
    means[:, lengths <= 0] = -np.inf
    greatest = np.maximum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    greatest[:, index[:, None] > index[None, :]] = np.inf
    return greatest.min(axis=1)


def first_crossing(
    log_steps: np.ndarray, fits: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find where non-increasing curves [R, S] first meet `targets` [R].

    Returns:
        Log steps [R] by linear interpolation in (log step, loss), and codes [R]: `NEVER` (the
        log step is the last), `MET`, or `AT_FIRST` (strictly below at the first evaluation; the
        log step is the first).
    """
    slack = TOLERANCE * np.abs(targets)
    met = fits <= (targets + slack)[:, None]
    after = met.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(fits))
    fall = fits[rows, before] - fits[rows, after]
    part = (fits[rows, before] - targets) / np.where(fall > 0, fall, 1.0)
    part = np.where(fall > 0, np.clip(part, 0.0, 1.0), 1.0)
    crossing = log_steps[before] + part * (log_steps[after] - log_steps[before])
    codes = np.where(fits[:, 0] < targets - slack, AT_FIRST, MET)
    never = ~met.any(axis=1)
    return np.where(never, log_steps[-1], crossing), np.where(never, NEVER, codes)


def log_speed_ups(
    log_steps: np.ndarray, baseline_fits: np.ndarray, candidate_fits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the log step speed-up of each of R pairs of fitted loss curves [R, S].

    Returns:
        Log speed-ups or log bounds [R], codes [R], and the log steps [R] of both models.
    """
    targets = baseline_fits[:, -1]
    baseline, _ = first_crossing(log_steps, baseline_fits, targets)
    candidate, codes = first_crossing(log_steps, candidate_fits, targets)
    # If the candidate never meets the target, its speed-up is at most 1 (logarithm 0). The ratio of
    # steps is smaller, but it is not a bound if the candidate's loss stopped falling long before
    # the last evaluation.
    values = np.where(codes == NEVER, 0.0, baseline - candidate)
    return values, codes, baseline, candidate


def measure_speed_up(
    steps: np.ndarray, curves: Curves, resampled: Curves | None, confidence: float
) -> SpeedUp:
    """Measure the step speed-up from loss curves [2, S] and, if given, resampled ones [2, R, S].

    It is not defined if the baseline's fit is flat: the baseline was never better than at its first
    evaluation, and may have been as good earlier.
    """
    log_steps = np.log(steps)
    fits = [isotonic_fit(curve)[None, :] for curve in curves]
    if fits[0][0, 0] <= fits[0][0, -1] * (1 + TOLERANCE):
        return UNDEFINED
    values, codes, baseline, candidate = log_speed_ups(log_steps, *fits)
    code = int(codes[0])
    ci = ci_censored = None
    if resampled is not None:
        drawn, drawn_codes, _, _ = log_speed_ups(log_steps, *map(isotonic_fits, resampled))
        ci, ci_censored = percentile_interval(
            drawn, drawn_codes == NEVER, drawn_codes == AT_FIRST, confidence
        )
    return SpeedUp(
        value=float(np.exp(values[0])),
        censored=CENSORING[code],
        ci=ci,
        ci_censored=ci_censored,
        baseline_steps=float(np.exp(baseline[0])),
        candidate_steps=float(np.exp(candidate[0])) if code == MET else None,
    )


def percentile_interval(
    values: np.ndarray, may_be_less: np.ndarray, may_be_more: np.ndarray, confidence: float
) -> tuple[tuple[float, float], tuple[Censoring, Censoring]]:
    """Return the percentile interval of R speed-ups, some of which may be only bounds.

    `values` [R] are logarithms. The true value of a bound may be anywhere beyond it. So each end is
    between two quantiles: of the smallest possible values of the resamples, and of the largest. An
    end is the further quantile, or, if that has no limit, the other one, marked as a bound.
    """
    least = np.argsort(np.where(may_be_less, -np.inf, values), kind="stable")
    most = np.argsort(np.where(may_be_more, np.inf, values), kind="stable")
    low = int(np.floor((1 - confidence) / 2 * (len(values) - 1)))
    high = len(values) - 1 - low
    lowest, highest = least[low], most[high]
    ends = (
        most[low] if may_be_less[lowest] else lowest,
        least[high] if may_be_more[highest] else highest,
    )
    marks: tuple[Censoring, Censoring] = (
        "upper" if may_be_less[lowest] else "lower" if may_be_more[lowest] else "none",
        "lower" if may_be_more[highest] else "upper" if may_be_less[highest] else "none",
    )
    return (float(np.exp(values[ends[0]])), float(np.exp(values[ends[1]]))), marks


def resample_curves(losses: LanguageLosses, resamples: int, seed: int) -> Curves:
    """Draw documents with replacement, jointly for both models and all steps.

    Returns:
        Nats per target token of baseline and candidate, [2, resamples, S].
    """
    generator = language_generator(losses.lang, seed)
    chunk = max(1, WEIGHT_CELLS // losses.clusters)
    parts = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        weights = document_weights(losses.clusters, count, generator)
        sums, scale = _exact_sums(losses, weights)
        tokens = weights @ losses.tokens.astype(np.float64)
        scale = scale / losses.tokens.sum() * tokens[:, None]
        parts.append(sums / scale)
    return np.concatenate(parts, axis=1)


def _exact_sums(losses: LanguageLosses, weights: np.ndarray) -> tuple[Curves, np.ndarray]:
    """Sum nats over documents with integer `weights` [R, D], free of rounding.

    Nats become integers in fixed point, so that the sums are exact in float64 and depend neither
    on the order of documents nor on the matrix library, its threads or the column's position.

    Returns:
        The sums [2, R, S], and the number that turns them into nats per token.
    """
    nats = np.stack([losses.baseline, losses.candidate])
    bits = 52 - int(np.ceil(np.log2(max(float(nats.max()), 1e-300) * losses.clusters)))
    return weights @ np.rint(np.ldexp(nats, bits)), np.ldexp(float(losses.tokens.sum()), bits)


def mean_losses(seeds: Sequence[LanguageLosses]) -> LanguageLosses:
    """Average the nats of each document and step over seeds."""
    if len(seeds) == 1:
        return seeds[0]
    return dataclasses.replace(
        seeds[0],
        baseline=np.mean([losses.baseline for losses in seeds], axis=0),
        candidate=np.mean([losses.candidate for losses in seeds], axis=0),
    )


def draw_ranges(steps: np.ndarray, of_seeds: np.ndarray, config: ReportConfig) -> Ranges | None:
    """Simulate the step speed-ups that other random seeds would show.

    Returns:
        [3, R], see `Ranges`; None for one seed, because it shows no variation.
    """
    if len(of_seeds) == 1:
        return None
    drawn = of_seeds.mean(axis=0)[:, None] + draw_seeds(of_seeds, config).swapaxes(0, 1)
    logs, codes, _, _ = log_speed_ups(np.log(steps), *map(isotonic_fits, drawn))
    values = np.exp(logs)
    return np.stack(
        [values, np.where(codes == NEVER, 0, values), np.where(codes == AT_FIRST, np.inf, values)]
    )


def speed_up_over_seeds(
    steps: np.ndarray, of_seeds: np.ndarray, drawn: Curves | None, config: ReportConfig
) -> SpeedUp:
    """Measure the step speed-up of curves averaged over seeds.

    Args:
        steps: [S] evaluated steps.
        of_seeds: [K, 2, S] curves of baseline and candidate with each seed.
        drawn: [2, R, S] their means over seeds, with drawn documents; None gives no interval.
        config: settings of the interval.
    """
    if drawn is not None:
        wide = widening(len(of_seeds) - 1, config.confidence)
        drawn = drawn + wide * draw_seeds(of_seeds, config).swapaxes(0, 1)
    speed_up = measure_speed_up(steps, of_seeds.mean(axis=0), drawn, config.confidence)
    if len(of_seeds) == 1:
        return speed_up
    each = (measure_speed_up(steps, pair, None, config.confidence) for pair in of_seeds)
    return dataclasses.replace(speed_up, of_seeds=tuple(alone.value for alone in each))


def measure_delta(
    losses: LanguageLosses, confidence: float | None, of_seeds: Sequence[float] | np.ndarray = ()
) -> Estimate:
    """Compare both models at the last step; errors are clustered by document and random seed.

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
    """Estimate the skewness of a loss difference over D documents, corrected for bias.

    `moves` [D] are the changes of the difference if one document is left out.
    """
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
