"""Losses of documents that follow two given curves, and what is measured of them."""

import numpy as np

from mswitch.flows.reports.headline import LanguageResult, measure_language
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.speedup import LanguageLosses

CONFIG = ReportConfig(resamples=400)

STEPS = np.array([1.0, 10, 100, 1000, 10_000])
SLOW, FAST = [9, 8, 6, 4, 3], [8, 6, 4, 2, 1]


def losses_from(baseline, candidate, *, lang="de", documents=8, noise=0.0, seed=0, tokens=None):
    """Documents whose loss per token follows two curves, with noise and, by default, tokens."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(20, 90, documents)
    tokens = drawn if tokens is None else np.full(documents, tokens)
    per_token = [
        np.asarray(curve) + noise * generator.standard_normal((documents, len(curve)))
        for curve in (baseline, candidate)
    ]
    return LanguageLosses(
        lang, tokens, 4 * tokens, *(np.maximum(p, 0.01) * tokens[:, None] for p in per_token)
    )


def result_of(
    lang, *curves, documents=8, trained=True, noise=0.05, steps=STEPS, first=0
) -> LanguageResult:
    """What is measured of a language whose seeds follow these pairs of curves."""
    options = {"lang": lang, "documents": documents, "noise": noise}
    if first:  # seeds with noise of their own on the same documents
        options |= {"tokens": 50}
    seeds = [
        losses_from(*pair, **options, seed=first * 10 + index if first else 0)
        for index, pair in enumerate(curves)
    ]
    return measure_language(seeds, steps, trained, CONFIG)
