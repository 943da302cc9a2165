"""Routing by language: which experts the candidate's last checkpoint sends each language to."""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.cluster.hierarchy import leaves_list, linkage

from flows.report.svg import Drawing, line, px, text

ROW = 14
LABEL_CHARS = 19
#: Shades of the heat map, by share of a language's tokens over an even share.
SHADES = ((1.25, 1), (2.0, 2), (4.0, 3), (8.0, 4))


@dataclasses.dataclass(frozen=True)
class Routing:
    """Tokens by language, sparse layer and expert.

    Attributes:
        langs: codes, in order.
        tokens: [languages, layers, experts] token counts.
    """

    langs: tuple[str, ...]
    tokens: np.ndarray


def routing_from_table(table: pa.Table) -> Routing:
    """Arrange the rows (lang, layer, expert, tokens) that evaluation writes."""
    langs = sorted(set(table["lang"].to_pylist()))
    place = {lang: index for index, lang in enumerate(langs)}
    layers, experts = (table[name].to_numpy() for name in ("layer", "expert"))
    tokens = np.zeros((len(langs), int(layers.max()) + 1, int(experts.max()) + 1), np.int64)
    rows = np.array([place[lang] for lang in table["lang"].to_pylist()])
    np.add.at(tokens, (rows, layers, experts), table["tokens"].to_numpy())
    return Routing(tuple(langs), tokens)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of a distribution given by counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def information_bits(table: np.ndarray) -> float:
    """Mutual information of language and expert, [languages, experts] counts, bits per token.

    Less the bias of counting, (L - 1)(E - 1) / (2 N ln 2), and never below zero. Tokens of one
    document are not independent, so some bias stays.
    """
    total = table.sum()
    languages = int((table.sum(axis=1) > 0).sum())
    experts = int((table.sum(axis=0) > 0).sum())
    raw = (
        entropy_bits(table.sum(axis=1))
        + entropy_bits(table.sum(axis=0))
        - entropy_bits(table.ravel())
    )
    return max(0.0, raw - (languages - 1) * (experts - 1) / (2 * float(total) * math.log(2)))


def routing_data(routing: Routing, encoder_layers: int) -> dict[str, Any]:
    """What report.json says of the routing.

    Args:
        routing: token counts; the encoder's layers come first.
        encoder_layers: how many of the sparse layers are the encoder's.
    """
    experts = routing.tokens.shape[2]
    layers = []
    for index in range(routing.tokens.shape[1]):
        table = routing.tokens[:, index]
        if not table.sum():
            continue
        loads = table.sum(axis=0)
        layers.append(
            {
                "layer": index,
                "name": f"encoder {index + 1}"
                if index < encoder_layers
                else f"decoder {index - encoder_layers + 1}",
                "tokens": int(table.sum()),
                "entropy_bits": entropy_bits(loads),
                "largest_share": float(loads.max() / loads.sum()),
                "unused_experts": int((loads == 0).sum()),
                "information_bits": information_bits(table),
            }
        )
    return {"experts": experts, "even_entropy_bits": math.log2(experts), "layers": layers}


def busiest_layer(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The layer whose experts tell most about the language."""
    return max(data["layers"], key=lambda layer: (layer["information_bits"], -layer["layer"]))


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
    size = math.ceil(len(rows) / panels)
    return [_panel(rows[start : start + size]) for start in range(0, len(rows), size)]


def _panel(rows: Sequence[tuple[str, np.ndarray]]) -> Drawing:
    width, left, right, top = 344, 124, 340, 6
    experts = len(rows[0][1])
    cell = (right - left) / experts
    floor = top + ROW * len(rows)
    air = 1 if cell > 4 else 0
    paths: dict[int, list[str]] = {shade: [] for _, shade in SHADES}
    parts = [line(left - 1, top, left - 1, floor, "rule")]
    for index, (label, shares) in enumerate(rows):
        y = top + ROW * index
        short = label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…"
        name = f"<title>{html.escape(label)}: busiest expert {shares.max():.0%}</title>"
        parts.append(f"<g>{name}{text(left - 10, y + ROW - 3, short, 'end ink')}</g>")
        for expert, share in enumerate(shares):
            shade = max((s for limit, s in SHADES if share * experts >= limit), default=0)
            if shade:
                box = (
                    f"M{px(left + expert * cell)} {y}h{px(cell - air)}v{ROW - 1}h-{px(cell - air)}z"
                )
                paths[shade].append(box)
    for shade, boxes in paths.items():
        if boxes:
            parts.append(f'<path class="h{shade}" d="{"".join(boxes)}"/>')
    return Drawing(
        width,
        int(floor + 4),
        f"Routing of {len(rows)} languages, {rows[0][0]} to {rows[-1][0]}",
        f"Share of each language's tokens that each of {experts} experts received.",
        "".join(parts),
    )
