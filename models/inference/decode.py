"""Autoregressive decoding, a position at a time, with cached keys and values of earlier positions.

The encoder runs once, and the keys and values for cross-attention are computed once. Then a
position costs only its own products and a read of the cache. Routers drop no token, so the
continuation of a text does not depend on the rest of its batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mswitch.models.nn.block import Block
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.transformer import PADDING, Transformer
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.pipelines.special_tokens import EOS_ID


class Outputs(NamedTuple):
    """Outputs of a decoder.

    Attributes:
        tokens: up to EOS, then 0.
        scores: the sum of the log-probabilities of an output's tokens, in nats.
    """

    tokens: Int[Array, "B T"]
    scores: Float[Array, " B"]


Decode = Callable[[Parameters, Int[Array, "B M"]], Outputs]


class LayerCache(NamedTuple):
    """Keys and values of a decoder layer, for T output positions and M input positions.

    Positions are last, since products of a single query read them in that order. Otherwise each
    step would first copy the whole cache.
    """

    keys: Float[Array, "B H K T"]
    values: Float[Array, "B H K T"]
    memory_keys: Float[Array, "B H K M"]
    memory_values: Float[Array, "B H K M"]

    def attended(self) -> tuple[Float[Array, "B T H K"], Float[Array, "B T H K"]]:
        """Return cached keys and values of output tokens, with positions as the second axis."""
        return _positions_second(self.keys), _positions_second(self.values)

    def attended_memory(self) -> tuple[Float[Array, "B M H K"], Float[Array, "B M H K"]]:
        """Return the input's keys and values, with positions as the second axis."""
        return _positions_second(self.memory_keys), _positions_second(self.memory_values)


def _positions_second(x: Float[Array, "B H K S"]) -> Float[Array, "B S H K"]:
    return jnp.moveaxis(x, -1, 1)


def _positions_last(x: Float[Array, "B S H K"]) -> Float[Array, "B H K S"]:
    return jnp.moveaxis(x, 1, -1)


class Cache(NamedTuple):
    """The caches of all layers, and a mask of the input's real positions."""

    layers: tuple[LayerCache, ...]
    memory_mask: Bool[Array, "B 1 M"]


