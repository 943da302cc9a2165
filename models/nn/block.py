"""One block of layers, and a group of blocks that an encoder or a decoder repeats.

Blocks are pre-norm.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mswitch.models.config import ModelConfig
from mswitch.models.nn.attention import Attention, RelativePositionBias
from mswitch.models.nn.experts import SwitchFeedForward
from mswitch.models.nn.layers import FeedForward, RMSNorm, dropout, split_key
from mswitch.models.nn.router import RoutingStats
from mswitch.models.nn.sharded_attention import KernelMask
from mswitch.models.partitioning import constrain_batch


class Block(nnx.Module):
    """Self-attention, cross-attention in a decoder, and a dense or sparse feed-forward layer."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        decoder: bool,
        sparse: bool,
        dtype: jnp.dtype,
        mesh: Mesh | None,
        remat_attention: bool,
        rngs: nnx.Rngs,
    ):
        def attention() -> Attention:
            return Attention(config, dtype=dtype, remat=remat_attention, rngs=rngs)

        def norm() -> RMSNorm:
            return RMSNorm(config.d_model, dtype=dtype, rngs=rngs)

        self.self_attention_norm = norm()
        self.self_attention = attention()
        self.cross_attention_norm = norm() if decoder else None
        self.cross_attention = attention() if decoder else None
        self.feed_forward_norm = norm()
        self.switch = (
            SwitchFeedForward(config, dtype=dtype, mesh=mesh, rngs=rngs) if sparse else None
        )
        self.feed_forward = None if sparse else FeedForward(config, dtype=dtype, rngs=rngs)
        self.position_bias = (
            None
            if config.shared_position_bias
            else RelativePositionBias(config, bidirectional=not decoder, rngs=rngs)
        )
        self.dropout_rate = config.dropout_rate
        self.mesh = mesh

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        real: Bool[Array, "B L"],
        ids: Int[Array, "B L"],
        mask: Bool[Array, "#B #L L"] | KernelMask,
        bias: Float[Array, "1 H L L"] | Float[Array, "H diagonals"] | None,
        memory: Float[Array, "B M D"] | None = None,
        memory_mask: Bool[Array, "B #L M"] | KernelMask | None = None,
        groups: int,
        capacity: int | None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "B L D"], RoutingStats | None]:
        """Apply the block; a dense block has no routing statistics.

        `bias` is shared by all layers; None if each has its own.
        """
        keys = split_key(key, 6)
        if self.position_bias is not None:
            bias = self.position_bias(x.shape[1], mask)
        y = self.self_attention_norm(x)
        y = self.self_attention(y, y, mask, bias=bias, key=keys[0])
        x = x + dropout(y, self.dropout_rate, keys[1])
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            assert memory is not None
            assert memory_mask is not None
            y = self.cross_attention_norm(x)
            y = self.cross_attention(y, memory, memory_mask, key=keys[2])
            x = x + dropout(y, self.dropout_rate, keys[3])
        x = constrain_batch(x, self.mesh)
        y, stats = self.transform(x, real, ids, groups=groups, capacity=capacity, key=keys[4])
        x = constrain_batch(x + dropout(y, self.dropout_rate, keys[5]), self.mesh)
        return x, stats

    def transform(
        self,
        x: Float[Array, "B L D"],
        real: Bool[Array, "B L"],
        ids: Int[Array, "B L"],
        *,
        groups: int,
        capacity: int | None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B L D"], RoutingStats | None]:
        """Compute what the feed-forward layer, dense or sparse, adds to `x`."""
        y = self.feed_forward_norm(x)
        if self.switch is not None:
            return self.switch(y, real, ids=ids, groups=groups, capacity=capacity, key=key)
        assert self.feed_forward is not None
        return self.feed_forward(y, key=key), None


class Period(nnx.Module):
    """A group of consecutive blocks, which an encoder or a decoder repeats.

    At most the last block is sparse. `how` are further arguments of `Block`.
    """

    def __init__(self, config: ModelConfig, **how: Any):
        last = config.period - 1
        self.blocks = nnx.List(
            [
                Block(config, sparse=config.sparse and index == last, **how)
                for index in range(config.period)
            ]
        )

    def __call__(self, x: Array, *, key: PRNGKeyArray | None, **inputs: Any):
        """Apply all blocks; return the output and the sparse block's statistics."""
        stats = None
        for block, block_key in zip(self.blocks, split_key(key, len(self.blocks)), strict=True):
            x, stats = block(x, key=block_key, **inputs)
        return x, stats
