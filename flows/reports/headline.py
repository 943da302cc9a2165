"""What is measured of each language, the headline over all, and one pooled figure.

The pooled figure is for runs too small to have a headline.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.final_difference import delta_over_seeds
from mswitch.flows.reports.intervals import (
    MINIMUM_UNITS,
    Estimate,
    ReportConfig,
    clear_after_holm,
    draw_languages,
    draw_seeds,
    language_generator,
    percentiles,
    resample_seeds,
    widened,
)
from mswitch.flows.reports.numbers import Censoring
from mswitch.flows.reports.speedup import (
    Curves,
    LanguageLosses,
    SpeedUp,
    mean_losses,
    resample_curves,
    speed_up_over_seeds,
)

FOURFOLD = 4.0

Transform = Callable[[np.ndarray], np.ndarray]
#: Scales of intervals over seeds.
RATIOS: tuple[Transform, Transform] = (np.log, np.exp)
SHARES: tuple[Transform, Transform] = (np.asarray, lambda shares: np.clip(shares, 0, 1))


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """What is measured of one language.

    Attributes:
        losses: its evaluations, the mean of all seeds.
        curves: [S] nats per token of baseline and candidate.
        of_seeds: the same of each seed.
        drawn: [R, S] of each seed in each resample of documents.
        delta: difference at the last step.
        speed_up: step speed-up.
        trained: whether both models saw training text of it.
    """

    losses: LanguageLosses
    curves: Curves
    of_seeds: Sequence[Curves]
    drawn: Sequence[Curves]
    delta: Estimate
    speed_up: SpeedUp
    trained: bool

    @property
    def has_interval(self) -> bool:
        """Whether it has the documents that an interval needs."""
        return self.losses.documents >= MINIMUM_UNITS

    @property
    def in_headline(self) -> bool:
        """Whether it has the documents, the training text and a speed-up."""
        return self.has_interval and self.trained and self.speed_up.value is not None


def measure_language(
    seeds: Sequence[LanguageLosses], steps: np.ndarray, trained: bool, config: ReportConfig
) -> LanguageResult:
    """Measure a language from its evaluations with each seed at `steps` [S]."""
    losses = mean_losses(seeds)
    of_seeds = [each.curves() for each in seeds]
    drawn = [resample_curves(each, config.resamples, config.seed) for each in seeds]
    enough = losses.documents >= MINIMUM_UNITS
    generator = language_generator(f"seeds/{losses.lang}", config.seed)
    return LanguageResult(
        losses,
        losses.curves(),
        of_seeds,
        drawn,
        delta_over_seeds(seeds, config.confidence if enough else None),
        speed_up_over_seeds(
            steps, of_seeds, drawn if enough else None, config.confidence, generator
        ),
        trained,
    )


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The macro-average over all trained languages, each counted once.

    Attributes:
        languages: how many languages it averages.
        documents: how many documents they have.
        curves: [S] mean over languages of nats per token, of baseline and candidate.
        delta: difference at the last step (interval of the bootstrap below, no p value).
        speed_up: step speed-up of the averaged curves.
    """

    languages: int
    documents: int
    curves: Curves
    delta: Estimate
    speed_up: SpeedUp


def _bounds(speed_up: SpeedUp) -> tuple[float, float]:
    """The range in which the true speed-up lies."""
    assert speed_up.value is not None
    low = 0.0 if speed_up.censored == "upper" else speed_up.value
    high = float("inf") if speed_up.censored == "lower" else speed_up.value
    return low, high


