"""Top-1 routing: choose each token's expert and slot (Switch Transformers, section 2).

The router runs in float32 inside bfloat16 training (selective precision, section 2.4), unless
configured for bfloat16, to see its effect. Statistics are always float32. Padding is never routed
and is in no statistic. It counts only in the group size S that sets the capacity
(`mswitch.models.capacity`). Nothing here depends on the number of devices.

On a TPU a float32 product is several bfloat16 passes. Three (`high`) route like six (`highest`) in
half the time. That matters: the router of `switch-c` multiplies as much as its experts
(docs/decisions/0026). Gradients choose no expert, so one pass is enough for them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mswitch.models.config import BalanceScope, ModelConfig, RouterInit
from mswitch.models.nn.layers import Initializer, fan_in_init, parameter
from mswitch.models.nn.losses import compute_balance_loss, compute_router_z_loss
from mswitch.models.partitioning import BATCH_AXES

#: Initialisations of a router's kernel in Flaxformer and in the paper. init_scale changes neither.
ROUTER_INITS: dict[RouterInit, Initializer] = {
    "flaxformer": jax.nn.initializers.normal(0.02),
    "paper": fan_in_init(0.1, "truncated_normal"),
}


_BLOCK = 64
#: Probability that a new router of kind `token` gives to the expert that `hash_to_expert` returns.
_FIRST_GATE = 0.7


class RoutingStats(NamedTuple):
    """Statistics of one sparse layer; averages are over its routed (real) tokens.

    Attributes:
        balance_loss: experts * sum(f_i * P_i), 1 when even (equation 4): a mean over groups, or
            with scope `global`, f and P over all tokens.
        z_loss: mean square of log-sum-exp of the router's logits.
        drop_fraction: share of tokens without a slot.
        entropy: mean entropy of the router's distribution, in nats.
        confidence: mean probability of the chosen expert.
        load: share of tokens assigned to each expert, before capacity.
        peak: largest number of tokens that a group assigned to one expert.
        dropped: number of tokens without a slot.
        expert: the expert of every position, -1 for padding.
    """

    balance_loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    drop_fraction: Float[Array, ""]
    entropy: Float[Array, ""]
    confidence: Float[Array, ""]
    load: Float[Array, " E"]
    peak: Int[Array, ""]
    dropped: Int[Array, ""]
    expert: Int[Array, "G S"]


class Routing(NamedTuple):
    """Destinations of the tokens of G groups, each of S positions.

    Attributes:
        slot: expert * capacity + position in the expert's queue; for a token that is dropped or
            padding, a number of its own from experts * capacity upwards.
        gate: the chosen expert's probability, float32.
        stats: see `RoutingStats`.
    """

    slot: Int[Array, "G S"]
    gate: Float[Array, "G S"]
    stats: RoutingStats


class Router(nnx.Module):
    """Chooses an expert by the argmax of linear logits, or by a hash of the token's id.

    A `token` router adds the token's row of a learned table to the logits. It first routes like the
    hash: its linear map begins with zeros, and its table with the hash's choices.

    Args:
        dtype: compute type of the rest of the model; if float32, routing is exact too.
        mesh: the devices, over whose `expert` axis the table's columns are sharded.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype, mesh: Mesh | None = None, rngs: nnx.Rngs
    ):
        by_token = config.routing == "token"
        init = jax.nn.initializers.zeros if by_token else ROUTER_INITS[config.router_init]
        shape, rows = (config.d_model, config.experts), (config.vocabulary_size, config.experts)
        self.kernel = (
            parameter(rngs, init, shape, ("embed", "router_experts"))
            if config.routing != "hash"
            else None
        )
        self.table = (
            parameter(rngs, _prefer_hash, rows, ("vocab", "router_columns")) if by_token else None
        )
        self.mesh = mesh
        self.experts = config.experts
        self.jitter = config.router_jitter
        self.dtype = jnp.dtype(config.router_dtype)
        self.exact = dtype == jnp.float32
        self.balance_scope: BalanceScope = config.balance_scope

    def __call__(
        self,
        x: Float[Array, "G S D"],
        real: Bool[Array, "G S"],
        capacity: int,
        *,
        ids: Int[Array, "G S"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Routing:
        """Route every real token; earlier tokens of a group take an expert's slots first.

        `ids` are the ids of the tokens that are read; a hash and a table need them. With a key
        (training), the input is multiplied by noise from 1 -+ jitter (appendix C).
        """
        if self.kernel is None:
            assert ids is not None
            choice = _choose_by_hash(ids, self.experts)
            return _take_slots(choice, real, capacity, self.balance_scope)
        x = _round(x.astype(self.dtype))
        if key is not None and self.jitter > 0.0:
            least, most = 1.0 - self.jitter, 1.0 + self.jitter
            x = _round(x * jax.random.uniform(key, x.shape, self.dtype, least, most))
        kernel = _round(self.kernel[...].astype(self.dtype))
        if self.exact:
            logits = jnp.einsum("gsd,de->gse", x, kernel, precision="highest")
        else:
            logits = _project(x, kernel)
        if self.table is not None:
            assert ids is not None
            logits += look_up(self.table[...], ids, self.mesh).astype(self.dtype)
        return assign(logits, real, capacity, self.balance_scope)


@jax.custom_vjp
def _project(x: Float[Array, "G S D"], kernel: Float[Array, "D E"]) -> Float[Array, "G S E"]:
    """Multiply in three bfloat16 passes; compute gradients in one pass, a TPU's default."""
    return jnp.einsum("gsd,de->gse", x, kernel, precision="high")


def _project_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _project(x, kernel), (x, kernel)


def _project_backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    _, pull = jax.vjp(functools.partial(jnp.einsum, "gsd,de->gse"), *inputs)
    return pull(gradient)


_project.defvjp(_project_forward, _project_backward)


def hash_to_expert(ids: Int[Array, "*S"], experts: int) -> Int[Array, "*S"]:
    """Return the expert of a token's id by Fibonacci hashing (Knuth, volume 3, section 6.4)."""
    return ((ids.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)) >> 16).astype(jnp.int32) % experts


def _prefer_hash(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    del key
    tokens, experts = shape
    chosen = jax.nn.one_hot(hash_to_expert(jnp.arange(tokens), experts), experts, dtype=dtype)
    return chosen * math.log(_FIRST_GATE / (1 - _FIRST_GATE) * max(experts - 1, 1))


def look_up(
    table: Float[Array, "V E"], ids: Int[Array, "G S"], mesh: Mesh | None
) -> Float[Array, "G S E"]:
    """Return the rows of a table at the indices `ids`.

    Groups of `ids` are sharded over data x expert, the table's columns over `expert`. Each device
    looks up its columns for the tokens of all devices along `expert`. Then `all_to_all` brings
    every token its whole row. The table itself is never gathered along that axis.
    """
    # In distillation, a teacher's number of experts may not be divisible by the mesh axis `expert`.
    if mesh is None or table.shape[1] % mesh.shape["expert"]:
        return table[ids]

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(None, "expert"), PartitionSpec(BATCH_AXES, None)),
        out_specs=PartitionSpec(BATCH_AXES, None, None),
    )
    def local(table: Array, ids: Array) -> Array:
        columns = table[jax.lax.all_gather(ids, "expert", tiled=True)]
        return jax.lax.all_to_all(columns, "expert", split_axis=0, concat_axis=2, tiled=True)

    return local(table, ids)


