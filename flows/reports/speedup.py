"""Step speed-up of a candidate over its baseline, per language, with its uncertainty.

Step speed-up = (baseline's steps) / (candidate's steps) to reach the baseline's final quality
(Switch Transformers, section 4.3 and figure 8). The paper gives no smoothing, interpolation or
error bars; these are ours:

- A monotone non-increasing (isotonic) curve is fitted to each model's evaluations in log step.
  A running minimum would be biased low by noise. The target is the baseline's last fitted value.
- Each model's steps are where its own curve first meets the target, by linear interpolation in
  (log step, loss). The baseline's are its last step T unless its curve ends on a plateau, that is
  where it stopped improving; they are then where the plateau begins. Dividing T itself would call
  a candidate that is 0.03 nats better on an overfitted curve 27 times faster, in place of 1.3.
- A candidate below the target at its first evaluation gives a lower bound, one that never meets
  it gives the upper bound T / T. Nothing is extrapolated.
- Documents are resampled jointly for both models and all steps (a paired bootstrap). The final
  difference has a t interval instead (`measure_delta`).
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from scipy.optimize import brentq, isotonic_regression
from scipy.special import stdtr, stdtrit

Censoring = Literal["none", "lower", "upper"]

#: Codes of how a target was met: never (the true speed-up is smaller than its bound), met, already
#: at the first evaluation (it is larger).
NEVER, MET, AT_FIRST = -1, 0, 1
CENSORING: dict[int, Censoring] = {NEVER: "upper", MET: "none", AT_FIRST: "lower"}

#: Losses closer than this (relative) are equal: block means of one plateau differ by rounding.
TOLERANCE = 1e-12
#: Largest resampling weight matrix held at once, in cells.
WEIGHT_CELLS = 4_000_000


@dataclasses.dataclass(frozen=True)
class LanguageLosses:
    """The evaluations of one language: D documents, S steps, the same for both models.

    Attributes:
        lang: mC4 code.
        tokens: [D] target tokens of each document.
        target_bytes: [D] UTF-8 bytes of each document's masked text.
        baseline: [D, S] nats of the baseline, rows in order of document id.
        candidate: [D, S] nats of the candidate, the same rows.
    """

    lang: str
    tokens: np.ndarray
    target_bytes: np.ndarray
    baseline: np.ndarray
    candidate: np.ndarray

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.tokens)

    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Nats per target token of baseline and candidate, [S] each."""
        sums, scale = _exact_sums(self, np.ones((1, self.documents)))
        return sums[0][0] / scale, sums[1][0] / scale


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """A step speed-up; where `censored` is not "none", `value` is the bound.

    Attributes:
        value: the speed-up, or None where it is not defined (see `measure_speed_up`).
        censored: "lower" means the truth is above `value`, "upper" that it is below.
        ci: percentile interval, or None. Resamples at a bound count as far beyond it.
        ci_censored: the same marks for both ends of the interval.
        baseline_steps: step at which the baseline's curve first met its final value.
        candidate_steps: step at which the candidate's did, or None where it is not known.
    """

    value: float | None
    censored: Censoring
    ci: tuple[float, float] | None
    ci_censored: tuple[Censoring, Censoring] | None
    baseline_steps: float | None
    candidate_steps: float | None


@dataclasses.dataclass(frozen=True)
class Delta:
    """Candidate minus baseline, nats per token at the last step; below zero is better.

    Attributes:
        value: the difference.
        ci: t interval with documents as clusters, or None. There is none where one document
            outweighs the others (under two effective documents) or where all documents differ by
            the same amount.
        p_value: of the two-sided test that belongs to the interval; 1 where such documents leave
            nothing to judge by, None where too few were there to try.
        skewness: of the difference's distribution over documents that might have been drawn, about
            that of a single document's over the root of their number; None where documents leave
            nothing to judge by.
    """

    value: float
    ci: tuple[float, float] | None
    p_value: float | None
    skewness: float | None = None


def isotonic_fit(losses: np.ndarray) -> np.ndarray:
    """Fit a non-increasing curve to `losses` [S] by least squares."""
    return isotonic_regression(losses, increasing=False).x


