"""Values of metrics with intervals, by resampling groups of rows.

A thousand resamples of a thousand rows cost a matrix product: statistics of rows add up.

    metric = make_metric("accuracy")
    result = score(metric, answers=[["1"], ["0"]], predictions=["1", "1"], groups=["a", "b"])
    result.value  # 50.0
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mswitch.tasks.metrics.metric import Answers, Floats, Metric

#: Fewer groups than this give no interval.
MIN_GROUPS = 5
RESAMPLES = 1000
#: Weights that exist at a time: 128 MB.
_MOST_WEIGHTS = 1 << 24
#: Two-sided quantiles of the 95 % interval.
_INTERVAL = (0.025, 0.975)
_Z = 1.959964


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric's value over some rows.

    Attributes:
        value: from the metric's `least` to 100.
        low: lower end of the 95 % interval; None where there are too few groups for one, or where
            all resamples of a correlation agree.
        high: upper end.
        rows: number of rows.
        groups: of rows that belong together, such as the windows of one document.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    groups: int


def score(
    metric: Metric, answers: Answers, predictions: Sequence[str], groups: Sequence[str]
) -> Score:
    """Value of a metric with a 95 % interval, by resampling groups of rows.

    Resamples are centred on the value: they lack rare classes, so macro-F1 is lower in them. Where
    all resamples agree, as when every row is right, the interval is Wilson's; a correlation, which
    is no share, has none.
    """
    return score_sums(metric, metric.sums(answers, predictions, groups), len(predictions))


def score_sums(metric: Metric, statistics: Floats, rows: int) -> Score:
    """The same of the statistics [G, S] of groups, which have so many rows."""
    value = float(metric.value(statistics.sum(axis=0)))
    low, high = None, None
    if len(statistics) >= MIN_GROUPS:
        values = metric.value(_resampled(statistics))
        ends = np.quantile(values + value - values.mean(), _INTERVAL)
        low, high = (float(end) for end in np.clip(ends, metric.least, 100))
        if np.ptp(values) <= 1e-11 * -metric.least:  # equal correlations differ by rounding
            low, high = (None, None) if metric.least else _wilson(value, len(statistics))
    return Score(value, low, high, rows, len(statistics))


def _resampled(statistics: Floats) -> Floats:
    """The sum [RESAMPLES, S] of each resample of groups [G, S]."""
    size = max(1, _MOST_WEIGHTS // len(statistics))
    parts = [
        _weights(len(statistics), first, min(size, RESAMPLES - first)) @ statistics
        for first in range(0, RESAMPLES, size)
    ]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def _weights(groups: int, first: int, resamples: int) -> Floats:
    """How often each of some resamples takes each group: [resamples, groups].

    Kept for the next metric of the same rows: drawing takes longer than most metrics do.
    """
    rng = np.random.Generator(np.random.Philox(key=0, counter=first << 192))
    weights = np.empty((resamples, groups))
    for resample in weights:  # An eighth of the time of `multinomial`.
        taken = rng.integers(groups, size=groups, dtype=np.int32)
        resample[:] = np.bincount(taken, minlength=groups)
    return weights


def _wilson(value: float, groups: int) -> tuple[float, float]:
    share, z2 = value / 100, _Z**2 / groups
    middle = share + z2 / 2
    half = _Z * np.sqrt(share * (1 - share) / groups + z2 / (4 * groups))
    low, high = np.clip([middle - half, middle + half], 0, 1 + z2) / (1 + z2)
    return 100 * float(low), 100 * float(high)
