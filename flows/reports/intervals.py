"""Estimates with their intervals: bootstraps, Student's t over documents and seeds, and Holm.

Several trainings of a model, one a seed, are resampled with the documents: documents as with one
seed, the same ones for all seeds, and seeds with replacement. K seeds drawn so vary too little, by
K - 1 in K of their variance, and the normal's quantiles are too small for few. `widened` makes up
for both, as Hesterberg expands percentiles ("What Teachers Should Know About the Bootstrap", 2015),
with degrees of freedom by Welch and Satterthwaite: where documents vary more than seeds, few seeds
matter less.
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

#: Fewer units than this give no interval: documents of a language, languages of an average.
MINIMUM_UNITS = 5
#: Largest resampling weight matrix held at once, in cells.
WEIGHT_CELLS = 4_000_000
#: Numbers closer than this (relative) are equal: what is between them is rounding.
TOLERANCE = 1e-12
#: Family-wise error of Holm's method.
LEVEL = 0.05
#: By how much skewness may thicken the tail that it judges by.
MOST_BY_SKEWNESS = 2.0

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """How the uncertainty is computed.

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
    """A number that was measured.

    Attributes:
        value: the number.
        ci: its interval, or None where too little was measured for one.
        p_value: of the two-sided test that belongs to the interval of a difference; 1 where nothing
            is left to judge by, None where too few units were there to try.
        skewness: of a difference's distribution over documents that might have been drawn, about
            that of a single document's over the root of their number; None where documents leave
            nothing to judge by.
    """

    value: float
    ci: Interval | None = None
    p_value: float | None = None
    skewness: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The value with its interval."""
        return {"value": self.value, "ci": self.ci}


def percentiles(values: np.ndarray, confidence: float) -> Interval:
    """The percentile interval of resamples."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


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


def draw_languages(
    languages: int, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw languages, and which resample of its documents each has, [resamples, languages]."""
    shape = resamples, languages
    return generator.integers(0, languages, shape), generator.integers(0, resamples, shape)


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
) -> Estimate:
    """Student's interval and p value of a difference; none of errors that are rounding alone.

    Args:
        value: the difference.
        errors: see `margin`.
        confidence: of the interval.
        scale: the size of what the difference is between.
    """
    if math.hypot(*(error for error, _ in errors)) <= TOLERANCE * scale:
        return Estimate(value, None, 1.0)
    reach = margin(errors, (1 - confidence) / 2)
    return Estimate(value, (value - reach, value + reach), _p_value(value, errors))


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


def holm_rejections(p_values: Sequence[float]) -> np.ndarray:
    """Which hypotheses Holm's step-down method rejects at family-wise error `LEVEL`."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= LEVEL / (len(values) - np.arange(len(values)))
    kept = np.logical_and.accumulate(passed)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = kept
    return rejected


def clear_after_holm(deltas: Sequence[Estimate]) -> tuple[int | None, int | None]:
    """Count languages that are better and that are worse by Holm's method; None where unknown.

    Of a mean with skewness g, the tail of Student's t beyond z on the other side is too thick by
    the factor exp(|g| z^3 / 3) (Wang, "Limit theorems for self-normalized large deviation", 2005),
    and the one on its own side too thin. That side has no count where the factor is more than
    `MOST_BY_SKEWNESS` at the z with which Holm's method begins, g being the mean over languages: of
    one language a few documents do not tell it.
    """
    holm = holm_rejections([1.0 if each.p_value is None else each.p_value for each in deltas])
    better = np.array([each.value < 0 for each in deltas])
    skewness = [each.skewness for each in deltas if each.skewness is not None]
    z = -ndtri(LEVEL / len(deltas) / 2)
    exponent = np.mean(skewness) * z**3 / 3 if skewness else 0.0
    most = np.log(MOST_BY_SKEWNESS)
    return (
        None if exponent > most else int((holm & better).sum()),
        None if exponent < -most else int((holm & ~better).sum()),
    )