def isotonic_fits(losses: np.ndarray) -> np.ndarray:
    """Fit every row of `losses` [R, S] at once; the same as `isotonic_fit` of each.

    By the min-max formula: the fit at i is the least over a <= i of the greatest over b >= i of
    the mean of the losses from a to b.
    """
    count = losses.shape[1]
    totals = np.concatenate([np.zeros((len(losses), 1)), np.cumsum(losses, axis=1)], axis=1)
    index = np.arange(count)
    lengths = index[None, :] - index[:, None] + 1
    # means[r, a, b]; cells with b < a are no interval and never win a maximum.
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
    """Compute the logarithms of R step speed-ups from fitted curves [R, S].

    Returns:
        Log speed-ups or log bounds [R], codes [R], and the log steps [R] of both models.
    """
    targets = baseline_fits[:, -1]
    baseline, _ = first_crossing(log_steps, baseline_fits, targets)
    candidate, codes = first_crossing(log_steps, candidate_fits, targets)
    # Never met: the bound is T / T. On a plateau the tighter bound would say too much, since
    # the candidate may have been at its best long before it was last evaluated.
    values = np.where(codes == NEVER, 0.0, baseline - candidate)
    return values, codes, baseline, candidate


def measure_speed_up(
    steps: np.ndarray,
    curves: tuple[np.ndarray, np.ndarray],
    resampled: tuple[np.ndarray, np.ndarray] | None,
    confidence: float,
) -> SpeedUp:
    """Measure the step speed-up from two loss curves [S] and, if given, resampled ones [R, S].

    It is not defined where the baseline's fit is flat: it was never better than at its first
    evaluation, and it is not known how early it was as good.
    """
    log_steps = np.log(steps)
    fits = [isotonic_fit(curve)[None, :] for curve in curves]
    if fits[0][0, 0] <= fits[0][0, -1] * (1 + TOLERANCE):
        return SpeedUp(None, "none", None, None, None, None)
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
    """The percentile interval of log speed-ups [R] of which some are bounds, and its ends' marks.

    A bound stands for a value anywhere beyond it. So each end is between two quantiles: of the
    least that the resamples can be, and of the most. An end is the further one, or where nothing
    limits that, the other one as its bound.
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


def language_generator(lang: str, seed: int) -> np.random.Generator:
    """A generator that depends on nothing but the language's code and the seed."""
    digest = hashlib.sha256(f"{seed}/{lang}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def document_weights(documents: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `documents` is drawn in each resample, [resamples, documents]."""
    draws = generator.integers(0, documents, (resamples, documents))
    cells = draws + documents * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * documents)
    return counts.reshape(resamples, documents).astype(np.float64)


