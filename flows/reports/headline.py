"""The headline over languages, and one pooled figure for runs too small to have a headline."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from mswitch.flows.reports.seeds import (
    Curves,
    draw_seeds,
    resample_seeds,
    speed_up_over_seeds,
    widened,
)
from mswitch.flows.reports.speedup import (
    Censoring,
    Delta,
    LanguageLosses,
    SpeedUp,
    language_generator,
)

#: Fewer units than this give no interval: documents of a language, languages of the headline.
MINIMUM_UNITS = 5
FOURFOLD = 4.0
LEVEL = 0.05
#: By how much skewness may thicken the tail that Holm's method judges by.
MOST_BY_SKEWNESS = 2.0

Transform = Callable[[np.ndarray], np.ndarray]
#: Scales of intervals over seeds.
RATIOS: tuple[Transform, Transform] = (np.log, np.exp)
SHARES: tuple[Transform, Transform] = (np.asarray, lambda shares: np.clip(shares, 0, 1))


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """What is reported of one language.

    Attributes:
        losses: its evaluations, the mean of all seeds.
        baseline_curve: [S] nats per token of the baseline.
        candidate_curve: [S] nats per token of the candidate.
        delta: difference at the last step.
        speed_up: step speed-up.
        trained: whether both models saw training text of it.
        in_headline: whether it has the documents, the training text and a speed-up.
        seeds: curves [S] and speed-up of each seed, where there are several.
    """

    losses: LanguageLosses
    baseline_curve: np.ndarray
    candidate_curve: np.ndarray
    delta: Delta
    speed_up: SpeedUp
    trained: bool
    in_headline: bool
    seeds: Sequence[tuple[Curves, SpeedUp]] = ()

    @property
    def curves_by_seed(self) -> list[Curves]:
        """Curves [S] of both models, for each seed."""
        one = [(self.baseline_curve, self.candidate_curve)]
        return [curves for curves, _ in self.seeds] or one


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The macro-average over all trained languages, each counted once.

    Attributes:
        languages: how many languages it averages.
        documents: how many documents they have.
        baseline_curve: [S] mean over languages of nats per token.
        candidate_curve: the same of the candidate.
        delta: difference at the last step (interval of the bootstrap below, no p value).
        speed_up: step speed-up of the averaged curves.
    """

    languages: int
    documents: int
    baseline_curve: np.ndarray
    candidate_curve: np.ndarray
    delta: Delta
    speed_up: SpeedUp


def holm_rejections(p_values: Sequence[float]) -> np.ndarray:
    """Which hypotheses Holm's step-down method rejects at family-wise error `LEVEL`."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= LEVEL / (len(values) - np.arange(len(values)))
    kept = np.logical_and.accumulate(passed)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = kept
    return rejected


def clear_after_holm(deltas: Sequence[Delta]) -> tuple[int | None, int | None]:
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

    `draws` are which languages [R, L] each resample has, and `over_drawn` their values over drawn
    seeds, if there are several. These are widened on a scale that two functions go to and come
    back from.
    """
    ci = ci_censored = None
    if draws is not None:
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        of_all = resampled = statistic(values[draws])
        if over_drawn is not None:
            to, back = scale
            resampled = back(widened(to(of_all), to(statistic(over_drawn)), seeds, confidence))
        ci = [float(end) for end in np.quantile(resampled, tails)]
        # An end is a bound where it would move if languages at a bound lay at the far ends.
        least, at, most = (
            np.sort(part)[[round(tail * (len(draws) - 1)) for tail in tails]]
            for part in (statistic(limits[0][draws]), of_all, statistic(limits[1][draws]))
        )
        ci_censored = [
            "upper" if least[0] < at[0] else "lower" if most[0] > at[0] else "none",
            "lower" if most[1] > at[1] else "upper" if least[1] < at[1] else "none",
        ]
    low, high = (float(statistic(limit)) for limit in limits)
    return {
        "value": float(statistic(values)),
        "ci": ci,
        "ci_censored": ci_censored,
        "range": [low, high if np.isfinite(high) else None],
    }


