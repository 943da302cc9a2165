"""Attention of T5 1.1: no scaling of the logits, relative position buckets, no biases."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mswitch.models.config import ModelConfig
from mswitch.models.nn.layers import Dense, dropout, fan_in_init, parameter
from mswitch.models.nn.sharded_attention import KernelMask, attend_by_kernel
from mswitch.models.nn.t5_attention import MASKED, diagonal_distances


def relative_position_buckets(
    distance: Int[np.ndarray, "*shape"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """Return the bucket of each distance, query minus key (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each. The others grow logarithmically up to
    `max_distance`; the last holds everything beyond. If bidirectional, half of all buckets are for
    keys after the query. Otherwise these keys fall into bucket 0 (the causal mask hides them).
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = np.where(distance < 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    exact = buckets // 2
    # T5X adds this epsilon. With 32 buckets, it changes no bucket of a distance below 2,000.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    growth = np.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
    logarithmic = np.minimum(exact + growth.astype(np.int32), buckets - 1)
    return (offset + np.where(distance < exact, distance, logarithmic)).astype(np.int32)


class RelativePositionBias(nnx.Module):
    """Table of position biases [heads, buckets], for a stack or for one of its layers."""

    def __init__(self, config: ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs):
        init = jax.nn.initializers.variance_scaling(config.init_scale, "fan_avg", "uniform")
        shape = (config.heads, config.relative_buckets)
        self.table = parameter(rngs, init, shape, ("heads", "buckets"))
        self.bidirectional = bidirectional
        self.max_distance = config.relative_max_distance

    def __call__(
        self, length: int, mask: Array | KernelMask | None = None
    ) -> Float[Array, "1 H L L"] | Float[Array, "H diagonals"]:
        """Return the relative position bias of attention logits, for rows of `length` positions.

        With a `KernelMask`, it has a value per diagonal (query minus key), else per query and key.
        It is float32, because its gradient sums over all logits.
        """
        if isinstance(mask, KernelMask):
            return self.table[...][:, self._bucket(diagonal_distances(length, length))]
        return self.table[...][:, self._bucket_pairs(length)][None]

    def compute_at(self, position: Int[Array, ""], length: int) -> Float[Array, "1 H 1 K"]:
        """Return the position bias between the query at `position` and each of `length` keys.

        JAX may trace `position`.
        """
        buckets = jnp.asarray(self._bucket_pairs(length))[position]
        return self.table[...][None, :, None, buckets]

    def _bucket_pairs(self, length: int) -> Int[np.ndarray, "L L"]:
        return self._bucket(np.subtract.outer(np.arange(length), np.arange(length)))

    def _bucket(self, distance: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        return relative_position_buckets(
            distance,
            bidirectional=self.bidirectional,
            buckets=self.table.shape[-1],
            max_distance=self.max_distance,
        )


class Attention(nnx.Module):
    """Multi-head attention with kernels [d_model, heads * d_kv].

    Logits are not divided by sqrt(d_kv); the query kernel starts smaller instead. The softmax runs
    in float32 (T5X's default is the compute type; bfloat16 rounds the probabilities to 8 bits).
    With `remat`, the backward pass recomputes logits and weights from queries and keys. Their size
    grows with the square of the length.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype, remat: bool = False, rngs: nnx.Rngs
    ):
        into, into_axes = (config.d_model, config.joined_kv), ("embed", "joined_kv")
        back, back_axes = (config.joined_kv, config.d_model), ("joined_kv", "embed")
        kernel = fan_in_init(config.init_scale, "normal")
        query = fan_in_init(config.init_scale / config.d_kv, "normal")
        self.query = Dense(into, into_axes, init=query, dtype=dtype, rngs=rngs)
        self.key = Dense(into, into_axes, init=kernel, dtype=dtype, rngs=rngs)
        self.value = Dense(into, into_axes, init=kernel, dtype=dtype, rngs=rngs)
        self.out = Dense(back, back_axes, init=kernel, dtype=dtype, rngs=rngs)
        self.heads = config.heads
        self.dropout_rate = config.dropout_rate
        self.remat = remat

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        memory: Float[Array, "B K D"],
        mask: Bool[Array, "#B #Q K"] | KernelMask,
        *,
        bias: Float[Array, "1 H Q K"] | Float[Array, "H diagonals"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attend from `x` to the positions of `memory` where `mask` is true.

        With a `KernelMask` the kernel computes attention, and `bias` are diagonals.
        """
        if isinstance(mask, KernelMask):
            values = self._drop(self.value(memory), key)
            q, k = self.query(x), self.key(memory)
            return self.out(attend_by_kernel(q, k, values, mask, bias, heads=self.heads))
        return self.attend(x, *self.project_memory(memory), mask, bias=bias, key=key)

    def project_memory(
        self, memory: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]:
        """Project each position of `memory` to a key and a value, for attention or for a cache."""
        return self._split_heads(self.key(memory)), self._split_heads(self.value(memory))

    def attend(
        self,
        x: Float[Array, "B Q D"],
        k_BxSxHxK: Float[Array, "B S H K"],
        v_BxSxHxK: Float[Array, "B S H K"],
        mask: Bool[Array, "#B #Q S"],
        *,
        bias: Float[Array, "1 H Q S"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attend from `x` to keys and values where `mask` is true."""
        q_BxQxHxK = self._split_heads(self.query(x))
        sum_weighted = functools.partial(_sum_weighted, dropout_rate=self.dropout_rate)
        if self.remat:
            sum_weighted = jax.checkpoint(sum_weighted)
        attended = sum_weighted(q_BxQxHxK, k_BxSxHxK, v_BxSxHxK, mask, bias, key)
        return self.out(attended.reshape(*attended.shape[:2], -1))

    def _drop(
        self, values: Float[Array, "B K J"], key: PRNGKeyArray | None
    ) -> Float[Array, "B K J"]:
        """Apply dropout to values instead of attention weights.

        Both have the same effect, because all queries of a head drop the same keys.
        """
        if key is None or self.dropout_rate == 0.0:
            return values
        per_head = self._split_heads(values)
        rows, keys, heads, _ = per_head.shape
        kept = dropout(jnp.ones((rows, heads, 1, keys)), self.dropout_rate, key)
        scaled = per_head.astype(jnp.float32) * kept[:, :, 0].swapaxes(1, 2)[..., None]
        return scaled.astype(values.dtype).reshape(values.shape)

    def _split_heads(self, y: Float[Array, "B L J"]) -> Float[Array, "B L H K"]:
        return y.reshape(*y.shape[:2], self.heads, -1)


def _sum_weighted(
    q_BxQxHxK: Float[Array, "B Q H K"],
    k_BxSxHxK: Float[Array, "B S H K"],
    v_BxSxHxK: Float[Array, "B S H K"],
    mask: Bool[Array, "#B #Q S"],
    bias: Float[Array, "1 H Q S"] | None,
    key: PRNGKeyArray | None,
    *,
    dropout_rate: float,
) -> Float[Array, "B Q H K"]:
    logits = jnp.einsum("bqhk,bshk->bhqs", q_BxQxHxK, k_BxSxHxK).astype(jnp.float32)
    if bias is not None:
        logits = logits + bias
    logits = jnp.where(mask[:, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BxSxHxK.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", dropout(weights, dropout_rate, key), v_BxSxHxK)
