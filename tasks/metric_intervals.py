"""Compute values of metrics with intervals, by resampling groups of rows.

Statistics of rows add up, so a thousand resamples of a thousand rows cost one matrix product.

    metric = make_metric("accuracy")
    result = score(metric, answers=[["1"], ["0"]], predictions=["1", "1"], groups=["a", "b"])
    result.value  # 50.0
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mswitch.tasks.metrics.metric import Answers, Floats, Metric

MIN_GROUPS = 5
RESAMPLES = 1000
#: Most resampling weights in memory at a time: 128 MB.
_MOST_WEIGHTS = 1 << 24
_INTERVAL = (0.025, 0.975)
_Z = 1.959964


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric's value over some rows.

    Attributes:
        value: value from the metric's `least` to 100.
        low: lower end of the 95 % interval; None if there are too few groups for one, or if all
            resamples of a correlation agree.
        high: upper end.
        rows: number of rows.
        groups: number of groups of rows that belong together, such as a document's windows.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    groups: int


def score(
    metric: Metric, answers: Answers, predictions: Sequence[str], groups: Sequence[str]
) -> Score:
    """Compute a metric's value with a 95 % interval, by resampling groups of rows.

    Resamples are centred on the value, since they lack rare classes, which lowers macro-F1. If all
    resamples agree, for example because every row is right, the interval is Wilson's. A correlation
    then has none, since it is not a share.
    """
    return score_sums(metric, metric.sums(answers, predictions, groups), len(predictions))


def score_sums(metric: Metric, statistics: Floats, rows: int) -> Score:
    """Compute a metric's value and interval from statistics [G, S] of groups of rows.

    `rows` is the total number of rows.
    """
    value = float(metric.value(statistics.sum(axis=0)))
    low, high = None, None
    if len(statistics) >= MIN_GROUPS:
        values = metric.value(_resample(statistics))
        ends = np.quantile(values + value - values.mean(), _INTERVAL)
        low, high = (float(end) for end in np.clip(ends, metric.least, 100))
        if np.ptp(values) <= 1e-11 * -metric.least:  # equal correlations may differ by rounding
            low, high = (None, None) if metric.least else _compute_wilson(value, len(statistics))
    return Score(value, low, high, rows, len(statistics))


def _resample(statistics: Floats) -> Floats:
    """Compute the sum [RESAMPLES, S] of each resample of groups [G, S]."""
    size = max(1, _MOST_WEIGHTS // len(statistics))
    parts = [
        _draw_weights(len(statistics), first, min(size, RESAMPLES - first)) @ statistics
        for first in range(0, RESAMPLES, size)
    ]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def _draw_weights(groups: int, first: int, resamples: int) -> Floats:
    """Draw how often each resample takes each group: [resamples, groups].

    The result is cached for the next metric of the same rows: drawing takes longer than most
    metrics.
    """
    rng = np.random.Generator(np.random.Philox(key=0, counter=first << 192))
    weights = np.empty((resamples, groups))
    for resample in weights:  # this loop takes an eighth of the time of `multinomial`
        taken = rng.integers(groups, size=groups, dtype=np.int32)
        resample[:] = np.bincount(taken, minlength=groups)
    return weights


def _compute_wilson(value: float, groups: int) -> tuple[float, float]:
    share, z2 = value / 100, _Z**2 / groups
    middle = share + z2 / 2
    half = _Z * np.sqrt(share * (1 - share) / groups + z2 / (4 * groups))
    low, high = np.clip([middle - half, middle + half], 0, 1 + z2) / (1 + z2)
    return 100 * float(low), 100 * float(high)
