"""Estimates with their intervals: bootstraps, Student's t over documents and seeds, and Holm.

Documents are resampled, the same for all models, steps and seeds. A resampled curve is a mean over
seeds, plus a random change as other seeds would cause. Seeds are few, so changes are enlarged until
percentiles are those of Student's t. Variances of documents and seeds then add, and so do the
squares of both margins, as in `margin` (docs/decisions/0043).
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Any, cast

import numpy as np
from annotated_types import Ge, Le, Lt
from scipy.optimize import brentq
from scipy.special import ndtri, stdtr, stdtrit

from mswitch.pipelines.config_checks import check_fields

#: Largest resampling weight matrix held at once, in cells.
WEIGHT_CELLS = 4_000_000
#: A smaller relative difference of two numbers is only rounding, so they count as equal.
TOLERANCE = 1e-12
#: Family-wise error of Holm's method.
LEVEL = 0.05
#: If skewness may change a tail probability by more than this factor, `clear_after_holm` does not
#: use Holm's method.
MOST_BY_SKEWNESS = 2.0
#: If Holm's first test requires a higher t value, `clear_after_holm` does not use Holm's method.
MOST_ERRORS = 10.0
#: Factor on a skewness estimated from few documents (docs/decisions/0043).
HIDDEN_SKEWNESS = 6.0

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Settings of the confidence intervals.

    Attributes:
        resamples: number of bootstrap resamples per language.
        seed: seed of all random draws.
        confidence: confidence level of every interval, such as 0.95.
    """

    resamples: Annotated[int, Ge(100)] = 1000
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    confidence: Annotated[float, Ge(0.5), Lt(1)] = 0.95

    def __post_init__(self):
        check_fields(self)


DEFAULT_CONFIG = ReportConfig()


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the number.
        ci: its interval; None if too little was measured for one.
        p_value: p value of the two-sided test that belongs to the interval of a difference; 1 if
            there is no error to judge by, None if there were too few units for a test.
        skewness: skewness of a difference's sampling distribution over documents, about that of a
            single document over the root of their number; None if documents give no error.
        error: standard error over documents, and `freedom`, its degrees of freedom; None like the
            skewness.
    """

    value: float
    ci: Interval | None = None
    p_value: float | None = None
    skewness: float | None = None
    error: float | None = None
    freedom: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the value with its interval."""
        return {"value": self.value, "ci": self.ci}


def percentiles(values: np.ndarray, confidence: float) -> Interval:
    """Return the percentile interval of resamples."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def language_generator(lang: str, seed: int) -> np.random.Generator:
    """Return a generator that depends only on the language's code and the seed."""
    digest = hashlib.sha256(f"{seed}/{lang}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def document_weights(documents: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the number of times each document is in each resample, [resamples, documents]."""
    draws = generator.integers(0, documents, (resamples, documents))
    cells = draws + documents * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * documents)
    return counts.reshape(resamples, documents).astype(np.float64)


