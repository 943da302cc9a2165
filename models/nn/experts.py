"""The Switch layer: route, carry tokens to their experts, compute, carry them back.

Dispatch is by index: each token has its slot's index, and each slot its token's. Both directions
are gathers. A [tokens, experts, capacity] tensor is never made: at usual group sizes its products
would cost more than the experts. On a mesh, each device gathers the tokens of its own groups. Then
`all_to_all` along the `expert` axis takes them to the devices that hold the experts.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.pallas.ops.tpu.megablox import ops as megablox
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mswitch.models.capacity import expert_capacity
from mswitch.models.config import ModelConfig
from mswitch.models.nn.layers import activate, dropout, fan_in_init, parameter, split_key
from mswitch.models.nn.router import Router, RoutingStats, queue_positions
from mswitch.models.nn.sharded_attention import TPUS, find_device_kind
from mswitch.models.partitioning import BATCH_AXES

#: Capacity without a limit: tokens are sorted by expert, and none is dropped.
DROPLESS = 0
#: Minimum and maximum number of rows in a block. Each block loads its expert's kernels again, so
#: blocks below the minimum save no time. Above the maximum, computing takes longer than loading.
MIN_BLOCK, MAX_BLOCK = 8, 128
#: Largest tile of a grouped matrix product on a TPU: rows, and input or output features.
ROW_TILE, WIDTH_TILE = 512, 1024

_TOKENS = PartitionSpec(BATCH_AXES, None, None)
_SLOTS = PartitionSpec(BATCH_AXES, None)
_QUEUES = PartitionSpec(None, "expert", "data", None)
_INTO, _BACK = PartitionSpec(None, None, "model"), PartitionSpec(None, "model", None)


def _take_rows(
    mode: Literal["fill", "clip"],
    x: Float[Array, "N D"],
    index: Int[Array, " M"],
    inverse: Int[Array, " N"],
) -> Float[Array, "M D"]:
    """Take rows `index` of `x`.

    An index out of range gives zeros with `fill`, any row with `clip`. Zeros cost an extra write.
    A row is taken at most once. `inverse` maps rows of `x` to rows of the result, so the gradient
    is a gather by `inverse`, not a scatter.
    """
    del inverse
    return x.at[index].get(mode=mode, fill_value=0)


def _take_forward(mode: Any, x: Array, index: Array, inverse: Array) -> tuple[Array, Any]:
    return _take(mode, x, index, inverse), (index, inverse)


def _take_backward(_: Any, maps: Any, gradient: Array) -> tuple[Array, None, None]:
    index, inverse = maps
    return _take("fill", gradient, inverse, index), None, None


_take = jax.custom_vjp(_take_rows, nondiff_argnums=(0,))
_take.defvjp(_take_forward, _take_backward)


def _find_places(
    slot: Int[Array, "G S"], experts: int, capacity: int
) -> tuple[Int[Array, " G*S"], Int[Array, " E*G*C"]]:
    """Return each token's place in its expert's queue, and the token at each place of all queues.

    A token without a slot gets a place past the last; an empty place gets a token past the last.
    """
    groups, positions = slot.shape
    places, tokens = experts * groups * capacity, groups * positions
    queue = slot // capacity * groups + jnp.arange(groups)[:, None]
    place = jnp.where(slot < experts * capacity, queue * capacity + slot % capacity, places)
    place = place.reshape(-1)
    token = jnp.full(places, tokens, jnp.int32).at[place].set(jnp.arange(tokens), mode="drop")
    return place, token


def dispatch(
    tokens: Float[Array, "G S D"], slot: Int[Array, "G S"], experts: int, capacity: int
) -> Float[Array, "E G*C D"]:
    """Queue tokens at their experts; unused places hold an arbitrary token without a gradient."""
    d_model = tokens.shape[-1]
    place, token = _find_places(slot, experts, capacity)
    queued = _take("clip", tokens.reshape(-1, d_model), token, place)
    return queued.reshape(experts, -1, d_model)


def combine(
    queues: Float[Array, "E G*C D"], slot: Int[Array, "G S"], capacity: int
) -> Float[Array, "G S D"]:
    """Bring the experts' results back to their tokens; return zeros for tokens without a slot."""
    place, token = _find_places(slot, queues.shape[0], capacity)
    y = _take("fill", queues.reshape(-1, queues.shape[-1]), place, token)
    return y.reshape(*slot.shape, -1)


