"""Measure how the speed-up depends on the number of training steps, the horizon.

With the schedule 1/sqrt(step) or a constant one, a run of T steps passes through the same states as
a longer one, so each evaluation is the end of a shorter experiment. This does not hold for a
mixture with `max_epochs`, whose rates depend on the number of steps. The growth of the speed-up
with the horizon shows whether it approaches the paper's, measured after 10^12 tokens. Each horizon
also has the speed-up's two parts: the difference in loss at the horizon, and the baseline's gain
from its last doubling of steps.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.headline import LanguageResult, headline, pool
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.speedup import draw_ranges, isotonic_fit, speed_up_over_seeds

#: Minimum number of evaluations before a horizon is reported. Fewer evaluations do not show the
#: shape of the baseline's loss curve.
LEAST_EVALUATIONS = 4


def measure_horizons(
    results: Sequence[LanguageResult], steps: np.ndarray, config: ReportConfig
) -> list[dict[str, Any]]:
    """Compute speed-ups as if training had ended at each evaluated step [S], except the first few.

    Returns:
        The data of each horizon in report.json. `baseline_last_doubling` is the gain of the average
        baseline since half of the steps, nats per token; None if it was not evaluated so early.
    """
    horizons = []
    for count in range(LEAST_EVALUATIONS, len(steps) + 1):
        until = [_until(result, steps, count, config) for result in results]
        pooled = pool(until, steps[:count], config)
        if pooled is None:
            return []
        figures = headline(until, config)
        horizons.append(
            {
                "step": int(steps[count - 1]),
                "median_step_speedup": figures["median_step_speedup"],
                "languages": figures["languages_in_headline"],
                **{f"pooled_{key}": value for key, value in pooled.speed_up.as_json().items()},
                "delta": pooled.delta.value,
                "delta_ci": pooled.delta.ci,
                "baseline_last_doubling": last_doubling(pooled.curves[0], steps[:count]),
            }
        )
    return horizons


def extrapolate_doubling(horizons: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Extrapolate the median speed-up to 2 T steps by its growth factor from T / 2 to T steps.

    Returns:
        `step`, `since` and `median_step_speedup`; None if horizons begin later than at half of the
        steps, or if the median is missing or a bound somewhere in the doubling.
    """
    steps = [each["step"] for each in horizons]
    if not steps or steps[0] > steps[-1] / 2:
        return None
    first = bisect.bisect_right(steps, steps[-1] / 2) - 1
    figures = [each["median_step_speedup"] for each in horizons[first:]]
    if not all(figure and all(figure["range"]) for figure in figures):
        return None
    logs = np.log([figure["value"] for figure in figures])
    half = float(np.interp(np.log(steps[-1] / 2), np.log(steps[first:]), logs))
    grown = float(np.exp(2 * logs[-1] - half))
    return {"step": 2 * steps[-1], "since": round(steps[-1] / 2), "median_step_speedup": grown}


def last_doubling(curve: np.ndarray, steps: np.ndarray) -> float | None:
    """Return the fall of a loss curve [S], in nats per token, over the second half of its steps.

    It is None if the curve begins after half of its last step.
    """
    if steps[0] > steps[-1] / 2:
        return None
    fit = isotonic_fit(curve)
    return float(np.interp(np.log(steps[-1] / 2), np.log(steps), fit) - fit[-1])


def _until(
    result: LanguageResult, steps: np.ndarray, count: int, config: ReportConfig
) -> LanguageResult:
    of_seeds = result.of_seeds[..., :count]
    return dataclasses.replace(
        result,
        curves=result.curves[..., :count],
        of_seeds=of_seeds,
        drawn=result.drawn[..., :count],
        speed_up=speed_up_over_seeds(steps[:count], of_seeds, None, config),
        other_seeds=draw_ranges(steps[:count], of_seeds, config),
    )