def draw_languages(
    languages: int, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw languages, and a resample of documents for each: two arrays [resamples, languages]."""
    shape = resamples, languages
    return generator.integers(0, languages, shape), generator.integers(0, resamples, shape)


def spread_documents(
    drawn: np.ndarray, centre: np.ndarray, units: float, confidence: float
) -> np.ndarray:
    """Widen the spread of bootstrap means over few documents or languages, as Student's t requires.

    Args:
        drawn: [R, ...] a mean over drawn units in each resample.
        centre: [...] the mean over all units.
        units: number of units, or their effective number if they are unequal.
        confidence: confidence of the interval.
    """
    if units <= 1:
        return drawn
    scale = math.sqrt(units / (units - 1)) * widening(units - 1, confidence)
    return centre + scale * (drawn - centre)


def draw_seeds(of_seeds: np.ndarray, config: ReportConfig) -> np.ndarray:
    """Simulate how far a mean over random seeds may be from its true value.

    `of_seeds` [K, ...] has a figure or a curve of each seed. Draws are normal, with the standard
    error over seeds as standard deviation. If draws are multiplied by `widening(K - 1)`,
    percentiles of a mean are those of Student's t. Draw r has the same weights of seeds for every
    mean, because a lucky seed is lucky in all languages.

    Returns:
        [R, ...] differences from the mean; zeros for one seed, which shows no variation.
    """
    count = len(of_seeds)
    if count == 1:
        return np.zeros((config.resamples, *of_seeds.shape[1:]))
    generator = language_generator("seeds", config.seed)
    weights = generator.standard_normal((config.resamples, count))
    scale = 1 / math.sqrt(count * (count - 1))
    return scale * np.einsum("rk,k...->r...", weights, of_seeds - of_seeds.mean(axis=0))


def widening(freedom: float, confidence: float) -> float:
    """Return the ratio of Student's interval to the normal interval; 1 if `freedom` is 0."""
    if freedom <= 0:
        return 1.0
    tail = (1 + confidence) / 2
    return float(stdtrit(freedom, tail) / ndtri(tail))


def measure_seed_errors(of_seeds: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """Return standard error and degrees of freedom of a mean over K seeds; [] if the error is 0."""
    count = len(of_seeds)
    error = float(np.std(of_seeds, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return [(error, count - 1)] if error > 0 else []


def margin(errors: Sequence[tuple[float, float]], tail: float) -> float:
    """Return the half-width of an interval that leaves out `tail` on each side.

    Each of `errors`, a standard error and its degrees of freedom, has its own t; the margins add
    in quadrature. With degrees of freedom by Welch and Satterthwaite, margins would be much too
    small if `tail` is small. Two seeds that agree by chance have a tiny variance, so the degrees of
    freedom would be those of the documents (docs/decisions/0024).
    """
    return math.hypot(
        *(float(stdtrit(freedom, tail)) * error for error, freedom in errors if error > 0)
    )


def t_test(
    value: float, errors: Sequence[tuple[float, float]], confidence: float, *, scale: float
) -> Estimate:
    """Return a difference with its confidence interval and p value by Student's t.

    If all errors are only rounding, the interval is None and the p value is 1.

    `errors` are as in `margin`. `scale` is the size of the compared numbers.
    """
    if math.hypot(*(error for error, _ in errors)) <= TOLERANCE * scale:
        return Estimate(value, None, 1.0)
    reach = margin(errors, (1 - confidence) / 2)
    return Estimate(value, (value - reach, value + reach), _p_value(value, errors))


def _p_value(value: float, errors: Sequence[tuple[float, float]]) -> float:
    """Return the two-sided p value: 1 minus the confidence at which the interval ends at zero."""
    if len(errors) == 1:
        [(error, freedom)] = errors
        return float(2 * stdtr(freedom, -abs(value) / error))

    def beyond(log_p: float) -> float:
        return margin(errors, math.exp(log_p) / 2) - abs(value)

    # For smaller p values, quantiles are not finite at some degrees of freedom.
    least = math.log(1e-100)
    if beyond(least) <= 0:
        return 0.0
    log_p = cast(float, brentq(beyond, least, 0))
    return math.exp(log_p)


def holm_rejections(p_values: Sequence[float]) -> np.ndarray:
    """Return the hypotheses that Holm's step-down method rejects at family-wise error `LEVEL`."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= LEVEL / (len(values) - np.arange(len(values)))
    kept = np.logical_and.accumulate(passed)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = kept
    return rejected


def clear_after_holm(deltas: Sequence[Estimate], seeds: int = 1) -> tuple[int | None, int | None]:
    """Count better and worse languages by Holm's method; None if the method cannot be used.

    The method cannot be used if seeds are so few that the t that it first requires is above
    `MOST_ERRORS`, or if differences are too skewed. If g is a mean's skewness, the tail of
    Student's t beyond z on the other side is too thick by exp(|g| z^3 / 3) (Wang, "Limit theorems
    for self-normalized large deviation", 2005). At the first z of Holm's method, this factor may be
    at most `MOST_BY_SKEWNESS`.
    """
    tail = LEVEL / len(deltas) / 2
    if seeds > 1 and -stdtrit(seeds - 1, tail) > MOST_ERRORS:
        return None, None
    skewness, noise = _sample_skewness(deltas)
    size = math.sqrt(max(0.0, float(np.mean(skewness**2)) - noise)) if len(skewness) else 0.0
    if size * (-ndtri(tail)) ** 3 / 3 > math.log(MOST_BY_SKEWNESS):
        return None, None
    holm = holm_rejections([1.0 if each.p_value is None else each.p_value for each in deltas])
    better = np.array([each.value < 0 for each in deltas])
    return int((holm & better).sum()), int((holm & ~better).sum())


def _sample_skewness(deltas: Sequence[Estimate]) -> tuple[np.ndarray, float]:
    """Return each language's skewness of loss differences, and the sampling variance of skewness.

    Languages without skewness are left out. The variance for D normal differences is
    6 D (D - 1) / ((D - 2) (D + 1) (D + 3)), over D for their mean.
    """
    known = [each for each in deltas if each.skewness is not None]
    d = np.array([max(each.freedom or 0.0, 2.0) + 1 for each in known])
    noise = float(np.mean(6 * (d - 1) / ((d - 2) * (d + 1) * (d + 3)))) if known else 0.0
    return np.array([each.skewness for each in known], dtype=float), noise


def shrunken_skewness(deltas: Sequence[Estimate]) -> np.ndarray:
    """Estimate the skewness of each language's loss differences [L] by shrinkage to the mean.

    Deviations from the mean shrink by the share of noise in their variance.
    """
    skewness, noise = _sample_skewness(deltas)
    if not len(skewness):
        return np.zeros(len(deltas))
    mean, variance = skewness.mean(), skewness.var()
    kept = max(0.0, 1 - noise / variance) if variance > 0 else 0.0
    return np.array(
        [0.0 if each.skewness is None else mean + kept * (each.skewness - mean) for each in deltas]
    )


def counts_by_chance(
    deltas: Sequence[Estimate], of_seeds: np.ndarray, config: ReportConfig
) -> np.ndarray:
    """Simulate how many languages look clearly better, or worse, if the models are equally good.

    A draw has, for each language, an error over documents and an error over seeds. Errors over
    seeds have the covariance over languages of the given seeds, because a lucky seed is lucky in
    all languages. The scale of these errors is drawn too, because few seeds do not determine it
    well. A language is clear if its interval, computed as in the report, excludes zero.

    `deltas` are the differences of all languages, `of_seeds` [K, L] those with each seed.

    Returns:
        [R] the larger of both counts.
    """
    generator = language_generator("counts", config.seed)
    seeds, languages = of_seeds.shape
    tail = (1 + config.confidence) / 2
    error = np.array([each.error or 0.0 for each in deltas])
    freedom = np.array([each.freedom or 1.0 for each in deltas])
    t = generator.standard_t(freedom, (config.resamples, languages))
    # Edgeworth's expansion of a studentized mean (Hall 1992).
    values = error * (t - HIDDEN_SKEWNESS * shrunken_skewness(deltas) * (2 * t**2 + 1) / 6)
    reach = np.broadcast_to(stdtrit(freedom, tail) * error, values.shape)
    if seeds > 1:
        scale = 1 / np.sqrt(generator.chisquare(seeds - 1, (config.resamples, 1, 1)))
        weights = scale * generator.standard_normal((config.resamples, seeds, seeds))
        drawn = np.einsum("rkj,jl->rkl", weights, of_seeds - of_seeds.mean(axis=0))
        values = values + drawn.mean(axis=1)
        by_seeds = drawn.std(axis=1, ddof=1) / math.sqrt(seeds)
        reach = np.hypot(reach, stdtrit(seeds - 1, tail) * by_seeds)
    judged = np.array([each.ci is not None for each in deltas])
    clear = judged & (np.abs(values) > reach)
    return np.maximum((clear & (values < 0)).sum(axis=1), (clear & (values > 0)).sum(axis=1))
