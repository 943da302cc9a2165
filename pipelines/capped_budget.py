"""Divides a budget of text among languages, with a cap for each language.

mT5 (Xue et al. 2020, section 3.2) has rates proportional to n ** 0.3, where 0.3 is alpha and n
counts pages. UniMax (Chung et al. 2023, "UniMax: Fairer and more effective language sampling for
large-scale multilingual pretraining") spreads a budget evenly, but repeats the text of a language
at most N times.
"""

import itertools
from collections.abc import Mapping

ALPHA = 0.3


def normalise(weights: Mapping[str, float]) -> dict[str, float]:
    """Scale positive weights so that their sum is 1; sort them by name."""
    total = sum(weights[name] for name in sorted(weights))
    return {name: weights[name] / total for name in sorted(weights)}


def capped_budget(
    weights: Mapping[str, float], records: Mapping[str, int], budget: float, max_epochs: float
) -> dict[str, float]:
    """Spread `budget` by `weights`; no language gets more than `max_epochs` times its records.

    With equal weights this is UniMax, algorithm 1: in ascending order of size, each language takes
    an equal share of the remaining budget, or its cap if that is less. With unequal weights, the
    order is by size over weight, and shares follow the weights. If the budget exceeds the sum of
    all caps, some budget remains.

    `weights` are positive. `records` and `budget` have the same unit. Shares are sorted by code.
    """
    order = sorted(weights, key=lambda lang: (records[lang] / weights[lang], lang))
    weights_left = list(itertools.accumulate(weights[lang] for lang in reversed(order)))
    given: dict[str, float] = {}
    left = float(budget)
    for lang, weight_left in zip(order, reversed(weights_left), strict=True):
        given[lang] = min(left * weights[lang] / weight_left, records[lang] * max_epochs)
        left -= given[lang]
    return dict(sorted(given.items()))
