"""Speed-up by FLOPs and by wall clock: that by steps, times the ratio of what a step costs."""

from collections.abc import Mapping
from typing import Any

from mswitch.flows.reports.runs import EvaluatedRun
from mswitch.flows.reports.speedup import SpeedUp


def cost_factors(baseline: EvaluatedRun, candidate: EvaluatedRun) -> dict[str, float | None]:
    """What turns a step speed-up into one of FLOPs and one of time, None where not comparable.

    Time is compared on the same kind of device only.
    """
    wall = None
    same_device = baseline.config["device"] == candidate.config["device"]
    if same_device and baseline.step_secs and candidate.step_secs:
        wall = baseline.step_secs / candidate.step_secs
    return {"flop": baseline.flops_per_step / candidate.flops_per_step, "wall": wall}


def _scaled(value: Any, factor: float | None) -> Any:
    """Multiply a number, or each number of a list, unless one side is missing."""
    if value is None or factor is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_scaled(item, factor) for item in value]
    return value * factor


def scaled_figure(figure: Mapping[str, Any] | None, factor: float | None) -> Any:
    """A figure over languages, with its interval, in another unit than steps."""
    if figure is None or factor is None:
        return None
    return {
        **figure,
        **{key: _scaled(figure[key], factor) for key in ("value", "ci", "range", "seeds")},
    }


def speed_up_json(speed_up: SpeedUp, factors: Mapping[str, float | None]) -> dict[str, Any]:
    """A speed-up by steps, by FLOPs and by time."""
    return {
        **speed_up.as_json(),
        "flop_speedup": _scaled(speed_up.value, factors["flop"]),
        "wall_speedup": _scaled(speed_up.value, factors["wall"]),
        "baseline_steps": speed_up.baseline_steps,
        "candidate_steps": speed_up.candidate_steps,
    }
