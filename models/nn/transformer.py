"""The encoder-decoder: mT5 if every feed-forward layer is dense, mSwitch if some are sparse.

A compiled loop over periods of blocks needs their parameters in one array with a leading `layers`
axis. Unrolled periods have separate parameters: to slice such an array, and to join gradients,
would copy all of both in every step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mswitch.models.capacity import WHOLE_BATCH, Groups
from mswitch.models.config import AttentionChoice, ModelConfig, TrainConfig
from mswitch.models.nn.attention import RelativePositionBias
from mswitch.models.nn.block import Period
from mswitch.models.nn.layers import Dense, Embedding, RMSNorm, dropout, fan_in_init, split_key
from mswitch.models.nn.router import RoutingStats
from mswitch.models.nn.sharded_attention import KernelMask, choose_kernel, find_device_kind
from mswitch.models.partitioning import constrain_batch

PADDING = 0


def slice_periods(stacked: Period, count: int) -> list[Period]:
    """Return `count` separate modules `Period` from one module with stacked parameters."""
    graph, parameters = nnx.split(stacked)
    return [
        nnx.merge(graph, jax.tree.map(lambda values, i=index: values[i], parameters))
        for index in range(count)
    ]


class Stack(nnx.Module):
    """An encoder or a decoder: groups of blocks (`Period`), shared position bias, final norm.

    The same seed gives the same values, whether layers are scanned or not.
    """

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        *,
        decoder: bool,
        mesh: Mesh | None,
        rngs: nnx.Rngs,
    ):
        layers = config.decoder_layers if decoder else config.encoder_layers
        self.count = layers // config.period
        dtype = jnp.dtype(train.dtype)
        how: dict[str, Any] = {"decoder": decoder, "dtype": dtype, "mesh": mesh}
        how["remat_attention"] = train.remat == "attention"

        @nnx.split_rngs(splits=self.count)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create(rngs: nnx.Rngs) -> Period:
            return Period(config, rngs=rngs, **how)

        stacked = create(rngs)
        self.periods = (
            stacked if train.scan_layers else nnx.List(slice_periods(stacked, self.count))
        )
        self.position_bias = (
            RelativePositionBias(config, bidirectional=not decoder, rngs=rngs)
            if config.shared_position_bias
            else None
        )
        self.final_norm = RMSNorm(config.d_model, dtype=dtype, rngs=rngs)
        self.dropout_rate = config.dropout_rate
        self.remat_layers = train.remat == "layers"

    @property
    def unrolled(self) -> Sequence[Period]:
        """The groups of blocks (`Period`) as separate modules, even if layers are scanned."""
        if isinstance(self.periods, Period):
            return slice_periods(self.periods, self.count)
        return self.periods

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        mask: Bool[Array, "#B #L L"] | KernelMask,
        key: PRNGKeyArray | None,
        **inputs: Any,
    ) -> tuple[Float[Array, "B L D"], RoutingStats | None]:
        """Apply all blocks; statistics have a leading axis of sparse layers.

        The other inputs are those of `Block`.
        """
        keys = split_key(key, 3)
        length = x.shape[1]
        bias = None if self.position_bias is None else self.position_bias(length, mask)

        def apply(period, x, key):
            return period(x, key=key, mask=mask, bias=bias, **inputs)

        x = dropout(x, self.dropout_rate, keys[0])
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], self.count)
        x, stats = self._apply_periods(apply, x, layer_keys)
        return dropout(self.final_norm(x), self.dropout_rate, keys[2]), stats

    def _apply_periods(
        self, apply: Callable[..., Any], x: Array, keys: Array | None
    ) -> tuple[Array, RoutingStats | None]:
        """Apply a function to all groups of blocks in turn; stack the routing statistics.

        `apply(period, x, key)` returns x and statistics.
        """

        def apply_split(graph, x, inputs):
            parameters, key = inputs
            return apply(nnx.merge(graph, parameters), x, key)

        if self.remat_layers:
            apply_split = jax.checkpoint(apply_split, static_argnums=0)
        if isinstance(self.periods, Period):
            graph, parameters = nnx.split(self.periods)
            return jax.lax.scan(functools.partial(apply_split, graph), x, (parameters, keys))
        stats = []
        for index, period in enumerate(self.periods):
            graph, parameters = nnx.split(period)
            key = None if keys is None else keys[index]
            x, period_stats = apply_split(graph, x, (parameters, key))
            stats.append(period_stats)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *stats)


class Transformer(nnx.Module):
    """mT5 or mSwitch: one embedding, an encoder, a decoder, and logits.

    Args:
        train: its compute type, `scan_layers`, `remat` and `attention` count.
        mesh: devices to shard over, or None for one.
    """

    def __init__(
        self, config: ModelConfig, train: TrainConfig, *, mesh: Mesh | None, rngs: nnx.Rngs
    ):
        self.config = config
        self.mesh = mesh
        self.attention: AttentionChoice = train.attention
        rows, d_model = config.vocabulary_size, config.d_model
        self.embedding = Embedding(rows, d_model, dtype=jnp.dtype(train.dtype), rngs=rngs)
        self.encoder = Stack(config, train, decoder=False, mesh=mesh, rngs=rngs)
        self.decoder = Stack(config, train, decoder=True, mesh=mesh, rngs=rngs)
        self.logits = (
            None
            if config.tied_embeddings
            else Dense(
                (d_model, rows),
                ("embed", "vocab"),
                init=fan_in_init(config.init_scale, "truncated_normal"),
                dtype=jnp.dtype(jnp.float32),
                rngs=rngs,
            )
        )

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "B L"],
        decoder_input_tokens: Int[Array, "B T"],
        decoder_target_tokens: Int[Array, "B T"],
        *,
        encoder_segment_ids: Int[Array, "B L"] | None = None,
        decoder_segment_ids: Int[Array, "B T"] | None = None,
        groups: Groups = WHOLE_BATCH,
        capacities: tuple[int, int] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[RoutingStats, RoutingStats] | None]:
        """Run encoder and decoder, but not the logits: `mswitch.models.nn.losses` computes them.

        Args:
            encoder_input_tokens: input, 0 is padding.
            decoder_input_tokens: targets shifted right, beginning with 0.
            decoder_target_tokens: targets; padding is not routed.
            encoder_segment_ids: in packed rows, the example of each input, from 1; 0 is padding.
            decoder_segment_ids: the same for targets; examples do not attend to each other.
            groups: routing groups in the batch, for each stack.
            capacities: slots per expert and group of encoder and decoder layers; by default
                from the capacity factor.
            key: randomness of training (jitter, dropout); None evaluates.

        Returns:
            The decoder's output, and routing statistics of the encoder's and the decoder's
            sparse layers (None for a dense model).
        """
        keys = split_key(key, 2)
        encoder_capacity, decoder_capacity = capacities or (None, None)
        source_real = encoder_input_tokens != PADDING
        target_real = decoder_target_tokens != PADDING
        if encoder_segment_ids is not None and decoder_segment_ids is not None:
            target, source, packed = decoder_segment_ids, encoder_segment_ids, True
            seen = target
        else:
            target, source, packed = target_real, source_real, False
            # Padding comes last, so the causal mask hides it from real positions. The output of
            # padding is never read.
            seen = jnp.ones((1, target.shape[1]), bool)
        target_mask = self._make_mask(target, seen, packed=packed, causal=True)
        memory_mask = self._make_mask(target, source, packed=packed)
        memory, encoder_stats = self.encode(
            encoder_input_tokens,
            segment_ids=encoder_segment_ids,
            groups=groups.encoder,
            capacity=encoder_capacity,
            key=keys[0],
        )
        x, decoder_stats = self.decoder(
            constrain_batch(self.embedding(decoder_input_tokens), self.mesh),
            real=target_real,
            ids=decoder_input_tokens,
            mask=target_mask,
            memory=memory,
            memory_mask=memory_mask,
            groups=groups.decoder,
            capacity=decoder_capacity,
            key=keys[1],
        )
        if encoder_stats is None or decoder_stats is None:
            return x, None
        return x, (encoder_stats, decoder_stats)

    def encode(
        self,
        tokens: Int[Array, "B L"],
        *,
        segment_ids: Int[Array, "B L"] | None = None,
        groups: int = 1,
        capacity: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B L D"], RoutingStats | None]:
        """Run the encoder; arguments and statistics as in `__call__`."""
        real = tokens != PADDING
        segments = real if segment_ids is None else segment_ids
        return self.encoder(
            constrain_batch(self.embedding(tokens), self.mesh),
            real=real,
            ids=tokens,
            mask=self._make_mask(segments, segments, packed=segment_ids is not None),
            groups=groups,
            capacity=capacity,
            key=key,
        )

    def find_logits_kernel(self) -> tuple[Float[Array, "D V"], float]:
        """Return `kernel` and `scale`; logits are `(x * scale) @ kernel` for decoder output x."""
        if self.logits is None:
            return self.embedding.table[...].T, self.config.d_model**-0.5
        return self.logits.kernel[...], 1.0

    def _make_mask(
        self,
        queries: Int[Array, "B Q"] | Bool[Array, "B Q"],
        keys: Int[Array, "#B K"] | Bool[Array, "#B K"],
        *,
        packed: bool,
        causal: bool = False,
    ) -> Bool[Array, "#B #Q K"] | KernelMask:
        """Make a mask: a query sees only real keys; in packed rows, only keys of its example.

        Padding of packed rows sees only padding, and its output is never read.
        """
        lengths = (queries.shape[1], keys.shape[1])
        kind = find_device_kind(self.mesh)
        options = choose_kernel(self.attention, self.config.d_kv, lengths, kind)
        if options is not None:
            keys = jnp.broadcast_to(keys, (queries.shape[0], lengths[1]))
            return KernelMask(keys, queries if packed else None, causal, options, self.mesh)
        mask = queries[:, :, None] == keys[:, None, :] if packed else keys[:, None, :]
        return mask & jnp.tril(jnp.ones(lengths, bool))[None] if causal else mask
