"""Draw histograms of speed-ups, and curves of scores, speed-ups and losses over steps."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.flows.reports.headline import LanguageResult, Pooled
from mswitch.flows.reports.numbers import TIMES, bounded, number
from mswitch.flows.reports.sentences import figure_words
from mswitch.flows.reports.speedup import isotonic_fit
from mswitch.flows.reports.svg import Drawing, line, nice_ticks, px, rect, text

#: A figure of many panels has panels of at most this width. These panels have small dots and few
#: labels.
SMALL_PANEL = 200
#: Number of extra histogram bins at an end, if some speed-ups are only known to be beyond this end.
#: One bin counts these speed-ups. The other bin is empty, so that axis labels do not touch.
BOUND_BINS = 2


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of figures by step.

    Attributes:
        label: its name in the key.
        kind: CSS class of the dots; the class of the line has an `l` at the end.
        steps: increasing steps.
        points: at each step a `value` and the interval `ci`, either of which may be None, or None;
            speed-ups also have a `mark`, see `Censoring`.
        chosen: the step to mark; None for none.
    """

    label: str
    kind: str
    steps: Sequence[int]
    points: Sequence[Mapping[str, Any] | None]
    chosen: int | None = None


def speedup_histogram(
    rows: Sequence[Mapping[str, Any]], median: Mapping[str, Any] | None, *, width: int, name: str
) -> Drawing:
    """Draw the number of languages by step speed-up (log axis), with marks at 1x, 4x and median.

    The languages are `rows` of the report. Bounds are hatched bars beside the axis, on the side of
    the true value. `name` makes the hatching's id unique in a page.
    """
    bars = [row for row in rows if row["step_speedup"] is not None]
    below, exact, above = (
        [bar for bar in bars if bar["censored"] == mark] for mark in ("upper", "none", "lower")
    )
    logs = [math.log2(bar["step_speedup"]) for bar in exact] + [-0.5, 2.5]
    unit = 0.5 if max(logs) - min(logs) <= 8 else 1.0
    by_bin: dict[int, list[Mapping[str, Any]]] = {}
    for bar in exact:
        index = math.floor(round(math.log2(bar["step_speedup"]) / unit, 9))
        by_bin.setdefault(index, []).append(bar)
    first = min([*by_bin, math.floor(min(logs) / unit)])
    last = max([*by_bin, math.floor(max(logs) / unit)]) + 1
    bins = last - first + BOUND_BINS * (bool(below) + bool(above))
    edge, top, floor = 14, 46, 216
    bin_width = min((width - 2 * edge) / bins, 90)
    left = edge + BOUND_BINS * bool(below) * bin_width
    right = left + (last - first) * bin_width

    def scale_x(log2: float) -> float:
        return left + (log2 / unit - first) * bin_width

    rise = (floor - top - 16) / max(1, *map(len, (*by_bin.values(), below, above)))
    parts = [
        f'<pattern id="{name}-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6"/></pattern>',
        line(left, floor, right, floor, "axis"),
    ]
    for index, group in sorted(by_bin.items()):
        parts += _stack(left + (index - first) * bin_width, bin_width, floor, rise, group)
    end = right + (BOUND_BINS - 1) * bin_width
    for group, sign, x, nearest in ((below, "<", edge, max), (above, ">", end, min)):
        if group:
            bound = nearest(bar["step_speedup"] for bar in group)
            parts += _stack(x, bin_width, floor, rise, group, name)
            parts.append(line(x, floor, x + bin_width, floor, "axis"))
            parts.append(text(x + bin_width / 2, floor + 17, f"{sign} {bound:,.4g}{TIMES}", "mid"))
    every = max(1, math.ceil(unit * 46 / bin_width))  # this distance keeps labels apart
    for power in range(math.ceil(first * unit), math.floor(last * unit) + 1):
        if power % every == 0:
            parts.append(line(scale_x(power), floor, scale_x(power), floor + 4, "axis"))
            parts.append(text(scale_x(power), floor + 17, _power(power), "mid"))
    for power in (0, 2):
        parts.append(line(scale_x(power), top - 10, scale_x(power), floor, "ref"))
    centre = None
    if median is not None:
        centre = min(max(scale_x(math.log2(median["value"])), edge), width - edge)
        parts.append(line(centre, top - 26, centre, floor, "median"))
        label = f"median {figure_words(median)}"
        half = 3.4 * len(label)
        parts.append(text(min(max(centre, half), width - half), 13, label, "mid mark"))
    for power in (0, 2):
        x = scale_x(power)
        away = "end " if centre is not None and centre >= x else ""
        parts.append(text(x - 4 if away else x + 4, top - 6, _power(power), f"{away}ink halo"))
    parts.append(text((left + right) / 2, floor + 35, "step speed-up (log scale)", "mid"))
    legend, height = _histogram_legend(width, floor + 60, name)
    return Drawing(
        width,
        height,
        "Number of languages by step speed-up",
        f"Histogram of {len(bars)} languages; the table holds every value.",
        "".join(parts) + legend,
    )