def _figure(
    values: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: np.ndarray | None,
    over_drawn: np.ndarray | None,
    seeds: int,
    scale: tuple[Transform, Transform],
    confidence: float,
) -> dict[str, Any]:
    """One headline figure: value with bounds counted as bounds, range, interval over languages.

    The interval holds wherever the languages at a bound lie; an end that they leave open is itself
    a bound, and marked. `draws` are which languages [R, L] each resample has, and `over_drawn`
    their values over drawn seeds, if there are several. These are widened on a scale that two
    functions go to and come back from.
    """
    ci = ci_censored = None
    if draws is not None:
        to, back = scale
        of_all = resampled = statistic(values[draws])
        if over_drawn is not None:
            resampled = back(widened(to(of_all), to(statistic(over_drawn)), seeds, confidence))
        ends = np.array(percentiles(resampled, confidence))
        at, least, most = (
            np.quantile(of_draws, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
            for of_draws in (of_all, *(statistic(limit[draws]) for limit in limits))
        )
        open_ends: list[Censoring] = [
            "upper" if least[0] == 0 < at[0] else "lower" if np.isinf(most[0]) else "none",
            "lower" if np.isinf(most[1]) else "upper" if least[1] == 0 < at[1] else "none",
        ]
        far = np.array([least[0], most[1]])
        moved = (far != at) & (far != 0) & np.isfinite(far)
        ends[moved] = back(to(ends[moved]) + to(far[moved]) - to(at[moved]))
        ci, ci_censored = ends.tolist(), open_ends
    low, high = (float(statistic(limit)) for limit in limits)
    return {
        "value": float(statistic(values)),
        "ci": ci,
        "ci_censored": ci_censored,
        "range": [low, high if np.isfinite(high) else None],
    }


def is_bound(figure: Mapping[str, Any]) -> bool:
    """Whether languages at a bound leave a figure open on one side."""
    low, high = figure["range"]
    return not low or high is None


def headline(results: Sequence[LanguageResult], config: ReportConfig) -> dict[str, Any]:
    """Summarise the languages of the headline; figures are None where no language qualifies.

    A censored language counts at its bound. `range` holds what each figure would be if the
    censored languages lay at the far ends (zero, or without limit: null).
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
        "median_step_speedup": None,
        "mean_step_speedup": None,
        "share_at_least_4x": None,
        "improved": None,
    }
    if not chosen:
        return summary
    values = np.array([result.speed_up.value for result in chosen], dtype=float)
    lows, highs = np.array([_bounds(result.speed_up) for result in chosen]).T
    seeds = len(chosen[0].of_seeds)
    draws = over_drawn = None
    if len(chosen) >= MINIMUM_UNITS:
        generator = language_generator("headline", config.seed)
        draws = generator.integers(0, len(chosen), (config.resamples, len(chosen)))
        if seeds > 1:
            logs = np.log(np.array([result.speed_up.of_seeds for result in chosen]).T)
            averages = logs[draw_seeds(seeds, config.resamples, generator)].mean(axis=0)
            over_drawn = np.exp(np.take_along_axis(averages, draws, axis=1))

    median, mean = (functools.partial(f, axis=-1) for f in (np.median, np.mean))
    # Only languages known to be at 4x or more count; the range adds those that may be.
    fours, perhaps = ((limit >= FOURFOLD).astype(float) for limit in (lows, highs))
    drawn_fours = None
    if over_drawn is not None:
        drawn_fours = ((over_drawn >= FOURFOLD) & (lows > 0)[draws]).astype(float)
    for name, array, limits, statistic, of_drawn, scale in (
        ("median_step_speedup", values, (lows, highs), median, over_drawn, RATIOS),
        ("mean_step_speedup", values, (lows, highs), mean, over_drawn, RATIOS),
        ("share_at_least_4x", fours, (fours, perhaps), mean, drawn_fours, SHARES),
    ):
        summary[name] = _figure(
            array, limits, statistic, draws, of_drawn, seeds, scale, config.confidence
        )
    summary["improved"] = _improved(chosen, draws, config.confidence)
    return summary


def _improved(
    chosen: Sequence[LanguageResult], draws: np.ndarray | None, confidence: float
) -> dict[str, Any]:
    """Count languages whose final loss is clearly better, alone and after Holm's correction."""
    deltas = [result.delta for result in chosen]
    better = np.array([each.ci is not None and each.ci[1] < 0 for each in deltas], dtype=float)
    worse = [each.ci is not None and each.ci[0] > 0 for each in deltas]
    better_after_holm, worse_after_holm = clear_after_holm(deltas)
    of_documents = [
        result.delta.skewness * result.losses.documents**0.5
        for result in chosen
        if result.delta.skewness is not None
    ]
    mean = functools.partial(np.mean, axis=-1)
    return {
        # Each language's own interval has the seeds in it.
        **_figure(better, (better, better), mean, draws, None, 1, SHARES, confidence),
        "languages": int(better.sum()),
        "languages_worse": int(sum(worse)),
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
    of_seeds = [_average(pairs) for pairs in zip(*(each.of_seeds for each in trained), strict=True)]
    curves = _average(of_seeds)
    generator = language_generator("pooled", config.seed)
    drawn = None
    delta_ci = None
    if len(trained) >= MINIMUM_UNITS:
        chosen = draw_languages(len(trained), config.resamples, generator)

        def draw(pairs: Sequence[Curves], model: int) -> np.ndarray:
            return np.stack([pair[model] for pair in pairs])[chosen].mean(axis=1)

        tables = list(zip(*(each.drawn for each in trained), strict=True))
        drawn = [(draw(pairs, 0), draw(pairs, 1)) for pairs in tables]
        deltas = np.stack([candidate[:, -1] - baseline[:, -1] for baseline, candidate in drawn])
        delta_ci = percentiles(
            resample_seeds(deltas, generator, config.confidence), config.confidence
        )
    return Pooled(
        languages=len(trained),
        documents=sum(result.losses.documents for result in trained),
        curves=curves,
        delta=Estimate(float(curves[1][-1] - curves[0][-1]), delta_ci),
        speed_up=speed_up_over_seeds(steps, of_seeds, drawn, config.confidence, generator),
    )


def _average(pairs: Sequence[Curves]) -> Curves:
    baselines, candidates = zip(*pairs, strict=True)
    return np.mean(baselines, axis=0), np.mean(candidates, axis=0)
