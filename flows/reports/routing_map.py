"""The map of routing: languages by experts, those with alike routing beside one another."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from mswitch.flows.reports.figures_by_language import LEFT, ROUTING_ROW, WIDTH, label_of, split_rows
from mswitch.flows.reports.routing import Routing
from mswitch.flows.reports.svg import Drawing, line, px


def routing_panels(
    routing: Routing, layer: int, names: Mapping[str, str], panels: int
) -> list[Drawing]:
    """Heat map of languages by experts, languages with alike routing beside one another."""
    kept = np.flatnonzero(routing.tokens[:, layer].sum(axis=1) > 0)
    counts = routing.tokens[kept, layer].astype(float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.arange(len(kept))
    if len(kept) > 2:
        # Euclidean on square roots is Hellinger's distance between distributions.
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
        parts.append(f"<g>{label_of(label, y + ROUTING_ROW - 3, shown, 'end ink')}</g>")
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


#: Shades of the heat map, by share of a language's tokens over an even share.
SHADES = ((1.25, 1), (2.0, 2), (4.0, 3), (8.0, 4))