def _round(x: Array) -> Array:
    """Round values of type bfloat16, because XLA keeps more digits in fused operations."""
    if x.dtype != jnp.bfloat16:
        return x
    bits = jnp.finfo(jnp.bfloat16)
    return jax.lax.reduce_precision(x.astype(jnp.float32), bits.nexp, bits.nmant).astype(x.dtype)


class _Choice(NamedTuple):
    expert: Int[Array, "G S"]
    gate: Float[Array, "G S"]
    probabilities: Float[Array, "G S E"]
    entropy: Float[Array, "G S"]
    log_z: Float[Array, "G S"]


def _choose_by_hash(ids: Int[Array, "G S"], experts: int) -> _Choice:
    expert = hash_to_expert(ids, experts)
    certain = jax.nn.one_hot(expert, experts)
    zeros = jnp.zeros(ids.shape)
    return _Choice(expert, jnp.ones(ids.shape), certain, entropy=zeros, log_z=zeros)


def _choose_likeliest(logits: Float[Array, "G S E"]) -> _Choice:
    logits = _round(logits)
    probabilities = _round(jax.nn.softmax(logits, axis=-1)).astype(jnp.float32)
    expert = jnp.argmax(logits, axis=-1)
    logits = logits.astype(jnp.float32)
    gate = jnp.take_along_axis(probabilities, expert[..., None], axis=-1)[..., 0]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    entropy = log_z - (probabilities * logits).sum(axis=-1)
    return _Choice(expert, gate, probabilities, entropy, log_z)