def resample_curves(
    losses: LanguageLosses, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw documents with replacement, jointly for both models and all steps.

    Returns:
        Nats per target token of baseline and candidate, [resamples, S] each.
    """
    generator = language_generator(losses.lang, seed)
    chunk = max(1, WEIGHT_CELLS // losses.documents)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        weights = document_weights(losses.documents, count, generator)
        sums, scale = _exact_sums(losses, weights)
        tokens = weights @ losses.tokens.astype(np.float64)
        # `scale` carries the unweighted token count, which resampling replaces by its own.
        scale = scale / losses.tokens.sum() * tokens[:, None]
        parts.append((sums[0] / scale, sums[1] / scale))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def measure_delta(
    losses: LanguageLosses,
    confidence: float | None,
    of_seeds: Sequence[float] | np.ndarray = (),
) -> Delta:
    """Compare both models at the last step, with documents, and seeds, as clusters.

    The standard error is the delete-one jackknife's, the root of the sum of squares of how much
    the difference moves when one document is left out (HC3 for a ratio; MacKinnon, Nielsen and
    Webb, "Cluster-robust inference", 2023). Degrees of freedom are Kish's effective number of
    documents less one, so a few long documents among short ones count as few (docs/decisions/0024).

    Args:
        losses: the evaluations of one language, the mean of all seeds.
        confidence: of the interval; None gives neither interval nor p value.
        of_seeds: [K] the difference with each seed, where there are several.
    """
    baseline, candidate = (float(curve[-1]) for curve in losses.curves())
    value = candidate - baseline
    if confidence is None:
        return Delta(value, None, None)
    total = losses.tokens.sum()
    weights = losses.tokens / total
    freedom = float(1 / np.sum(weights**2) - 1)
    if freedom < 1:
        return Delta(value, None, 1.0)
    differences = losses.candidate[:, -1] - losses.baseline[:, -1]
    moves = (differences - value * losses.tokens) / total / (1 - weights)
    error = float(np.sqrt(np.sum(moves**2)))
    errors = [(error, freedom), *errors_of_seeds(of_seeds)]
    found = t_test(value, errors, confidence, scale=baseline)
    if error <= TOLERANCE * baseline:
        return found
    return dataclasses.replace(found, skewness=_skewness(moves))


def errors_of_seeds(of_seeds: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """The standard error of a mean over seeds [K] with its degrees of freedom, if they differ."""
    count = len(of_seeds)
    error = float(np.std(of_seeds, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return [(error, count - 1)] if error > 0 else []


def margin(errors: Sequence[tuple[float, float]], tail: float) -> float:
    """How far an interval reaches that leaves out `tail` on each side.

    Each of `errors`, a standard error and its degrees of freedom, has its own t; the margins add
    in quadrature. A t with degrees of freedom by Welch and Satterthwaite is much too sure far
    out: two seeds that agree by luck have a tiny variance, and the freedom is then that of the
    documents (docs/decisions/0024).
    """
    return math.hypot(
        *(float(stdtrit(freedom, tail)) * error for error, freedom in errors if error > 0)
    )


def t_test(
    value: float, errors: Sequence[tuple[float, float]], confidence: float, *, scale: float
) -> Delta:
    """Student's interval and p value of a difference; none of errors that are rounding alone.

    Args:
        value: the difference.
        errors: see `margin`.
        confidence: of the interval.
        scale: the size of what the difference is between.
    """
    if math.hypot(*(error for error, _ in errors)) <= TOLERANCE * scale:
        return Delta(value, None, 1.0)
    reach = margin(errors, (1 - confidence) / 2)
    return Delta(value, (value - reach, value + reach), _p_value(value, errors))


def _p_value(value: float, errors: Sequence[tuple[float, float]]) -> float:
    """The p of the interval that ends at zero."""
    if len(errors) == 1:
        [(error, freedom)] = errors
        return float(2 * stdtr(freedom, -abs(value) / error))

    def beyond(log_p: float) -> float:
        return margin(errors, math.exp(log_p) / 2) - abs(value)

    least = math.log(np.finfo(float).tiny)
    if beyond(least) <= 0:
        return 0.0
    log_p = cast(float, brentq(beyond, least, 0))
    return math.exp(log_p)


def _skewness(moves: np.ndarray) -> float:
    """Skewness of a sum of independent terms like these [D], corrected for its bias."""
    count = len(moves)
    correction = math.sqrt(count * (count - 1)) / max(count - 2, 1)
    return float(correction * np.sum(moves**3) / np.sum(moves**2) ** 1.5)


def _exact_sums(
    losses: LanguageLosses, weights: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Sum nats over documents with integer `weights` [R, D], free of rounding.

    Nats become integers in fixed point, so that the sums are exact in float64 and depend neither
    on the order of documents nor on the matrix library, its threads or the column's position.

    Returns:
        The sums [R, S] of both models, and the number that turns them into nats per token.
    """
    largest = max(float(losses.baseline.max()), float(losses.candidate.max()), 1e-300)
    bits = 52 - int(np.ceil(np.log2(largest * losses.documents)))
    baseline, candidate = (
        weights @ np.rint(np.ldexp(nats, bits)) for nats in (losses.baseline, losses.candidate)
    )
    return (baseline, candidate), np.ldexp(float(losses.tokens.sum()), bits)
