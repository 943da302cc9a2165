"""Budgets with caps, which vocabularies' samples and mixtures share (`tasks.batches.mixtures`).

mT5 (Xue et al. 2020, section 3.2) has rates proportional to n ** 0.3, calls 0.3 its alpha and
counts pages. UniMax (Chung et al. 2023, "UniMax: Fairer and more effective language sampling for
large-scale multilingual pretraining") spreads a budget evenly, but never repeats the text of a
language more than N times.
"""

import itertools
from collections.abc import Mapping

ALPHA = 0.3


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Positive weights as shares of 1, sorted by name."""
    total = sum(weights[name] for name in sorted(weights))
    return {name: weights[name] / total for name in sorted(weights)}


def capped_budget(
    weights: Mapping[str, float], records: Mapping[str, int], budget: float, max_epochs: float
) -> dict[str, float]:
    """Spread `budget` by `weights`, giving no language more than `max_epochs` times its records.

    With equal weights this is UniMax, algorithm 1: languages in ascending order of size take an
    equal share of what is left, or their cap if that is less. With unequal ones the order is by
    size over weight, and shares follow the weights. Where the budget exceeds all caps together,
    every language gets its cap and some budget is left.

    Args:
        weights: positive, by language.
        records: size of each language, in the unit of `budget`.
        budget: what is to be spread.
        max_epochs: how often a record may come.

    Returns:
        What each language gets, sorted by code.
    """
    order = sorted(weights, key=lambda lang: (records[lang] / weights[lang], lang))
    weights_left = list(itertools.accumulate(weights[lang] for lang in reversed(order)))
    given: dict[str, float] = {}
    left = float(budget)
    for lang, weight_left in zip(order, reversed(weights_left), strict=True):
        given[lang] = min(left * weights[lang] / weight_left, records[lang] * max_epochs)
        left -= given[lang]
    return dict(sorted(given.items()))