def dispatch_sharded(
    tokens: Array, slot: Array, experts: int, capacity: int, mesh: Mesh | None
) -> Float[Array, "*N E R D"]:
    """Send each token to its expert, over a mesh of devices if there is one.

    The result's first axis is the sender's position on mesh axis `expert`. Each sender has the rows
    of its groups. Experts are sharded over `expert`, rows over `data`.
    """
    if mesh is None:
        return dispatch(tokens, slot, experts, capacity)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(_TOKENS, _SLOTS), out_specs=_QUEUES)
    def local(tokens: Array, slot: Array) -> Array:
        queues = dispatch(tokens, slot, experts, capacity)
        queues = queues.reshape(mesh.shape["expert"], -1, *queues.shape[1:])
        return jax.lax.all_to_all(queues, "expert", split_axis=0, concat_axis=0)

    return local(tokens, slot)


def combine_sharded(
    queues: Float[Array, "*N E R D"], slot: Array, capacity: int, mesh: Mesh | None
) -> Float[Array, "G S D"]:
    """Combine results on a mesh: the inverse of `dispatch_sharded`."""
    if mesh is None:
        return combine(queues, slot, capacity)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(_QUEUES, _SLOTS), out_specs=_TOKENS)
    def local(queues: Array, slot: Array) -> Array:
        queues = jax.lax.all_to_all(queues, "expert", split_axis=0, concat_axis=0)
        return combine(queues.reshape(-1, *queues.shape[2:]), slot, capacity)

    return local(queues, slot)