def _stack(
    x: float,
    bin_width: float,
    floor: float,
    rise: float,
    bars: Sequence[Mapping[str, Any]],
    hatch: str = "",
) -> Iterable[str]:
    """Draw one bar of a histogram of languages, stacked from two parts.

    The lower part has languages that count in headline figures. `hatch` is the id prefix of an SVG
    fill pattern, "" without a pattern.
    """
    y, inside = floor, sum(bar["in_headline"] for bar in bars)
    for css, count in (("box" if hatch else "bar", inside), ("thin", len(bars) - inside)):
        if not count:
            continue
        y -= count * rise
        area = (x + 1.5, y, bin_width - 3, count * rise)
        yield rect(*area, css)
        if hatch:
            yield rect(*area, style=f"fill:url(#{hatch}-hatch)")
    yield text(x + bin_width / 2, y - 4, str(len(bars)), "mid ink halo")


def _histogram_legend(width: int, top: float, name: str) -> tuple[str, int]:
    entries = (
        ("bar", "", "in the headline", 0),
        ("thin", "", "not in the headline (too little text)", 130),
        ("box", f"fill:url(#{name}-hatch)", "bound: the truth is further out", 370),
    )
    parts = []
    for row, (css, style, label, offset) in enumerate(entries):
        x, y = (14 + offset, top) if width >= 600 else (14, top + 18 * row)
        area = (x, y - 9, 14, 10)
        parts.append(rect(*area, css))
        if style:
            parts.append(rect(*area, style=style))
        parts.append(text(x + 20, y, label))
    return "".join(parts), int(top + (8 if width >= 600 else 44))


def _power(power: int) -> str:
    return f"{2**power:,}{TIMES}" if power >= 0 else f"1/{2**-power:,}{TIMES}"