def assign(
    logits: Float[Array, "G S E"],
    real: Bool[Array, "G S"],
    capacity: int,
    balance_scope: BalanceScope = "group",
) -> Routing:
    """Turn router logits into slots, gates and statistics."""
    return _take_slots(_choose_likeliest(logits), real, capacity, balance_scope)


def _take_slots(
    choice: _Choice, real: Bool[Array, "G S"], capacity: int, balance_scope: BalanceScope
) -> Routing:
    experts, positions = choice.probabilities.shape[-1], real.shape[1]
    expert = jnp.where(real, choice.expert, -1)
    position, counts = queue_positions(expert, experts)
    kept = real & (position < capacity)
    overflow = experts * capacity + jnp.arange(positions)
    slot = jnp.where(kept, expert * capacity + position, overflow)
    choice = choice._replace(expert=expert)
    return Routing(slot, choice.gate, _summarise(choice, counts, real, kept, balance_scope))


def queue_positions(
    expert: Int[Array, "G S"], experts: int
) -> tuple[Int[Array, "G S"], Int[Array, "G E"]]:
    """Return each token's place in the queue of its group and expert, and each queue's length.

    Tokens are counted in blocks. A running sum for every token and expert would be written and read
    as often as the logits. An expert of -1 is not counted.
    """
    groups, positions = expert.shape
    padded = jnp.pad(expert, ((0, 0), (0, -positions % _BLOCK)), constant_values=-1)
    blocks = padded.reshape(groups, -1, _BLOCK)
    same = blocks[..., :, None] == blocks[..., None, :]
    in_block = jnp.tril(same, -1).sum(axis=-1, dtype=jnp.int32)
    counts = jax.nn.one_hot(blocks, experts, dtype=jnp.int32).sum(axis=2)
    before = jnp.cumsum(counts, axis=1) - counts
    position = in_block + jnp.take_along_axis(before, jnp.maximum(blocks, 0), axis=2)
    return position.reshape(groups, -1)[:, :positions], counts.sum(axis=1)


def _summarise(
    choice: _Choice, counts: Array, real: Array, kept: Array, balance_scope: BalanceScope
) -> RoutingStats:
    weight = real.astype(jnp.float32)
    total = jnp.maximum(weight.sum(), 1.0)
    mass = jnp.einsum("gse,gs->ge", choice.probabilities, weight)
    dropped = (real & ~kept).sum()
    return RoutingStats(
        balance_loss=compute_balance_loss(counts, mass, weight.sum(axis=1), balance_scope),
        z_loss=compute_router_z_loss(choice.log_z, weight),
        drop_fraction=dropped / total,
        entropy=(choice.entropy * weight).sum() / total,
        confidence=(choice.gate * weight).sum() / total,
        load=counts.sum(axis=0) / total,
        peak=counts.max(),
        dropped=dropped,
        expert=choice.expert,
    )
