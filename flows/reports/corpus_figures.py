"""Figures of a corpus: language scores, and shares of a whole."""

from collections.abc import Sequence

from mswitch.flows.reports.numbers import fine_percent
from mswitch.flows.reports.svg import Drawing, line, rect, text


def score_histogram(
    counts: Sequence[int], threshold: float | None, width: int, height: int, title: str
) -> Drawing:
    """Draw documents in equal bins of language scores from 0 to 1, with the build's threshold."""
    top, bottom, left, right = 16, height - 20, 4, width - 4
    most, step = max(*counts, 1), (right - left) / len(counts)
    parts = [text(left, 10, f"{most:,} documents", "")]
    for index, count in enumerate(counts):
        # A single document must show beside millions.
        tall = max((bottom - top) * count / most, 1.0) if count else 0
        if tall:
            wide = max(step - 1, 0.5)
            parts.append(rect(left + index * step, bottom - tall, wide, tall, "bar"))
    parts.append(line(left, bottom, right, bottom, "axis"))
    for value, css in ((0.0, ""), (0.5, "mid"), (1.0, "end")):
        parts.append(text(left + value * (right - left), height - 6, f"{value:g}", css))
    if threshold is not None:
        x = left + threshold * (right - left)
        parts.append(line(x, top, x, bottom, "median"))
        side = (x - 4, "mark end halo") if threshold > 0.5 else (x + 4, "mark halo")
        parts.append(text(side[0], top + 10, f"threshold {threshold:g}", side[1]))
    low = next((index for index, count in enumerate(counts) if count), 0) / len(counts)
    desc = f"{sum(counts):,} documents; the lowest score is at or above {low:g}."
    return Drawing(width, height, title, desc, "".join(parts))


def share_bars(rows: Sequence[tuple[str, float]], width: int, title: str) -> Drawing:
    """Draw a horizontal bar for each share of a whole."""
    label, number, high = 104, 52, 20
    room = width - label - number
    parts = []
    for index, (name, share) in enumerate(rows):
        y = index * high
        parts.append(text(label - 8, y + 14, name, "ink end"))
        parts.append(rect(label, y + 4, max(room * share, 1), high - 8, "bar"))
        parts.append(text(label + room * share + 6, y + 14, fine_percent(share), ""))
    desc = ", ".join(f"{name} {fine_percent(share)}" for name, share in rows)
    return Drawing(width, len(rows) * high + 4, title, desc, "".join(parts))