def step_panel(
    lines: Sequence[Line],
    label: str,
    title: str,
    desc: str,
    *,
    ratios: bool,
    log: bool,
    width: int,
    height: int,
) -> Drawing:
    """Draw curves with confidence intervals over one axis of steps, which is named `label`.

    Values are scores, or with `ratios` speed-ups on a log scale. With `log`, steps have a log scale
    too. A point whose `mark` is a bound is an arrow head that points to the true speed-up.
    """
    left, right, top, floor = 40, width - 12, 30, height - 34
    known = [p for each in lines for p in each.points if p and p["value"] is not None]
    ends = [1.0, 2.0] if ratios else []
    ends += [end for point in known for end in (point["value"], *(point["ci"] or ()))]
    scale = math.log2 if ratios else float
    margin = 0.1 if ratios else 0.06 * (max(ends) - min(ends)) + 0.5
    low, high = scale(min(ends)) - margin, scale(max(ends)) + margin
    steps = lines[0].steps

    def scale_x(step: float) -> float:
        first, last, value = steps[0], steps[-1], step
        if log:
            first, last, value = math.log(first), math.log(last), math.log(value)
        return left + 8 + (value - first) / (last - first) * (right - left - 16)

    def scale_y(scaled: float) -> float:
        return floor - (scaled - low) / (high - low) * (floor - top)

    if ratios:
        ticks = [(power, _power(power)) for power in range(math.ceil(low), math.floor(high) + 1)]
    else:
        values, digits = nice_ticks(low, high, max(3, height // 50))
        ticks = [(value, number(value, digits)) for value in values]
    parts = []
    for tick, shown in ticks:
        y = scale_y(tick)
        parts.append(line(left, y, right, y, "ref" if ratios and tick == 0 else "rule"))
        parts.append(text(left - 5, y + 4, shown, "end"))
    key = float(left)
    for index, each in enumerate(lines):
        aside = 3 * (index - (len(lines) - 1) / 2)
        points = [
            (scale_x(step) + aside, scale_y(scale(point["value"])), point)
            for step, point in zip(each.steps, each.points, strict=True)
            if point and point["value"] is not None
        ]
        parts += [
            line(x, scale_y(scale(ci[0])), x, scale_y(scale(ci[1])), "axis")
            for x, _, point in points
            if (ci := point["ci"])
        ]
        if each.chosen is not None:
            parts.append(line(scale_x(each.chosen), top, scale_x(each.chosen), floor, "median"))
        if points:
            path = "L".join(f"{px(x)} {px(y)}" for x, y, _ in points)
            parts.append(f'<path class="{each.kind}l" d="M{path}"/>')
        for x, y, point in points:
            if (down := {"upper": 1, "lower": -1}.get(point.get("mark", "none"))) is None:
                parts.append(f'<circle class="{each.kind}" cx="{px(x)}" cy="{px(y)}" r="3.2"/>')
            else:
                head = f"M{px(x - 4)} {px(y)}h8l-4 {6 * down}z"
                parts.append(f'<path class="{each.kind}" d="{head}"/>')
        parts.append(f'<circle class="{each.kind}" cx="{px(key + 4)}" cy="9" r="3.2"/>')
        parts.append(text(key + 13, 13, each.label, "ink"))
        key += 30 + 7 * len(each.label)
    parts.append(line(left, floor, right, floor, "axis"))
    parts.append(text(left, floor + 15, f"{steps[0]:,}"))
    parts.append(text(right, floor + 15, f"{steps[-1]:,}", "end"))
    parts.append(text((left + right) / 2, floor + 29, label, "mid"))
    return Drawing(width, height, title, desc, "".join(parts))


def curve_panel(
    result: LanguageResult | Pooled, label: str, steps: np.ndarray, *, width: int, height: int
) -> Drawing:
    """Draw the losses of both models over `steps` [S], on a logarithmic axis.

    Also draw the fits, the target, and the step at which each model met it.
    """
    left, right, top, floor = 34, width - 8, 24, height - 20
    first, last = math.log(steps[0]), math.log(steps[-1])
    low, high = float(np.min(result.curves)), float(np.max(result.curves))
    low, high = low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6

    def scale_x(step: float) -> float:
        return left + (math.log(step) - first) / (last - first) * (right - left)

    def scale_y(loss: float) -> float:
        return floor - (loss - low) / (high - low) * (floor - top)

    def path(losses: np.ndarray) -> str:
        points = zip(steps, losses, strict=True)
        return "M" + "L".join(f"{px(scale_x(s))} {px(scale_y(loss))}" for s, loss in points)

    ticks, digits = nice_ticks(low, high, max(3, height // 50))
    speed_up, fits = result.speed_up, [isotonic_fit(curve) for curve in result.curves]
    note = bounded(speed_up.value, speed_up.censored)
    parts = [text(0, 11, label, "head"), text(right, 11, note, "end ink")]
    for tick in ticks:
        parts.append(line(left, scale_y(tick), right, scale_y(tick), "rule"))
        parts.append(text(left - 5, scale_y(tick) + 4, number(tick, digits), "end"))
    target = scale_y(float(fits[0][-1]))
    parts.append(line(left, target, right, target, "ref"))
    for step, css in ((speed_up.baseline_steps, "bl"), (speed_up.candidate_steps, "cl")):
        if step is not None:
            parts.append(line(scale_x(step), target - 5, scale_x(step), target + 5, css))
    parts += [
        f'<path class="{css}" d="{path(fit)}"/>'
        for fit, css in zip(fits, ("bl", "cl"), strict=True)
    ]
    radius = 2.5 if width > SMALL_PANEL else 1.5
    arc = f"a{radius} {radius} 0 1 0"
    circle = f"{arc} {2 * radius} 0{arc} {-2 * radius} 0"
    for losses, css in zip(result.curves, ("bp", "c"), strict=True):
        dots = "".join(
            f"M{px(scale_x(step) - radius)} {px(scale_y(loss))}{circle}"
            for step, loss in zip(steps, losses, strict=True)
        )
        parts.append(f'<path class="{css}" d="{dots}"/>')
    parts.append(text(left, height - 5, f"{int(steps[0]):,}"))
    parts.append(text(right, height - 5, f"{int(steps[-1]):,} steps", "end"))
    for power in range(20) if width > SMALL_PANEL else ():
        x = scale_x(10**power)
        if left + 40 < x < right - 90:
            parts.append(text(x, height - 5, f"{10**power:,}", "mid"))
    return Drawing(
        width,
        height,
        f"Loss curves, {label}",
        "Validation loss of both models over training steps, with their monotone fits.",
        "".join(parts),
    )
