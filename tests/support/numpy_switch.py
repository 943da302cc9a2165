"""A Switch Transformer in plain NumPy, one token at a time where routing is concerned.

Written from the papers and with Hugging Face's names, and with none of mswitch's code: float64,
ReLU or GEGLU, embeddings tied or not, capacity counted in groups, padding not routed.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Weights = Mapping[str, np.ndarray]


class Outcome(NamedTuple):
    """What a model makes of a batch: logits [B, T, V], and of each sparse layer the rest.

    `dropped` counts tokens that found no slot; the losses are means over groups, without weights.
    """

    logits: np.ndarray
    dropped: list[int]
    balance_losses: list[float]
    z_losses: list[float]


def switch_model(
    weights: Weights,
    batch: Mapping[str, np.ndarray],
    *,
    heads: int,
    groups: int,
    capacities: tuple[int, int],
) -> Outcome:
    """Run encoder and decoder, with so many slots per expert and group in each."""
    table = weights["shared.weight"].astype(np.float64)
    source_real, target_real = batch["inputs"] != 0, batch["targets"] != 0
    layers: list[tuple[int, float, float]] = []

    def stack(name: str, tokens: np.ndarray, real: np.ndarray, memory: np.ndarray | None):
        x = table[tokens]
        length = tokens.shape[1]
        bias = weights[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = bias[buckets(length, bidirectional=memory is None)].transpose(2, 0, 1)
        causal = np.tril(np.ones((length, length), bool))
        seen = source_real[:, None, :] if memory is None else causal[None]
        layer = 0
        while f"{name}.block.{layer}.layer.0.layer_norm.weight" in weights:
            of = f"{name}.block.{layer}.layer"
            y = norm(x, weights[f"{of}.0.layer_norm.weight"])
            x = x + attend(weights, f"{of}.0.SelfAttention", y, y, seen, bias, heads)
            if memory is not None:
                y = norm(x, weights[f"{of}.1.layer_norm.weight"])
                cross = f"{of}.1.EncDecAttention"
                x = x + attend(weights, cross, y, memory, source_real[:, None, :], 0.0, heads)
            last = f"{of}.{1 if memory is None else 2}"
            y = norm(x, weights[f"{last}.layer_norm.weight"])
            if f"{last}.mlp.router.classifier.weight" in weights:
                capacity = capacities[0 if memory is None else 1]
                y, *routed = switch(weights, f"{last}.mlp", y, real, groups, capacity)
                layers.append(tuple(routed))
            else:
                y = feed_forward(weights, f"{last}.mlp", y)
            x = x + y
            layer += 1
        return norm(x, weights[f"{name}.final_layer_norm.weight"])

    memory = stack("encoder", batch["inputs"], source_real, None)
    x = stack("decoder", batch["decoder_inputs"], target_real, memory)
    dropped, balance_losses, z_losses = (list(column) for column in zip(*layers, strict=True))
    if "lm_head.weight" in weights:
        logits = x @ weights["lm_head.weight"].T
    else:
        logits = x * table.shape[1] ** -0.5 @ table.T
    return Outcome(logits, dropped, balance_losses, z_losses)


def switch(
    weights: Weights, name: str, x: np.ndarray, real: np.ndarray, groups: int, capacity: int
) -> tuple[np.ndarray, int, float, float]:
    """What the experts make of the tokens, how many were dropped, and the balance and z-loss."""
    router = weights[f"{name}.router.classifier.weight"].astype(np.float64)
    tokens = x.reshape(groups, -1, x.shape[-1])
    slots, gates, stats = route(tokens @ router.T, real.reshape(groups, -1), capacity)
    out = np.zeros_like(tokens)
    for place in zip(*np.nonzero(slots >= 0), strict=True):
        expert = f"{name}.experts.expert_{stats['expert'][place]}"
        out[place] = gates[place] * feed_forward(weights, expert, tokens[place])
    return out.reshape(x.shape), stats["dropped"], stats["balance_loss"], stats["z_loss"]


def route(logits: np.ndarray, real: np.ndarray, capacity: int):
    """Top-1 routing: tokens of a group in their order, until an expert's slots are taken.

    Gives, for logits [G, S, E], slots [G, S], -1 for none, gates [G, S], and statistics: the
    balance and z-loss are of each group's real tokens, dropped or not; then the mean over groups.
    """
    groups, positions, experts = logits.shape
    slots, expert = np.full((2, groups, positions), -1)
    gates = np.zeros((groups, positions))
    counts, mass = np.zeros((2, groups, experts))
    squares, entropy = np.zeros(groups), 0.0
    for g, s in np.ndindex(groups, positions):
        p = np.exp(logits[g, s].astype(float))
        z = p.sum()
        p /= z
        chosen = int(np.argmax(p))
        gates[g, s] = p[chosen]
        if not real[g, s]:
            continue
        expert[g, s] = chosen
        if counts[g, chosen] < capacity:
            slots[g, s] = chosen * capacity + counts[g, chosen]
        counts[g, chosen] += 1
        mass[g] += p
        squares[g] += np.log(z) ** 2
        entropy -= (p * np.log(p)).sum()
    tokens, total = np.maximum(real.sum(axis=1), 1), max(real.sum(), 1)
    dropped = (real & (slots < 0)).sum()
    return (
        slots,
        gates,
        {
            "balance_loss": (experts * (counts * mass).sum(axis=1) / tokens**2).mean(),
            "z_loss": (squares / tokens).mean(),
            "drop_fraction": dropped / total,
            "entropy": entropy / total,
            "confidence": (gates * real).sum() / total,
            "load": counts.sum(axis=0) / total,
            "peak": counts.max(),
            "dropped": dropped,
            "expert": expert,
        },
    )


def feed_forward(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """ReLU between two projections, or GELU of one, times another, before the last."""
    if f"{name}.wi_0.weight" in weights:
        x, gate = x @ weights[f"{name}.wi_1.weight"].T, x @ weights[f"{name}.wi_0.weight"].T
        gelu = 0.5 * gate * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        return gelu * x @ weights[f"{name}.wo.weight"].T
    return np.maximum(x @ weights[f"{name}.wi.weight"].T, 0) @ weights[f"{name}.wo.weight"].T


def attend(weights: Weights, name: str, x, memory, seen, bias, heads: int) -> np.ndarray:
    """Attention without a scale: x [B, Q, D], memory [B, K, D], seen [B or 1, Q or 1, K]."""

    def split(y: np.ndarray, letter: str) -> np.ndarray:
        y = y @ weights[f"{name}.{letter}.weight"].T
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    products = split(x, "q") @ split(memory, "k").swapaxes(-1, -2) + bias
    shares = softmax(np.where(seen[:, None], products, -1e30))
    y = (shares @ split(memory, "v")).transpose(0, 2, 1, 3)
    return y.reshape(*y.shape[:2], -1) @ weights[f"{name}.o.weight"].T


def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Root mean square over the last axis."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def buckets(length: int, *, bidirectional: bool) -> np.ndarray:
    """Position buckets [Q, K], 32 up to distance 128."""
    out = np.zeros((length, length), int)
    for query in range(length):
        for key in range(length):
            distance, offset, count = query - key, 0, 32
            if bidirectional:
                count, offset = 16, 16 if key > query else 0
                distance = abs(distance)
            distance, exact = max(distance, 0), count // 2
            if distance >= exact:
                grown = np.log(np.float32(distance / exact)) / np.log(128 / exact)
                distance = min(exact + int(grown * (count - exact)), count - 1)
            out[query, key] = offset + distance
    return out
