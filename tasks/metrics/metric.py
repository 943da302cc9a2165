"""What a metric is: statistics of rows, which add up, and the value of their sum."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: What is right of each row: one text or several.
Answers = Sequence[Sequence[str]]
OfGroup = Literal["sum", "min", "first"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric over rows, the higher the better.

    Attributes:
        name: as in a task's `metrics`.
        statistics: gives [rows, S] of the answers and predictions.
        value: gives [...], from `least` to 100, of sums [..., S].
        signature: what a reader needs to get the same value elsewhere, or "".
        of_group: what rows of one group count for: all of them, the least in each statistic, or
            the first of them alone.
        least: the lowest value, -100 of correlations.
        jumps: whether one row can change the value by far, as where a class begins to occur.
    """

    name: str
    statistics: Callable[[Answers, Sequence[str]], Floats]
    value: Callable[[Floats], Floats]
    signature: str = ""
    of_group: OfGroup = "sum"
    least: float = 0.0
    jumps: bool = False

    def sums(self, answers: Answers, predictions: Sequence[str], groups: Sequence[str]) -> Floats:
        """Statistics of each group of rows, in the order of their names: [G, S]."""
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
        """Whether a language with such answers counts in a mean over languages.

        Macro-F1 of a language with one true class says how many wrong ones were given.
        """
        return not self.jumps or len({answer[0] for answer in answers}) > 1

    def __call__(
        self, answers: Answers, predictions: Sequence[str], groups: Sequence[str] = ()
    ) -> float:
        """The value over all rows, each of which is a group unless `groups` are given."""
        names = groups or [str(row) for row in range(len(predictions))]
        return float(self.value(self.sums(answers, predictions, names).sum(axis=0)))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """100 times the quotient, 0 where there is nothing to divide by."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, 100 * numerator / safe, 0.0)


def _mean(sums: Floats) -> Floats:
    return ratio(sums[..., 0], sums[..., 1])


def mean_of(
    name: str,
    row: Callable[[Sequence[str], str], float],
    of_group: OfGroup = "sum",
) -> Metric:
    """The mean over rows, or groups, of a number from 0 to 1."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        return np.array([(row(a, p), 1.0) for a, p in zip(answers, predictions, strict=True)])

    return Metric(name, statistics, _mean, of_group=of_group)


#: Makes a metric of the closed set of targets and the language.
Maker = Callable[[list[str], str], Metric]
