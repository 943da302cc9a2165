"""Compute a report's statistics by language, over languages, and for the mean loss (pooled).

Pooled statistics are for runs that are too small for statistics over languages.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.intervals import (
    LEVEL,
    Estimate,
    ReportConfig,
    clear_after_holm,
    counts_by_chance,
    draw_languages,
    draw_seeds,
    language_generator,
    percentiles,
    spread_documents,
    widening,
)
from mswitch.flows.reports.numbers import MINIMUM_UNITS, Censoring
from mswitch.flows.reports.speedup import (
    Curves,
    LanguageLosses,
    Ranges,
    SpeedUp,
    delta_over_seeds,
    draw_ranges,
    mean_losses,
    resample_curves,
    speed_up_over_seeds,
)

FOURFOLD = 4.0

Transform = Callable[[np.ndarray], np.ndarray]
#: Functions that convert to the scale on which variation between seeds is measured, and back.
RATIOS: tuple[Transform, Transform] = (np.log, np.exp)
SHARES: tuple[Transform, Transform] = (np.asarray, lambda shares: np.clip(shares, 0, 1))


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """Measurements of one language.

    Attributes:
        losses: its evaluations, the mean of all seeds.
        curves: [2, S] nats per token of baseline and candidate.
        of_seeds: [K, 2, S] curves of each seed.
        drawn: [2, R, S] curves of the mean over seeds, in each resample of documents.
        delta: difference at the last step.
        speed_up: step speed-up.
        other_seeds: [R] speed-ups with drawn seeds; None for one seed.
        worsened: whether the baseline was clearly better at half of its steps than at the end.
        trained: whether both models saw training text of the language.
    """

    losses: LanguageLosses
    curves: Curves
    of_seeds: np.ndarray
    drawn: Curves
    delta: Estimate
    speed_up: SpeedUp
    other_seeds: Ranges | None
    worsened: bool
    trained: bool

    @property
    def has_interval(self) -> bool:
        """Whether the language has enough documents for an interval."""
        return self.losses.clusters >= MINIMUM_UNITS

    @property
    def in_headline(self) -> bool:
        """Whether headline figures include the language.

        It needs enough documents, training text and a defined speed-up.
        """
        return self.has_interval and self.trained and self.speed_up.value is not None


def measure_language(
    seeds: Sequence[LanguageLosses], steps: np.ndarray, trained: bool, config: ReportConfig
) -> LanguageResult:
    """Compute one language's results from the losses of each random seed at `steps` [S]."""
    losses = mean_losses(seeds)
    curves, of_seeds = losses.curves(), np.array([each.curves() for each in seeds])
    drawn = resample_curves(losses, config.resamples, config.seed)
    enough = losses.clusters >= MINIMUM_UNITS
    spread = None
    if enough:
        units = losses.effective_clusters
        spread = spread_documents(drawn, curves[:, None], units, config.confidence)
    return LanguageResult(
        losses,
        curves,
        of_seeds,
        drawn,
        delta_over_seeds(seeds, config.confidence if enough else None),
        speed_up_over_seeds(steps, of_seeds, spread, config),
        draw_ranges(steps, of_seeds, config),
        enough and _has_worsened(seeds, steps, config.confidence),
        trained,
    )