class CachedDecoder:
    """A model's decoder for single positions, for use inside a compiled function.

    Scanned layers are sliced out of their stack once, outside the loop over positions. Inside it,
    each position would copy every layer's parameters before reading them.

    Args:
        model: a model without a mesh.
        length: most positions of an output.
    """

    def __init__(self, model: Transformer, length: int):
        self.model, self.length = model, length
        periods = model.decoder.unrolled
        self.blocks: list[Block] = [block for period in periods for block in period.blocks]

    def begin(self, inputs: Int[Array, "B M"]) -> Cache:
        """Encode the inputs, where 0 is padding, and make a cache without outputs."""
        config = self.model.config
        memory, _ = self.model.encode(inputs, capacity=DROPLESS)
        empty = jnp.zeros((inputs.shape[0], config.heads, config.d_kv, self.length), memory.dtype)
        layers = []
        for block in self.blocks:
            assert block.cross_attention is not None
            memory_caches = map(_positions_last, block.cross_attention.project_memory(memory))
            # Without the barrier, XLA moves the transposition into the loop over positions.
            memory_caches = jax.lax.optimization_barrier(tuple(memory_caches))
            layers.append(LayerCache(empty, empty, *memory_caches))
        return Cache(tuple(layers), (inputs != PADDING)[:, None, :])

    def reorder(self, cache: Cache, rows: Int[Array, " B"]) -> Cache:
        """Select rows of the cached outputs: row n of the result is row `rows[n]` of `cache`.

        Both rows must be outputs of one input.
        """
        layers = [
            layer._replace(keys=layer.keys[rows], values=layer.values[rows])
            for layer in cache.layers
        ]
        return cache._replace(layers=tuple(layers))

    def step(
        self,
        cache: Cache,
        tokens: Int[Array, " B"],
        position: Int[Array, ""],
        real: Bool[Array, " B"],
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Add one position to every output; return the next position's logits, in float32.

        Args:
            cache: cache of the positions before.
            tokens: 0 at position 0, then the last token.
            position: number of the position, from 0.
            real: false for an output that has ended, which is not routed.
        """
        shared = self.model.decoder.position_bias
        bias = None if shared is None else shared.compute_at(position, self.length)
        mask = (jnp.arange(self.length) <= position)[None, None]
        x = self.model.embedding(tokens[:, None])
        layers = []
        for block, before in zip(self.blocks, cache.layers, strict=True):
            assert block.cross_attention is not None
            assert block.cross_attention_norm is not None
            y = block.self_attention_norm(x)
            if block.position_bias is not None:
                bias = block.position_bias.compute_at(position, self.length)
            new = block.self_attention.project_memory(y)
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, _positions_last(added), position, axis=-1)
                for old, added in zip((before.keys, before.values), new, strict=True)
            )
            layer = before._replace(keys=keys, values=values)
            x = x + block.self_attention.attend(y, *layer.attended(), mask, bias=bias)
            y = block.cross_attention_norm(x)
            x = x + block.cross_attention.attend(y, *layer.attended_memory(), cache.memory_mask)
            y, _ = block.transform(x, real[:, None], tokens[:, None], groups=1, capacity=DROPLESS)
            x = x + y
            layers.append(layer)
        x = self.model.decoder.final_norm(x)[:, 0]
        kernel, scale = self.model.find_logits_kernel()
        return (x.astype(jnp.float32) * scale) @ kernel, cache._replace(layers=tuple(layers))


def make_decoder(skeleton: Skeleton, length: int, *, pieces: int | None = None) -> Decode:
    """Return a jitted `(parameters, inputs) -> outputs` that takes the likeliest token each time.

    Scores are over all rows of the vocabulary.

    An output ends with EOS or at `length` positions, and is padded with 0. The loop ends when all
    have ended. A row of only padding has an empty output. Padding is never chosen.

    Args:
        skeleton: a model without a mesh.
        length: most positions of an output.
        pieces: ids of the vocabulary; rows of the model beyond them are never chosen.
    """
    assert skeleton.mesh is None
    choosable = mask_choosable(skeleton.config.vocabulary_size, pieces)

    @jax.jit
    def decode(parameters: Parameters, inputs: Array) -> Outputs:
        decoder = CachedDecoder(skeleton.merge(parameters), length)
        batch = inputs.shape[0]
        outputs = jnp.full((batch, length), PADDING, jnp.int32)
        tokens = jnp.full(batch, PADDING, jnp.int32)
        running = (inputs != PADDING).any(axis=1)

        scores = jnp.zeros(batch, jnp.float32)

        def unfinished(state: tuple[Array, Array, Array, Array, Array, Cache]) -> Array:
            position, _, _, _, running, _ = state
            return (position < length) & running.any()

        def extend(state: tuple[Array, Array, Array, Array, Array, Cache]):
            position, outputs, scores, tokens, running, cache = state
            logits, cache = decoder.step(cache, tokens, position, running)
            chosen = find_likeliest(jnp.where(choosable, logits, -jnp.inf))
            score = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
            score = score - jax.nn.logsumexp(logits, axis=-1)
            scores = scores + jnp.where(running, score, 0.0)
            tokens = jnp.where(running, chosen, PADDING)
            outputs = jax.lax.dynamic_update_slice_in_dim(
                outputs, tokens[:, None], position, axis=1
            )
            return position + 1, outputs, scores, tokens, running & (tokens != EOS_ID), cache

        with skeleton.matmul_precision():
            start, cache = jnp.zeros((), jnp.int32), decoder.begin(inputs)
            first = (start, outputs, scores, tokens, running, cache)
            return Outputs(*jax.lax.while_loop(unfinished, extend, first)[1:3])

    return decode


def find_likeliest(logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Return the id of the first largest logit in each row, like `argmax`.

    XLA's CPU backend does not vectorise `argmax`: it takes ten times as long, a fifth of
    mT5-Small's decoding.
    """
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    largest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(largest, ids, ids[-1]).min(axis=-1)


def mask_choosable(rows: int, pieces: int | None) -> Bool[Array, " V"]:
    """Return a mask of the ids that may be chosen: all pieces except padding."""
    ids = jnp.arange(rows)
    return (ids != PADDING) & (ids < (pieces or rows))
