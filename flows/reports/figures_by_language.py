"""Figures with a row for each language: of final quality, and what all of them share."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import TypeVar

from mswitch.flows.reports.numbers import number
from mswitch.flows.reports.svg import Drawing, line, nice_ticks, px, text

#: Width of a panel and of its labels, and height of a row, px.
WIDTH, LEFT, QUALITY_ROW, ROUTING_ROW = 344, 124, 16, 14
LABEL_CHARS = 19

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class QualityRow:
    """One language of the quality plot, in negative log perplexity (higher is better).

    Attributes:
        label: the language's name.
        baseline: final quality of the baseline.
        candidate: final quality of the candidate.
        interval: paired interval of the difference, added to the baseline, or None.
    """

    label: str
    baseline: float
    candidate: float
    interval: tuple[float, float] | None


def quality_panels(
    rows: Sequence[QualityRow], names: tuple[str, str], panels: int
) -> list[Drawing]:
    """Final quality of both models per language, split over `panels` columns of one scale."""
    ends = [value for row in rows for value in (row.baseline, row.candidate)]
    ends += [end for row in rows for end in row.interval or ()]
    margin = 0.02 * (max(ends) - min(ends)) + 1e-6
    low, high = min(ends) - margin, max(ends) + margin
    return [_quality_panel(part, (low, high), names) for part in split_rows(rows, panels)]


def _quality_panel(
    rows: Sequence[QualityRow], limits: tuple[float, float], names: tuple[str, str]
) -> Drawing:
    right, top = 336, 22
    low, high = limits
    floor = top + QUALITY_ROW * len(rows)

    def x_of(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (right - LEFT)

    ticks, digits = nice_ticks(low, high, 7)
    parts = [line(x_of(tick), top - 2, x_of(tick), floor, "rule") for tick in ticks]
    parts += [text(x_of(tick), top - 8, number(tick, digits), "mid") for tick in ticks]
    for index, row in enumerate(rows):
        y = top + QUALITY_ROW * (index + 0.5)
        base, cand = x_of(row.baseline), x_of(row.candidate)
        shown = (
            f"{row.label}: {names[0]} {number(row.baseline, 3)}, "
            f"{names[1]} {number(row.candidate, 3)}"
        )
        css = "end ink" if row.interval else "end"
        parts.append(f"<g>{label_of(row.label, y + 4, shown, css)}")
        if row.interval:
            parts.append(line(x_of(row.interval[0]), y, x_of(row.interval[1]), y, "ci"))
        parts.append(
            line(base, y, cand, y, "link")
            + f'<circle class="b" cx="{px(base)}" cy="{px(y)}" r="3.2"/>'
            f'<circle class="c" cx="{px(cand)}" cy="{px(y)}" r="3.4"/></g>'
        )
    return Drawing(
        WIDTH,
        int(floor + 4),
        f"Final quality of {len(rows)} languages, {rows[0].label} to {rows[-1].label}",
        "Minus the loss of both models per language; the table holds every value.",
        "".join(parts),
    )


def split_rows(rows: Sequence[Row], panels: int) -> list[Sequence[Row]]:
    """Divide the rows into `panels` parts, the last of which may be shorter."""
    size = math.ceil(len(rows) / panels)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def label_of(name: str, y: float, title: str, css: str) -> str:
    """A language's name in front of its row, cut to fit, and what a pointer on the row shows."""
    short = name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"
    return f"<title>{html.escape(title)}</title>{text(LEFT - 10, y, short, css)}"
