"""The speed-up by horizon: what the report would say had training ended at an earlier step.

With the schedule 1/sqrt(step), and with a constant one, a run of T steps passes through the same
states as a longer one, so each evaluation is the end of a shorter experiment; not so with a mixture
of `max_epochs`, whose rates depend on the number of steps. A speed-up that grows with the horizon
tells more than its value at the end: whether it is on its way to the paper's, which was measured
after 10^12 tokens. Beside it stand what it is made of: how far the candidate's loss is below the
baseline's at the horizon, and how much the baseline gained by its last doubling of steps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.headline import MINIMUM_UNITS, LanguageResult, Pooled, headline, pool
from mswitch.flows.reports.seeds import Curves, speed_up_over_seeds
from mswitch.flows.reports.speedup import isotonic_fit, language_generator, measure_speed_up

#: Evaluations before a horizon: with fewer, the baseline's own curve has no shape yet.
LEAST_EVALUATIONS = 4


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The measurement as if training had ended at one of the evaluated steps.

    Attributes:
        step: that step.
        median: the headline's figure `median_step_speedup`, or None where no language has one.
        languages: how many it is over.
        pooled: what was measured of the average of all languages.
        last_doubling: nats per token that the average baseline gained since half of the steps; None
            where it was not evaluated as early as that.
    """

    step: int
    median: Mapping[str, Any] | None
    languages: int
    pooled: Pooled
    last_doubling: float | None


def measure_horizons(
    results: Sequence[LanguageResult],
    resampled: Mapping[str, Sequence[Curves]],
    steps: np.ndarray,
    *,
    seed: int,
    confidence: float,
) -> list[Horizon]:
    """Measure at every evaluated step but the first few; the last one is the report's own.

    Args:
        results: all languages, at the last step.
        resampled: curves [R, S] of both models per language and seed, from `resample_curves`.
        steps: [S] evaluated steps.
        seed: seed of the draws.
        confidence: of every interval.
    """
    horizons = []
    resamples = max((len(seeds[0][0]) for seeds in resampled.values()), default=0)
    for count in range(LEAST_EVALUATIONS, len(steps) + 1):
        until = [_until(result, steps, count, confidence) for result in results]
        parts = {lang: [_cut(pair, count) for pair in seeds] for lang, seeds in resampled.items()}
        pooled = pool(until, parts, steps[:count], seed=seed, confidence=confidence)
        if pooled is None:
            return []
        figures = headline(until, resamples=resamples, seed=seed, confidence=confidence)
        horizons.append(
            Horizon(
                step=int(steps[count - 1]),
                median=figures["median_step_speedup"],
                languages=figures["languages_in_headline"],
                pooled=pooled,
                last_doubling=last_doubling(pooled.baseline_curve, steps[:count]),
            )
        )
    return horizons


def last_doubling(curve: np.ndarray, steps: np.ndarray) -> float | None:
    """Nats per token that a curve [S] fell by from half of its last step to that step.

    None where it begins later than that half.
    """
    if steps[0] > steps[-1] / 2:
        return None
    fit = isotonic_fit(curve)
    return float(np.interp(np.log(steps[-1] / 2), np.log(steps), fit) - fit[-1])


def horizons_json(horizons: Sequence[Horizon]) -> list[dict[str, Any]]:
    """What report.json holds of them."""
    return [
        {
            "step": horizon.step,
            "median_step_speedup": horizon.median,
            "languages": horizon.languages,
            "pooled_step_speedup": horizon.pooled.speed_up.value,
            "pooled_step_speedup_ci": horizon.pooled.speed_up.ci,
            "pooled_step_speedup_ci_censored": horizon.pooled.speed_up.ci_censored,
            "pooled_censored": horizon.pooled.speed_up.censored,
            "delta": horizon.pooled.delta.value,
            "delta_ci": horizon.pooled.delta.ci,
            "baseline_last_doubling": horizon.last_doubling,
        }
        for horizon in horizons
    ]


def _cut(pair: Curves, count: int) -> Curves:
    return pair[0][..., :count], pair[1][..., :count]


def _until(
    result: LanguageResult, steps: np.ndarray, count: int, confidence: float
) -> LanguageResult:
    """A language's result at the step of evaluation `count`, without its intervals."""
    of_seeds = [_cut(pair, count) for pair in result.curves_by_seed]
    baseline, candidate = _cut((result.baseline_curve, result.candidate_curve), count)
    generator = language_generator(f"seeds/{result.losses.lang}", 0)  # draws for intervals alone
    speed_up = speed_up_over_seeds(steps[:count], of_seeds, None, confidence, generator)
    enough = result.losses.documents >= MINIMUM_UNITS
    return dataclasses.replace(
        result,
        baseline_curve=baseline,
        candidate_curve=candidate,
        speed_up=speed_up,
        in_headline=enough and result.trained and speed_up.value is not None,
        seeds=[
            (pair, measure_speed_up(steps[:count], pair, None, confidence))
            for pair in (of_seeds if result.seeds else ())
        ],
    )
