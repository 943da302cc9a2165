"""The parts of every block: parameters with named axes, norms, projections, dropout.

Parameters are float32; products run in the compute type. Kernels are two-dimensional (or have an
expert axis in front), because the optimizer factors a matrix's last two axes.

In scanned layers the backward pass computes norms and activations again. On an accelerator that is
faster than to store and read their inner values. In unrolled layers XLA merges both computations.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mswitch.models.config import ModelConfig

Initializer = Callable[..., Array]

NORM_EPSILON = 1e-6


def fan_in_init(
    scale: float, distribution: Literal["truncated_normal", "normal"], experts: bool = False
) -> Initializer:
    """Make an initializer of variance `scale / fan_in`; `experts` excludes axis 0 from `fan_in`.

    T5X draws feed-forward kernels from `truncated_normal` (resampled beyond two standard
    deviations), attention kernels from `normal`.
    """
    return jax.nn.initializers.variance_scaling(
        scale, "fan_in", distribution, batch_axis=(0,) if experts else ()
    )


def parameter(
    rngs: nnx.Rngs, init: Initializer, shape: Sequence[int], axes: Sequence[str]
) -> nnx.Param:
    """Make a float32 parameter with logical names of dimensions (`mswitch.models.partitioning`)."""
    return nnx.Param(init(rngs.params(), tuple(shape), jnp.float32), axes=tuple(axes))


class Dense(nnx.Module):
    """A projection without bias, computed in `dtype`."""

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str, str],
        *,
        init: Initializer,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.kernel = parameter(rngs, init, shape, axes)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... In"]) -> Float[Array, "... Out"]:
        """Return `x @ kernel`."""
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class RMSNorm(nnx.Module):
    """T5's layer norm: no mean, no bias, statistics in float32 (epsilon 1e-6).

    The normalised value is cast to `dtype`, as in T5X. The scale multiplies it in float32, so that
    the scale's gradient, a sum over all positions, is in float32.
    """

    def __init__(self, d_model: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.scale = parameter(rngs, jax.nn.initializers.ones, (d_model,), ("embed",))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise the last axis."""
        return _normalise(x, self.scale[...], self.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _normalise(
    x: Float[Array, "... D"], scale: Float[Array, " D"], dtype: jnp.dtype
) -> Float[Array, "... D"]:
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normal = (x * jax.lax.rsqrt(mean_square + NORM_EPSILON)).astype(dtype)
    return (normal.astype(jnp.float32) * scale).astype(dtype)


class Embedding(nnx.Module):
    """Token embedding N(0, 1), shared by encoder and decoder; lookups are not scaled."""

    def __init__(self, rows: int, d_model: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(1.0)
        self.table = parameter(rngs, init, (rows, d_model), ("vocab", "embed"))
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Look up the embeddings of tokens.

        The cast comes last, so that a token's gradient, a sum over its positions, is in float32.
        """
        return self.table[...][tokens].astype(self.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False)
def activate(wi: Sequence[Array]) -> Array:
    """Apply GEGLU to two projections (GELU by tanh, as in T5X), or ReLU to one."""
    if len(wi) == 2:
        return jax.nn.gelu(wi[0], approximate=True) * wi[1]
    return jax.nn.relu(wi[0])


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Drop values with probability `rate` and scale up the rest; no key means evaluation.

    The mask is shared along the second last axis, the length (T5X's broadcast_dims).
    """
    if key is None or rate == 0.0:
        return x
    shape = list(x.shape)
    shape[-2] = 1
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def split_key(key: PRNGKeyArray | None, count: int) -> Sequence[PRNGKeyArray | None]:
    """Split a key, or return `count` times None if there is no key."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class FeedForward(nnx.Module):
    """The dense feed-forward layer: GEGLU as in mT5, or ReLU."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        dense = functools.partial(
            Dense, init=fan_in_init(config.init_scale, "truncated_normal"), dtype=dtype, rngs=rngs
        )
        shape, axes = (config.d_model, config.d_ff), ("embed", "mlp")
        self.wi_0 = dense(shape, axes)
        self.wi_1 = dense(shape, axes) if config.activation == "geglu" else None
        self.wo = dense((config.d_ff, config.d_model), ("mlp", "embed"))
        self.dropout_rate = config.dropout_rate

    def __call__(
        self, x: Float[Array, "B L D"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        """Apply the layer to every position."""
        if key is None or self.dropout_rate == 0.0:
            return self.wo(self._compute_hidden(x))
        return jax.lax.platform_dependent(x, key, cpu=self._drop_flat, default=self._drop)

    def _compute_hidden(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        wi = [self.wi_0(x)] if self.wi_1 is None else [self.wi_0(x), self.wi_1(x)]
        return activate(wi)

    def _drop(self, x: Float[Array, "B L D"], key: PRNGKeyArray) -> Float[Array, "B L D"]:
        return self.wo(dropout(self._compute_hidden(x), self.dropout_rate, key))

    def _drop_flat(self, x: Float[Array, "B L D"], key: PRNGKeyArray) -> Float[Array, "B L D"]:
        """Compute `_drop` with matrix products of flattened inputs: [B x L, D], not [B, L, D].

        Otherwise XLA's CPU backend masks the hidden values again, in the transposed copy for the
        gradient of `wo`: a fifth of a training step. On TPUs this would move more bytes.
        """
        hidden = self._compute_hidden(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        dropped = dropout(hidden, self.dropout_rate, key)
        return self.wo(dropped.reshape(-1, dropped.shape[-1])).reshape(x.shape)
