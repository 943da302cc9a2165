"""Draw figures with a row for each language: final quality, and a heat map of routing."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from mswitch.flows.reports.numbers import number
from mswitch.flows.reports.routing import Routing
from mswitch.flows.reports.svg import Drawing, line, nice_ticks, px, text

#: Width of a panel, width of its labels, and heights of rows, px.
WIDTH, LEFT, QUALITY_ROW, ROUTING_ROW = 344, 124, 16, 14
LABEL_CHARS = 19
#: Shades of the heat map, by an expert's share of a language's tokens times the number of experts.
SHADES = ((1.25, 1), (2.0, 2), (4.0, 3), (8.0, 4))

Row = TypeVar("Row")


def quality_panels(
    rows: Sequence[Mapping[str, Any]], names: tuple[str, str], panels: int
) -> list[Drawing]:
    """Draw both models' final quality, which is the negative loss, for `rows` of the report.

    The baseline's best language comes first. All `panels` have the same scale.
    """
    rows = sorted(rows, key=lambda row: (row["baseline_nll"], row["lang"]))
    ends = [-row[loss] for row in rows for loss in ("baseline_nll", "candidate_nll")]
    ends += [end for row in rows for end in _interval(row)]
    margin = 0.02 * (max(ends) - min(ends)) + 1e-6
    low, high = min(ends) - margin, max(ends) + margin
    return [_quality_panel(part, (low, high), names) for part in split_rows(rows, panels)]


def _interval(row: Mapping[str, Any]) -> Sequence[float]:
    """Add the baseline's quality to both ends of the quality difference's interval."""
    return [-row["baseline_nll"] - end for end in reversed(row["delta_ci"] or ())]


def _quality_panel(
    rows: Sequence[Mapping[str, Any]], limits: tuple[float, float], names: tuple[str, str]
) -> Drawing:
    right, top = 336, 22
    low, high = limits
    floor = top + QUALITY_ROW * len(rows)

    def scale_x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (right - LEFT)

    ticks, digits = nice_ticks(low, high, 7)
    parts = [line(scale_x(tick), top - 2, scale_x(tick), floor, "rule") for tick in ticks]
    parts += [text(scale_x(tick), top - 8, number(tick, digits), "mid") for tick in ticks]
    for index, row in enumerate(rows):
        y = top + QUALITY_ROW * (index + 0.5)
        name, qualities = row["name"], (-row["baseline_nll"], -row["candidate_nll"])
        base, cand = map(scale_x, qualities)
        shown = ", ".join(f"{n} {number(q)}" for n, q in zip(names, qualities, strict=True))
        interval = _interval(row)
        css = "end ink" if interval else "end"
        parts.append(f"<g>{draw_label(name, y + 4, f'{name}: {shown}', css)}")
        if interval:
            parts.append(line(scale_x(interval[0]), y, scale_x(interval[1]), y, "ci"))
        parts.append(
            line(base, y, cand, y, "link")
            + f'<circle class="b" cx="{px(base)}" cy="{px(y)}" r="3.2"/>'
            f'<circle class="c" cx="{px(cand)}" cy="{px(y)}" r="3.4"/></g>'
        )
    return Drawing(
        WIDTH,
        int(floor + 4),
        f"Final quality of {len(rows)} languages, {rows[0]['name']} to {rows[-1]['name']}",
        "Minus the loss of both models per language; the table holds every value.",
        "".join(parts),
    )


def split_rows(rows: Sequence[Row], panels: int) -> list[Sequence[Row]]:
    """Divide the rows into `panels` parts, the last of which may be shorter."""
    size = math.ceil(len(rows) / panels)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def draw_label(name: str, y: float, title: str, css: str) -> str:
    """Draw a language's name before its row, cut to fit, with a title for the mouse pointer."""
    short = name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"
    return f"<title>{html.escape(title)}</title>{text(LEFT - 10, y, short, css)}"


def routing_panels(
    routing: Routing, layer: int, names: Mapping[str, str], panels: int
) -> list[Drawing]:
    """Draw a heat map of languages by experts, with languages of similar routing side by side."""
    kept = np.flatnonzero(routing.tokens[:, layer].sum(axis=1) > 0)
    counts = routing.tokens[kept, layer].astype(float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.arange(len(kept))
    if len(kept) > 2:
        # The Euclidean distance of square roots is Hellinger's distance of distributions.
        order = leaves_list(linkage(np.sqrt(shares), "average", optimal_ordering=True))
    busy = np.argsort(-shares.mean(axis=0), kind="stable")
    rows = [
        (names.get(routing.langs[kept[i]], routing.langs[kept[i]]), shares[i][busy]) for i in order
    ]
    return [_routing_panel(part) for part in split_rows(rows, panels)]


def _routing_panel(rows: Sequence[tuple[str, np.ndarray]]) -> Drawing:
    right, top = 340, 6
    experts = len(rows[0][1])
    cell = (right - LEFT) / experts
    floor = top + ROUTING_ROW * len(rows)
    air = 1 if cell > 4 else 0
    paths: dict[int, list[str]] = {shade: [] for _, shade in SHADES}
    parts = [line(LEFT - 1, top, LEFT - 1, floor, "rule")]
    for index, (label, shares) in enumerate(rows):
        y = top + ROUTING_ROW * index
        shown = f"{label}: busiest expert {shares.max():.0%}"
        parts.append(f"<g>{draw_label(label, y + ROUTING_ROW - 3, shown, 'end ink')}</g>")
        for expert, share in enumerate(shares):
            shade = max((s for limit, s in SHADES if share * experts >= limit), default=0)
            if shade:
                x, wide = px(LEFT + expert * cell), px(cell - air)
                paths[shade].append(f"M{x} {y}h{wide}v{ROUTING_ROW - 1}h-{wide}z")
    for shade, boxes in paths.items():
        if boxes:
            parts.append(f'<path class="h{shade}" d="{"".join(boxes)}"/>')
    return Drawing(
        WIDTH,
        int(floor + 4),
        f"Routing of {len(rows)} languages, {rows[0][0]} to {rows[-1][0]}",
        f"Share of each language's tokens that each of {experts} experts received.",
        "".join(parts),
    )