def _has_worsened(seeds: Sequence[LanguageLosses], steps: np.ndarray, confidence: float) -> bool:
    """Test whether the baseline's loss is higher at the end than at half of the steps.

    The last evaluation up to half of the steps counts. A test is needed, because a monotone fit may
    end on a plateau just by noise.
    """
    half = max(int(np.searchsorted(steps, steps[-1] / 2, side="right")) - 1, 0)
    later = [
        dataclasses.replace(
            each, baseline=each.baseline[:, [half]], candidate=each.baseline[:, [-1]]
        )
        for each in seeds
    ]
    ci = delta_over_seeds(later, confidence).ci
    return ci is not None and ci[0] > 0


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The macro-average over all trained languages, each counted once.

    Attributes:
        languages: number of languages.
        documents: number of their documents.
        curves: [2, S] mean over languages of nats per token, of baseline and candidate.
        delta: difference at the last step (interval of the bootstrap below, no p value).
        speed_up: step speed-up of the averaged curves.
    """

    languages: int
    documents: int
    curves: Curves
    delta: Estimate
    speed_up: SpeedUp


def _range(speed_up: SpeedUp) -> tuple[float, float, float]:
    """Return a measured speed-up, and the smallest and largest possible true value."""
    assert speed_up.value is not None
    low = 0.0 if speed_up.censored == "upper" else speed_up.value
    high = float("inf") if speed_up.censored == "lower" else speed_up.value
    return speed_up.value, low, high


def _figure(
    ranges: np.ndarray,
    draws: np.ndarray | None,
    other_seeds: np.ndarray | None,
    of_seeds: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    scale: tuple[Transform, Transform],
    confidence: float,
) -> dict[str, Any]:
    """Compute a statistic over languages, such as their median speed-up, with range and interval.

    The interval holds for all true values of languages at a bound. If these leave an end open, the
    end is itself a bound, and marked. Changes by drawn seeds are added to those by drawn languages,
    on a scale.

    Args:
        ranges: [3, L] `_range` of each language.
        draws: [R, L] the languages of each resample; None gives no interval.
        other_seeds: [3, R, L] ranges with drawn seeds; None for one seed.
        of_seeds: the languages' values with each seed, if there are several.
        statistic: statistic over languages, the last axis.
        scale: functions to the scale and back.
        confidence: confidence of the interval.
    """
    ci = ci_censored = None
    if draws is not None:
        resampled = statistic(ranges[:, draws])
        if other_seeds is not None:
            to, back = scale
            with np.errstate(divide="ignore"):
                changes = to(statistic(other_seeds))
                changes = changes - np.median(changes[0])
                wide = widening(len(of_seeds) - 1, confidence)
                resampled = back(to(resampled) + wide * changes)
        tail = (1 - confidence) / 2
        at, least, most = (
            np.quantile(each, [tail, 1 - tail], method="nearest") for each in resampled
        )
        ci = [
            float(least[0] if least[0] > 0 else at[0]),
            float(most[1] if np.isfinite(most[1]) else at[1]),
        ]
        ci_censored: list[Censoring] | None = [
            "upper" if least[0] == 0 < at[0] else "lower" if np.isinf(most[0]) else "none",
            "lower" if np.isinf(most[1]) else "upper" if least[1] == 0 < at[1] else "none",
        ]
    value, low, high = statistic(ranges).tolist()
    return {
        "value": value,
        "ci": ci,
        "ci_censored": ci_censored,
        "range": [low, high if np.isfinite(high) else None],
        "seeds": [float(statistic(values)) if len(values) else None for values in of_seeds],
    }


def headline(results: Sequence[LanguageResult], config: ReportConfig) -> dict[str, Any]:
    """Summarise the speed-ups of languages with enough documents and training text.

    Figures are None if no language has enough. A censored language counts at its bound. `range` has
    each figure if the censored languages were at the far ends (zero, or without limit: null).
    """
    chosen = [result for result in results if result.in_headline]
    marks: list[Censoring] = [result.speed_up.censored for result in chosen]
    summary: dict[str, Any] = {
        "languages": len(results),
        "languages_in_headline": len(chosen),
        "languages_under_minimum_documents": sum(not each.has_interval for each in results),
        "languages_without_training_text": sum(not result.trained for result in results),
        "languages_without_defined_speedup": sum(r.speed_up.value is None for r in results),
        "censored": {mark: marks.count(mark) for mark in ("none", "lower", "upper")},
        **dict.fromkeys(
            ("median_step_speedup", "mean_step_speedup", "share_at_least_4x", "improved")
        ),
    }
    if not chosen:
        return summary
    ranges = np.array([_range(result.speed_up) for result in chosen]).T
    draws = other_seeds = None
    if len(chosen) >= MINIMUM_UNITS:
        generator = language_generator("headline", config.seed)
        draws = generator.integers(0, len(chosen), (config.resamples, len(chosen)))
    of_languages = [each.other_seeds for each in chosen if each.other_seeds is not None]
    if of_languages:
        other_seeds = np.stack(of_languages, axis=2)
    with_seeds = zip(*(result.speed_up.of_seeds for result in chosen), strict=True)
    of_seeds = [np.array([value for value in values if value]) for values in with_seeds]

    median, mean = (functools.partial(f, axis=-1) for f in (np.median, np.mean))
    for name, statistic in (("median_step_speedup", median), ("mean_step_speedup", mean)):
        summary[name] = _figure(
            ranges, draws, other_seeds, of_seeds, statistic, RATIOS, config.confidence
        )

    # The share counts languages whose smallest possible speed-up is at least 4. The upper end of
    # its range counts languages whose largest possible speed-up is at least 4.
    def fours(of: np.ndarray) -> np.ndarray:
        return (of[[1, 1, 2]] >= FOURFOLD).astype(float)

    summary["share_at_least_4x"] = _figure(
        fours(ranges),
        draws,
        None if other_seeds is None else fours(other_seeds),
        [(values >= FOURFOLD).astype(float) for values in of_seeds],
        mean,
        SHARES,
        config.confidence,
    )
    summary["improved"] = _improved(chosen, draws, config)
    return summary


def _improved(
    chosen: Sequence[LanguageResult], draws: np.ndarray | None, config: ReportConfig
) -> dict[str, Any]:
    deltas = [result.delta for result in chosen]
    better = np.array([each.ci is not None and each.ci[1] < 0 for each in deltas], dtype=float)
    worse = [each.ci is not None and each.ci[0] > 0 for each in deltas]
    ends = np.array([result.of_seeds[:, 1, -1] - result.of_seeds[:, 0, -1] for result in chosen])
    most_by_chance = p_value = None
    if len(ends[0]) != 2:  # two seeds do not show how a seed's effect varies over languages
        by_chance = counts_by_chance(deltas, ends.T, config)
        most_by_chance = int(np.quantile(by_chance, 1 - LEVEL, method="higher"))
        p_value = float(np.mean(by_chance >= max(better.sum(), sum(worse))))
    better_after_holm, worse_after_holm = clear_after_holm(deltas, len(ends[0]))
    of_documents = [
        result.delta.skewness * result.losses.clusters**0.5
        for result in chosen
        if result.delta.skewness is not None
    ]
    mean = functools.partial(np.mean, axis=-1)
    return {
        # Pass no seeds: each language's own interval already includes the variation between seeds.
        **_figure(np.stack([better] * 3), draws, None, (), mean, SHARES, config.confidence),
        "languages": int(better.sum()),
        "languages_worse": int(sum(worse)),
        "most_by_chance": most_by_chance,
        "count_p_value": p_value,
        "skewness": float(np.mean(of_documents)) if of_documents else None,
        "languages_after_holm": better_after_holm,
        "languages_worse_after_holm": worse_after_holm,
        "method": "Holm, family-wise error 5 %, jackknife t test with documents as clusters",
    }


def pool(
    results: Sequence[LanguageResult], steps: np.ndarray, config: ReportConfig
) -> Pooled | None:
    """Average the loss over all trained languages and measure the speed-up of the average.

    Resamples draw languages with replacement (clusters), then documents within each drawn one;
    a language drawn twice gets two independent draws of its documents. Languages with a single
    document vary as clusters only. Several seeds are drawn too, the same for all languages.

    Returns:
        None when no language has training text.
    """
    trained = [result for result in results if result.trained]
    if not trained:
        return None
    of_seeds = np.mean([each.of_seeds for each in trained], axis=0)
    curves = of_seeds.mean(axis=0)
    drawn = delta_ci = None
    if len(trained) >= MINIMUM_UNITS:
        generator = language_generator("pooled", config.seed)
        chosen = draw_languages(len(trained), config.resamples, generator)
        drawn = np.stack([each.drawn for each in trained], axis=1)[:, *chosen].mean(axis=2)
        drawn = spread_documents(drawn, curves[:, None], len(trained), config.confidence)
        ends = of_seeds[:, 1, -1] - of_seeds[:, 0, -1]
        wide = widening(len(ends) - 1, config.confidence)
        deltas = drawn[1, :, -1] - drawn[0, :, -1] + wide * draw_seeds(ends, config)
        delta_ci = percentiles(deltas, config.confidence)
    return Pooled(
        languages=len(trained),
        documents=sum(result.losses.documents for result in trained),
        curves=curves,
        delta=Estimate(float(curves[1][-1] - curves[0][-1]), delta_ci),
        speed_up=speed_up_over_seeds(steps, of_seeds, drawn, config),
    )