def choose_block_rows(tokens: int, experts: int) -> int:
    """Return the number of rows in a block of tokens, a power of two.

    Above `MIN_BLOCK` rows, empty rows are at most half as many as tokens.
    """
    fitting = max(tokens // (2 * experts), MIN_BLOCK)
    return min(1 << (fitting.bit_length() - 1), MAX_BLOCK)


def assign_blocks(
    expert: Int[Array, " N"], experts: int, rows: int
) -> tuple[Int[Array, " N"], Int[Array, " blocks"]]:
    """Assign every token a place in a block of its expert, in the order of the tokens.

    However uneven the routing, `N // rows + experts` blocks hold all tokens (N are always enough).
    So the cost is known beforehand. Queues as long as the fullest expert's would cost up to
    `experts` times as much.

    Returns:
        The row of every token (block * rows + place; beyond all blocks if the token's expert
        is -1, for none), and the expert of every block, -1 for a block without tokens.
    """
    tokens = expert.shape[0]
    blocks = min(tokens // rows + experts, tokens)
    (position,), (counts,) = queue_positions(expert[None], experts)
    ends = jnp.cumsum(-(-counts // rows))
    first = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    row = jnp.where(
        expert >= 0, first[expert] * rows + position, blocks * rows + jnp.arange(tokens)
    )
    block_experts = jnp.searchsorted(ends, jnp.arange(blocks), side="right")
    return row, jnp.where(block_experts < experts, block_experts, -1)


def compute_groups(
    tokens: Float[Array, "G S D"],
    expert: Int[Array, "G S"],
    into: list[Float[Array, "E D F"]],
    back: Float[Array, "E F D"],
    *,
    interpret: bool = False,
) -> Float[Array, "G S D"]:
    """Sort tokens by expert, and apply each token's expert with Megablox.

    On a TPU this reads and writes less memory than blocks do. `into` are one or two kernels into
    the hidden layer (`activate`). A token with expert -1 becomes zeros. With `interpret`, JAX
    computes operation by operation, as on CPU.
    """
    flat, count = expert.reshape(-1), expert.size
    tile = min(ROW_TILE, 1 << (count - 1).bit_length())
    rows = -(-count // tile) * tile
    (position,), (counts,) = queue_positions(flat[None], back.shape[0])
    row = jnp.where(flat >= 0, (jnp.cumsum(counts) - counts)[flat] + position, rows)

    def multiply(x: Array, kernel: Array) -> Array:
        tiling = (tile, *(min(width, WIDTH_TILE) for width in kernel.shape[1:]))
        return megablox.gmm(x, kernel, counts, x.dtype, tiling, interpret=interpret)

    (queue,) = dispatch(tokens.reshape(1, count, -1), row[None], 1, rows).astype(back.dtype)
    done = multiply(activate([multiply(queue, kernel) for kernel in into]), back)
    return combine(done[None], row[None], rows).reshape(tokens.shape)


def apply_gate(y: Float[Array, "G S D"], gate: Float[Array, "G S"]) -> Float[Array, "G S D"]:
    """Multiply each token's expert output by its gate, in float32.

    The gate's gradient is a sum over the model's width.
    """
    return (y.astype(jnp.float32) * gate[..., None]).astype(y.dtype)


class SwitchFeedForward(nnx.Module):
    """A router and `experts` feed-forward layers, each of a dense layer's size."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, mesh: Mesh | None, rngs: nnx.Rngs):
        init = fan_in_init(config.init_scale, "truncated_normal", experts=True)
        into = (config.experts, config.d_model, config.d_ff)
        axes = ("expert", "embed", "mlp")
        back = (config.experts, config.d_ff, config.d_model)
        self.router = Router(config, dtype=dtype, mesh=mesh, rngs=rngs)
        self.wi_0 = parameter(rngs, init, into, axes)
        self.wi_1 = parameter(rngs, init, into, axes) if config.activation == "geglu" else None
        self.wo = parameter(rngs, init, back, ("expert", "mlp", "embed"))
        self.config = config
        self.dtype = dtype
        self.mesh = mesh

    def __call__(
        self,
        x: Float[Array, "B L D"],
        real: Bool[Array, "B L"],
        *,
        ids: Int[Array, "B L"] | None = None,
        groups: int,
        capacity: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B L D"], RoutingStats]:
        """Apply the chosen expert to every real token with a slot; return zeros for other tokens.

        Args:
            x: input.
            real: false on padding.
            ids: ids of the tokens that are read, if the router uses them.
            groups: number of parts of the batch, in order, that are routed separately.
            capacity: slots per expert and group; by default from `capacity_factor`. `DROPLESS`:
                as many as needed, not for training. On a mesh each device then computes all
                experts for its own tokens, gathering their kernels layer by layer.
            key: randomness of training.
        """
        tokens = x.reshape(groups, -1, x.shape[-1])
        if capacity is None:
            config = self.config
            capacity = expert_capacity(config.capacity_factor, tokens.shape[1], config.experts)
        jitter_key, dropout_key = split_key(key, 2)
        slots = tokens.shape[1] if capacity == DROPLESS else capacity
        ids = None if ids is None else ids.reshape(groups, -1)
        routing = self.router(tokens, real.reshape(groups, -1), slots, ids=ids, key=jitter_key)
        if capacity == DROPLESS:
            y = self._compute_without_drops(tokens, routing.stats.expert, dropout_key)
            return apply_gate(y, routing.gate).reshape(x.shape), routing.stats
        queues = dispatch_sharded(tokens, routing.slot, self.config.experts, capacity, self.mesh)
        queues = self._compute_experts(queues, capacity, dropout_key)
        y = combine_sharded(queues, routing.slot, capacity, self.mesh)
        return apply_gate(y, routing.gate).reshape(x.shape), routing.stats

    @property
    def _into(self) -> list[nnx.Param]:
        return [self.wi_0] if self.wi_1 is None else [self.wi_0, self.wi_1]

    def _compute_without_drops(
        self,
        tokens: Float[Array, "G S D"],
        expert: Int[Array, "G S"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "G S D"]:
        into = [kernel[...].astype(self.dtype) for kernel in self._into]
        back = self.wo[...].astype(self.dtype)
        grouped = key is None and find_device_kind(self.mesh).startswith(tuple(TPUS))
        compute = compute_groups if grouped else functools.partial(self._compute_blocks, key=key)
        if self.mesh is None:
            return compute(tokens, expert, into, back)
        assert key is None

        @functools.partial(
            jax.shard_map,
            mesh=self.mesh,
            in_specs=(_TOKENS, _SLOTS, _INTO, _BACK),
            out_specs=_TOKENS,
            check_vma=not grouped,  # Megablox does not say over which axes its output varies
        )
        def local(tokens: Array, expert: Array, into: list[Array], back: Array) -> Array:
            # The experts' kernels vary over the mesh axis `model`. Mark tokens in the same way:
            # both branches of `lax.cond` in `_compute_blocks` must have the same type.
            tokens = jax.lax.pcast(tokens, "model", to="varying")
            return jax.lax.psum(compute(tokens, expert, into, back), "model")

        return local(tokens, expert, into, back)

    def _compute_blocks(
        self, tokens: Array, expert: Array, into: list[Array], back: Array, key: PRNGKeyArray | None
    ) -> Float[Array, "G S D"]:
        experts, flat = self.config.experts, expert.reshape(-1)
        rows = choose_block_rows(flat.shape[0], experts)
        row, block_experts = assign_blocks(flat, experts, rows)
        blocks = block_experts.shape[0]
        queues = dispatch(tokens.reshape(1, -1, tokens.shape[-1]), row[None], blocks, rows)

        def apply_expert(x: Array, index: Array, number: Array) -> Array:
            hidden = activate([x @ kernel[index] for kernel in into])
            block_key = None if key is None else jax.random.fold_in(key, number)
            return dropout(hidden, self.config.expert_dropout_rate, block_key) @ back[index]

        def compute_block(inputs: tuple[Array, Array, Array]) -> Array:
            x, index, number = inputs
            return jax.lax.cond(index >= 0, apply_expert, lambda x, *_: x, x, index, number)

        done = jax.lax.map(
            compute_block, (queues.astype(self.dtype), block_experts, jnp.arange(blocks))
        )
        return combine(done, row[None], rows).reshape(tokens.shape)

    def _compute_experts(
        self, queues: Float[Array, "*N E R D"], capacity: int, key: PRNGKeyArray | None
    ) -> Float[Array, "*N E R D"]:
        def project(x: Array, kernel: nnx.Param) -> Array:
            return jnp.einsum("...erx,exy->...ery", x, kernel[...].astype(self.dtype))

        queues = queues.astype(self.dtype)
        hidden = activate([project(queues, kernel) for kernel in self._into])
        return project(self._drop(hidden, capacity, key), self.wo)

    def _drop(
        self, hidden: Float[Array, "*N E R F"], capacity: int, key: PRNGKeyArray | None
    ) -> Float[Array, "*N E R F"]:
        """Order values by expert and group before dropout: all meshes then drop the same values."""
        if key is None or self.config.expert_dropout_rate == 0.0:
            return hidden
        experts, _, width = hidden.shape[-3:]
        senders, shards = (
            1 if self.mesh is None else self.mesh.shape[axis] for axis in ("expert", "data")
        )
        grouped = hidden.reshape(senders, experts, shards, -1, capacity, width)
        ordered = grouped.transpose(1, 2, 0, 3, 4, 5)
        dropped = dropout(
            ordered.reshape(experts, -1, capacity, width),
            self.config.expert_dropout_rate,
            key,
        )
        return dropped.reshape(ordered.shape).transpose(2, 0, 1, 3, 4, 5).reshape(hidden.shape)
