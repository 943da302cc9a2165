"""Scores over steps: of fine-tuning on validation, or of the pretraining that came before."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.numbers import number
from mswitch.flows.reports.svg import Drawing, line, nice_ticks, px, text


@dataclasses.dataclass(frozen=True)
class Curve:
    """Scores by step.

    Attributes:
        label: what they are of.
        kind: CSS class of the dots; that of lines has an `l` at the end.
        steps: increasing.
        points: at each step a `value` and its interval `ci`, or None.
        chosen: the step that is marked; None for none.
    """

    label: str
    kind: str
    steps: Sequence[int]
    points: Sequence[Mapping[str, Any]]
    chosen: int | None = None


def score_panel(
    curves: Sequence[Curve], label: str, *, log: bool, width: int, height: int
) -> Drawing:
    """Curves with their intervals over common steps; `label` names the steps."""
    left, right, top, floor = 40, width - 12, 30, height - 34
    known = [point for curve in curves for point in curve.points]
    ends = [point["value"] for point in known]
    ends += [end for point in known for end in point["ci"] or ()]
    margin = 0.06 * (max(ends) - min(ends)) + 0.5
    low, high = min(ends) - margin, max(ends) + margin
    steps = curves[0].steps

    def x_of(step: float) -> float:
        first, last, value = steps[0], steps[-1], step
        if log:
            first, last, value = math.log(first), math.log(last), math.log(value)
        return left + 8 + (value - first) / (last - first) * (right - left - 16)

    def y_of(score: float) -> float:
        return floor - (score - low) / (high - low) * (floor - top)

    ticks, digits = nice_ticks(low, high, max(3, height // 50))
    parts = []
    for tick in ticks:
        parts.append(line(left, y_of(tick), right, y_of(tick), "rule"))
        parts.append(text(left - 5, y_of(tick) + 4, number(tick, digits), "end"))
    key = float(left)
    for index, curve in enumerate(curves):
        aside = 3 * (index - (len(curves) - 1) / 2)
        found = [(x_of(s) + aside, p) for s, p in zip(curve.steps, curve.points, strict=True)]
        parts += [
            line(x, y_of(point["ci"][0]), x, y_of(point["ci"][1]), "axis")
            for x, point in found
            if point["ci"]
        ]
        if curve.chosen is not None:
            x = x_of(curve.chosen)
            parts.append(line(x, top, x, floor, "median"))
        path = "L".join(f"{px(x)} {px(y_of(point['value']))}" for x, point in found)
        parts.append(f'<path class="{curve.kind}l" d="M{path}"/>')
        parts += [
            f'<circle class="{curve.kind}" cx="{px(x)}" cy="{px(y_of(point["value"]))}" r="3.2"/>'
            for x, point in found
        ]
        parts.append(f'<circle class="{curve.kind}" cx="{px(key + 4)}" cy="9" r="3.2"/>')
        parts.append(text(key + 13, 13, curve.label, "ink"))
        key += 30 + 7 * len(curve.label)
    parts.append(line(left, floor, right, floor, "axis"))
    parts.append(text(left, floor + 15, f"{steps[0]:,}"))
    parts.append(text(right, floor + 15, f"{steps[-1]:,}", "end"))
    parts.append(text((left + right) / 2, floor + 29, label, "mid"))
    return Drawing(
        width,
        height,
        f"Scores by {label}",
        "Means over languages; the data that the page offers have every value.",
        "".join(parts),
    )
