"""Compute the likelihood of each output of a closed set.

The encoder runs once for all labels. Labels with a common prefix share its positions: the decoder
sees a tree, in which each position attends to its ancestors and itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mswitch.models.inference.decode import CachedDecoder
from mswitch.models.nn.attention import RelativePositionBias
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.transformer import PADDING
from mswitch.models.training.state import Parameters, Skeleton

#: Maximum number of logits at a time. With 250,112 pieces, the logits of a few positions are
#: gigabytes.
MAX_LOGITS = 1 << 26


class PrefixTree(NamedTuple):
    """All prefixes of some token sequences; a prefix comes before its extensions.

    Attributes:
        tokens: the last token of each prefix; 0 for the empty one, which is the first.
        depths: number of tokens of each prefix.
        ancestors: whether prefix [n] begins with prefix [m] or equals it.
        edges: prefixes and the tokens that follow them, each pair once.
        paths: the edges of each sequence, padded with -1.
    """

    tokens: Int[np.ndarray, " N"]
    depths: Int[np.ndarray, " N"]
    ancestors: Int[np.ndarray, "N N"]
    edges: Int[np.ndarray, "E 2"]
    paths: Int[np.ndarray, "L T"]


def make_prefix_tree(sequences: Sequence[Sequence[int]]) -> PrefixTree:
    """Find the prefixes of token sequences; no sequence may be empty."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[tuple[int, int], int] = {}
    paths = np.full((len(sequences), max(map(len, sequences))), -1)
    for path, sequence in zip(paths, sequences, strict=True):
        for depth, token in enumerate(sequence):
            node = nodes.setdefault(tuple(sequence[:depth]), len(nodes))
            path[depth] = edges.setdefault((node, token), len(edges))
    ancestors = np.zeros((len(nodes), len(nodes)), bool)
    for prefix, node in nodes.items():
        ancestors[node, [nodes[prefix[:depth]] for depth in range(len(prefix) + 1)]] = True
    return PrefixTree(
        tokens=np.array([prefix[-1] if prefix else PADDING for prefix in nodes]),
        depths=np.array([len(prefix) for prefix in nodes]),
        ancestors=ancestors,
        edges=np.array(list(edges)),
        paths=paths,
    )


def make_label_scorer(
    skeleton: Skeleton, labels: Sequence[Sequence[int]]
) -> Callable[[Parameters, Int[Array, "B M"]], Float[Array, "B L"]]:
    """Return a jitted `(parameters, inputs) -> log-probability of each label`, in nats.

    A log-probability is minus the loss of teacher forcing, summed over the label's tokens. `labels`
    are the tokens of each label, including EOS.
    """
    assert skeleton.mesh is None
    tree = make_prefix_tree(labels)
    longest = int(tree.depths.max()) + 1

    def take_bias(table: RelativePositionBias) -> Float[Array, "1 H N N"]:
        return table(longest)[:, :, tree.depths[:, None], tree.depths[None]]

    @jax.jit
    def scores(parameters: Parameters, inputs: Array) -> Array:
        model = skeleton.merge(parameters)
        decoder = CachedDecoder(model, 1)
        with skeleton.matmul_precision():
            cache = decoder.begin(inputs)
            batch, nodes = inputs.shape[0], len(tree.tokens)
            shared = model.decoder.position_bias
            bias = None if shared is None else take_bias(shared)
            real = jnp.broadcast_to((inputs != PADDING).any(axis=1)[:, None], (batch, nodes))
            ids = jnp.broadcast_to(tree.tokens, (batch, nodes))
            x = model.embedding(ids)
            for block, layer in zip(decoder.blocks, cache.layers, strict=True):
                assert block.cross_attention is not None
                assert block.cross_attention_norm is not None
                y = block.self_attention_norm(x)
                if block.position_bias is not None:
                    bias = take_bias(block.position_bias)
                x = x + block.self_attention(y, y, jnp.asarray(tree.ancestors)[None], bias=bias)
                y = block.cross_attention_norm(x)
                x = x + block.cross_attention.attend(y, *layer.attended_memory(), cache.memory_mask)
                y, _ = block.transform(x, real, ids, groups=1, capacity=DROPLESS)
                x = x + y
            kernel, scale = model.find_logits_kernel()
            x = model.decoder.final_norm(x).astype(jnp.float32) * scale
            log_z = jax.lax.map(
                lambda position: jax.nn.logsumexp(position @ kernel, axis=-1),
                x.swapaxes(0, 1),
                batch_size=max(1, MAX_LOGITS // (batch * kernel.shape[-1])),
            ).T
            node, token = tree.edges.T
            logits = jnp.einsum("bed,de->be", x[:, node], kernel[:, token])
        edge_scores = logits - log_z[:, node]
        return jnp.where(tree.paths >= 0, edge_scores[:, tree.paths], 0.0).sum(axis=-1)

    return scores