def headline(
    results: Sequence[LanguageResult], *, resamples: int, seed: int, confidence: float
) -> dict[str, Any]:
    """Summarise the languages of the headline; figures are None where no language qualifies.

    A censored language counts at its bound. `range` holds what each figure would be if the
    censored languages lay at the far ends (zero, or without limit: null).
    """
    chosen = [result for result in results if result.in_headline]
    marks: list[Censoring] = [result.speed_up.censored for result in chosen]
    summary: dict[str, Any] = {
        "languages": len(results),
        "languages_in_headline": len(chosen),
        "languages_under_minimum_documents": sum(
            result.losses.documents < MINIMUM_UNITS for result in results
        ),
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
    seeds = len(chosen[0].curves_by_seed)
    draws = over_drawn = None
    if len(chosen) >= MINIMUM_UNITS:
        generator = language_generator("headline", seed)
        draws = generator.integers(0, len(chosen), (resamples, len(chosen)))
        if seeds > 1:
            of_seeds = [[found.value for _, found in result.seeds] for result in chosen]
            logs = np.log(np.array(of_seeds, dtype=float).T)
            averages = logs[draw_seeds(seeds, resamples, generator)].mean(axis=0)
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
        summary[name] = _figure(array, limits, statistic, draws, of_drawn, seeds, scale, confidence)
    summary["improved"] = _improved(chosen, draws, confidence)
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
    results: Sequence[LanguageResult],
    resampled: Mapping[str, Sequence[Curves]],
    steps: np.ndarray,
    *,
    seed: int,
    confidence: float,
) -> Pooled | None:
    """Average the loss over all trained languages and measure the speed-up of the average.

    Resamples draw languages with replacement (clusters), then documents within each drawn one;
    a language drawn twice gets two independent draws of its documents. Languages with a single
    document vary as clusters only. Several seeds are drawn too, the same for all languages.

    Args:
        results: all languages.
        resampled: curves [R, S] of both models per language and seed, from `resample_curves`.
        steps: [S] evaluated steps.
        seed: seed of the draws.
        confidence: of the interval.

    Returns:
        None when no language has training text.
    """
    trained = [result for result in results if result.trained]
    if not trained:
        return None
    by_seed = list(zip(*(result.curves_by_seed for result in trained), strict=True))
    of_seeds = [(_average(pairs, 0), _average(pairs, 1)) for pairs in by_seed]
    curves = _average(of_seeds, 0), _average(of_seeds, 1)
    generator = language_generator("pooled", seed)
    drawn = None
    delta_ci = None
    if len(trained) >= MINIMUM_UNITS:
        tables = list(zip(*(resampled[result.losses.lang] for result in trained), strict=True))
        resamples = len(tables[0][0][0])
        langs = generator.integers(0, len(trained), (resamples, len(trained)))
        copies = generator.integers(0, resamples, (resamples, len(trained)))

        def draw(pairs: Sequence[Curves], model: int) -> np.ndarray:
            return np.stack([pair[model] for pair in pairs])[langs, copies].mean(axis=1)

        drawn = [(draw(pairs, 0), draw(pairs, 1)) for pairs in tables]
        deltas = np.stack([candidate[:, -1] - baseline[:, -1] for baseline, candidate in drawn])
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(resample_seeds(deltas, generator, confidence), tails)
        delta_ci = (float(low), float(high))
    return Pooled(
        languages=len(trained),
        documents=sum(result.losses.documents for result in trained),
        baseline_curve=curves[0],
        candidate_curve=curves[1],
        delta=Delta(float(curves[1][-1] - curves[0][-1]), delta_ci, None),
        speed_up=speed_up_over_seeds(steps, of_seeds, drawn, confidence, generator),
    )


def _average(pairs: Sequence[Curves], model: int) -> np.ndarray:
    return np.mean([pair[model] for pair in pairs], axis=0)
