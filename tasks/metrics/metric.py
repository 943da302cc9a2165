"""Define metrics: a metric computes statistics of rows, and a value from the statistics' sum."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Right answers of each row, at least one.
Answers = Sequence[Sequence[str]]
OfGroup = Literal["sum", "min", "first"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric over rows; a higher value is better.

    Attributes:
        name: its name in a task's `metrics`.
        statistics: returns [rows, S] for the answers and predictions.
        value: returns [...], from `least` to 100, for sums [..., S].
        signature: settings for getting the same value elsewhere, or "".
        of_group: statistics of a group: the sum of its rows, the least in each statistic, or only
            the first row's.
        least: the lowest value; -100 for correlations.
        jumps: whether one row can change the value a lot, for example by the first use of a class.
    """

    name: str
    statistics: Callable[[Answers, Sequence[str]], Floats]
    value: Callable[[Floats], Floats]
    signature: str = ""
    of_group: OfGroup = "sum"
    least: float = 0.0
    jumps: bool = False

    def sums(self, answers: Answers, predictions: Sequence[str], groups: Sequence[str]) -> Floats:
        """Compute statistics of each group of rows, in the order of the groups' names: [G, S]."""
        rows = self.statistics(answers, predictions)
        _, first, numbers = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
        sums = rows[first]
        if self.of_group == "sum":
            sums = np.zeros_like(sums)
            np.add.at(sums, numbers, rows)
        elif self.of_group == "min":
            np.minimum.at(sums, numbers, rows)
        return sums

    def is_averaged(self, answers: Answers) -> bool:
        """Return whether a language with these answers counts in a mean over languages.

        If a language has one true class, macro-F1 only depends on the number of wrong classes.
        """
        return not self.jumps or len({answer[0] for answer in answers}) > 1

    def __call__(
        self, answers: Answers, predictions: Sequence[str], groups: Sequence[str] = ()
    ) -> float:
        """Compute the value over all rows; each row is a group unless `groups` are given."""
        names = groups or [str(row) for row in range(len(predictions))]
        return float(self.value(self.sums(answers, predictions, names).sum(axis=0)))


def compute_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Compute 100 times the quotient, or 0 if the denominator is 0."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, 100 * numerator / safe, 0.0)


def _mean(sums: Floats) -> Floats:
    return compute_ratio(sums[..., 0], sums[..., 1])


def make_mean(
    name: str,
    row: Callable[[Sequence[str], str], float],
    of_group: OfGroup = "sum",
) -> Metric:
    """Make a metric that is the mean, over rows or groups, of a number from 0 to 1."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        return np.array([(row(a, p), 1.0) for a, p in zip(answers, predictions, strict=True)])

    return Metric(name, statistics, _mean, of_group=of_group)


Maker = Callable[[list[str], str], Metric]
