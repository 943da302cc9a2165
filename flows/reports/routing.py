"""Measure the routing of each language to experts, at the candidate's last checkpoint."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


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
    langs, rows = np.unique(table["lang"].to_pylist(), return_inverse=True)
    layers, experts = (table[name].to_numpy() for name in ("layer", "expert"))
    tokens = np.zeros((len(langs), layers.max() + 1, experts.max() + 1), np.int64)
    np.add.at(tokens, (rows, layers, experts), table["tokens"].to_numpy())
    return Routing(tuple(langs.tolist()), tokens)


def entropy_bits(counts: np.ndarray) -> float:
    """Return the entropy of a distribution given by counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def information_bits(table: np.ndarray) -> float:
    """Return the mutual information of language and expert, bits per token, never below zero.

    `table` are counts [languages, experts]. The bias of counting, (L - 1)(E - 1) / (2 N ln 2), is
    subtracted. Tokens of a document are not independent, so some bias stays.
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
    """Return report.json's part on routing; the first `encoder_layers` layers are the encoder's."""
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


def most_informative_layer(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the layer whose experts tell most about the language."""
    return max(data["layers"], key=lambda layer: (layer["information_bits"], -layer["layer"]))
