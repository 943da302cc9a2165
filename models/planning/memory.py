"""How much memory a training step takes on each device, from shapes alone.

Parameters and moments are exact: the real shardings are applied to the real shapes. The rest
follows what XLA was seen to keep for the backward pass. docs/reference/tpu.md has the error against
compiled programs.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AbstractMesh

from mswitch.models.capacity import batch_groups, expert_capacity
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.partitioning import AXES
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.state import Skeleton

#: bfloat16 arrays kept for the backward pass of scanned layers. Of the feed-forward width:
#: projections and their product. Of the model's width, for each layer of an encoder's and a
#: decoder's block: the residual stream, and what the norm makes of it. Of all heads: queries, keys,
#: values and their sums, besides keys and values of the inputs.
FEED_FORWARD_KEPT = {"geglu": 3, "relu": 2}
ENCODER_KEPT, DECODER_KEPT = 2 * 2, 3 * 2
ENCODER_PROJECTIONS, DECODER_PROJECTIONS = 4, 6
#: Attention keeps its probabilities in float32 and, for the product with values, in bfloat16.
ATTENTION_KEPT_BYTES = 4 + 2
#: A sparse block keeps its queues, the router's input in float32 before and after jitter, and two
#: float32 values for each token and expert. Read off compiled steps of mSwitch-Base.
QUEUE_KEPT_BYTES = 2
ROUTER_INPUT_KEPT_BYTES = 2 * 4
ROUTER_KEPT_BYTES = 2 * 4
#: At the peak there are float32 arrays of the logits' size, and of a vocabulary's table, gathered
#: from all devices. A TPU's programs have one of each; a GPU's also write the gradients of both.
LOGITS_BYTES = {"tpu": 4, "gpu": 8}
GATHERED_TABLE_BYTES = {"tpu": 4, "gpu": 8}
#: Share of a device's memory that a setting may be predicted to take and still be tried: steps
#: took up to 11 % more than predicted (docs/reference/tpu.md).
USABLE_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class StateMemory:
    """Bytes of a run's parameters and moments at rest, on each device of a mesh."""

    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        """Both."""
        return self.parameters + self.optimizer


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes that each device needs at the step's peak.

    Attributes:
        state: parameters and moments, at rest.
        gradients: of parameters; with microbatches there are sums and a part's own.
        activations: what the forward pass keeps for the backward pass.
        working: what comes on top at the worst moment: the logits of a chunk and the vocabulary's
            table, gathered; or, with remat, what one period recomputes.
    """

    state: StateMemory
    gradients: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state.total + self.gradients + self.activations + self.working


def state_memory(skeleton: Skeleton, train: TrainConfig) -> StateMemory:
    """Bytes of parameters and moments on each device, by the shardings that training uses."""
    mesh = AbstractMesh((train.data_parallel, train.expert_parallel, train.model_parallel), AXES)
    skeleton = dataclasses.replace(skeleton, mesh=mesh)
    state = skeleton.abstract_state(optimizer_of(train))
    return StateMemory(_device_bytes(state.parameters), _device_bytes(state.moments))


def _device_bytes(tree: Any) -> int:
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(tree)
    )


def step_memory(
    model: ModelConfig,
    train: TrainConfig,
    state: StateMemory,
    inputs_length: int,
    targets_length: int,
    platform: Literal["tpu", "gpu"] = "tpu",
) -> StepMemory:
    """Estimate the peak on each device."""
    parts = _parts(model, train, inputs_length, targets_length)
    periods = [_period_kept(model, train, part) for part in parts]
    counts = (model.encoder_layers // model.period, model.decoder_layers // model.period)
    if train.remat == "layers":
        carries = (2 * model.d_model * part.tokens for part in parts)
        kept, recomputed = sum(n * x for n, x in zip(counts, carries, strict=True)), max(periods)
    else:
        kept, recomputed = sum(n * x for n, x in zip(counts, periods, strict=True)), 0.0
        if train.remat == "attention":
            recomputed = max(_attention_weights(model, train, part) for part in parts)
    rows = parts[1].tokens / train.loss_chunks
    values = rows * LOGITS_BYTES[platform] + model.d_model * GATHERED_TABLE_BYTES[platform]
    loss = values * model.vocabulary_size / train.model_parallel
    return StepMemory(
        state=state,
        gradients=state.parameters * (1 if train.microbatches == 1 else 2),
        activations=round(kept),
        working=round(max(loss, recomputed) + 2 * _period_weights(model, train)),
    )


class _Part(NamedTuple):
    """One device's share of one microbatch in a stack.

    `memory_length` is that of the inputs a decoder attends to, 0 in an encoder. `slots` are those
    of its experts, 0 in a dense model.
    """

    sequences: float
    length: int
    memory_length: int
    slots: float

    @property
    def tokens(self) -> float:
        return self.sequences * self.length


def _parts(model: ModelConfig, train: TrainConfig, inputs: int, targets: int) -> list[_Part]:
    """The shares of encoder and decoder, for `inputs` and `targets` positions a sequence."""
    shards = train.data_parallel * train.expert_parallel * train.microbatches
    groups = batch_groups(model, train.batch_size, inputs, targets)
    parts = []
    for length, memory_length, count in zip((inputs, targets), (0, inputs), groups, strict=True):
        positions = train.batch_size * length // count
        slots = 0.0
        if model.sparse:
            capacity = expert_capacity(model.capacity_factor, positions, model.experts)
            slots = count * model.experts * capacity / shards
        parts.append(_Part(train.batch_size / shards, length, memory_length, slots))
    return parts


def _period_kept(model: ModelConfig, train: TrainConfig, part: _Part) -> float:
    """Bytes that one period of a stack keeps for its backward pass."""
    dense = _block_kept(model, train, part, sparse=False)
    if not model.sparse:
        return dense
    return (model.period - 1) * dense + _block_kept(model, train, part, sparse=True)


def _block_kept(model: ModelConfig, train: TrainConfig, part: _Part, *, sparse: bool) -> float:
    width, tokens, decoder = train.model_parallel, part.tokens, part.memory_length > 0
    residual = 2 * model.d_model * tokens * (DECODER_KEPT if decoder else ENCODER_KEPT)
    projections = DECODER_PROJECTIONS if decoder else ENCODER_PROJECTIONS
    projections *= 2 * model.joined_kv / width * tokens
    projections += 2 * model.joined_kv / width * part.sequences * part.memory_length * 2
    attention = _attention_weights(model, train, part) if train.remat != "attention" else 0.0
    feed_forward = 2 * FEED_FORWARD_KEPT[model.activation] * model.d_ff / width
    if not sparse:
        return residual + projections + attention + feed_forward * tokens
    experts = part.slots * (feed_forward + QUEUE_KEPT_BYTES * model.d_model)
    router = tokens * (ROUTER_INPUT_KEPT_BYTES * model.d_model + ROUTER_KEPT_BYTES * model.experts)
    return residual + projections + attention + experts + router


def _attention_weights(model: ModelConfig, train: TrainConfig, part: _Part) -> float:
    """Bytes of the attention weights of one block: self-attention's, and a decoder's own.

    The kernel writes none.
    """
    if train.attention == "kernel":
        return 0.0
    keys, heads = part.length + part.memory_length, model.heads / train.model_parallel
    return part.tokens * keys * heads * ATTENTION_KEPT_BYTES


def _period_weights(model: ModelConfig, train: TrainConfig) -> float:
    """Parameters of one period on one device while it runs, gathered along its batch axes."""
    matrices = 3 if model.activation == "geglu" else 2
    feed_forward = matrices * model.d_model * model.d_ff
    attention = 2 * 4 * model.d_model * model.joined_kv
    values = model.period * attention + feed_forward * (model.period - (1 if model.sparse else 0))
    experts = feed_forward * model.experts / train.expert_parallel
    if model.sparse and model.routing == "token":
        # The router's table is whole along `model` while a device looks rows up.
        table = model.vocabulary_size * model.experts / train.expert_parallel
        experts += table * train.model_parallel
    return (values + experts) / train.model_parallel
