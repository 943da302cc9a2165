"""Predict a training step's memory on each device, only from shapes.

Parameters and moments are exact: the real shardings are applied to the real shapes. The rest is
modelled on the arrays that XLA was observed to keep for the backward pass.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AbstractMesh

from mswitch.models.capacity import expert_capacity, group_batch
from mswitch.models.config import FUSED_ATTENTION, ModelConfig, TrainConfig
from mswitch.models.partitioning import AXES
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Skeleton

#: Number of bfloat16 arrays of width d_ff that scanned blocks keep for the backward pass: inputs
#: and output of the activation.
FEED_FORWARD_KEPT = {"geglu": 3, "relu": 2}
#: Number of bfloat16 arrays of width d_model that a block keeps. Each layer of a block keeps the
#: residual stream and its normalised values.
ENCODER_KEPT, DECODER_KEPT = 2 * 2, 3 * 2
#: Number of bfloat16 arrays, as wide as all heads together, that a block keeps: queries, keys,
#: values and outputs of attention. Keys and values of cross-attention are counted elsewhere.
ENCODER_PROJECTIONS, DECODER_PROJECTIONS = 4, 6
#: Bytes kept per attention weight: probabilities in float32 and, for the product with values, in
#: bfloat16.
ATTENTION_KEPT_BYTES = 4 + 2
#: Bytes kept by a sparse block per value in its experts' queues. This number and the next two were
#: read from compiled steps of mSwitch-Base.
QUEUE_KEPT_BYTES = 2
#: Bytes kept per value of the router's input, in float32 before and after jitter.
ROUTER_INPUT_KEPT_BYTES = 2 * 4
#: Bytes kept by a sparse block per pair of a token and an expert: two float32 values.
ROUTER_KEPT_BYTES = 2 * 4
#: Bytes of memory at the peak for each value of the logits. Programs for TPUs hold the logits once,
#: in float32. Programs for GPUs also write their gradient.
LOGITS_BYTES = {"tpu": 4, "gpu": 8}
#: Bytes of memory at the peak for each value of the embedding table, which each device gathers from
#: all devices. GPUs also hold its gradient.
GATHERED_TABLE_BYTES = {"tpu": 4, "gpu": 8}
#: Largest predicted share of a device's memory at which a setting is tried: steps took up to 11 %
#: more than predicted (docs/reference/tpu.md).
USABLE_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class StateMemory:
    """Bytes of a run's parameters and moments, as stored on each device of a mesh."""

    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        """Bytes of parameters and moments."""
        return self.parameters + self.optimizer


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes that each device needs at the step's peak.

    Attributes:
        state: parameters and moments, at rest.
        gradients: gradients of parameters; with microbatches, their sums and one part's.
        activations: arrays that the forward pass keeps for the backward pass.
        working: additional arrays at the peak: the logits of a chunk and the vocabulary's table,
            gathered; or, with remat, the recomputed arrays of one period.
    """

    state: StateMemory
    gradients: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return self.state.total + self.gradients + self.activations + self.working


def count_state_memory(skeleton: Skeleton, train: TrainConfig) -> StateMemory:
    """Count the bytes of parameters and moments on each device, sharded as in training."""
    skeleton = dataclasses.replace(skeleton, mesh=AbstractMesh(train.mesh, AXES))
    state = skeleton.abstract_state(make_optimizer(train))
    return StateMemory(_count_device_bytes(state.parameters), _count_device_bytes(state.moments))


def _count_device_bytes(tree: Any) -> int:
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(tree)
    )


def predict_step_memory(
    model: ModelConfig,
    train: TrainConfig,
    state: StateMemory,
    inputs_length: int,
    targets_length: int,
    platform: Literal["tpu", "gpu"] = "tpu",
) -> StepMemory:
    """Estimate the peak memory of a step on each device."""
    parts = _list_shares(model, train, inputs_length, targets_length)
    periods = [_count_period_kept(model, train, part) for part in parts]
    counts = (model.encoder_layers // model.period, model.decoder_layers // model.period)
    if train.remat == "layers":
        carries = (2 * model.d_model * part.tokens for part in parts)
        kept, recomputed = sum(n * x for n, x in zip(counts, carries, strict=True)), max(periods)
    else:
        kept, recomputed = sum(n * x for n, x in zip(counts, periods, strict=True)), 0.0
        if train.remat == "attention":
            recomputed = max(_count_attention_weights(model, train, part) for part in parts)
    rows = parts[1].tokens / train.loss_chunks
    values = rows * LOGITS_BYTES[platform] + model.d_model * GATHERED_TABLE_BYTES[platform]
    loss = values * model.vocabulary_size / train.model_parallel
    return StepMemory(
        state=state,
        gradients=state.parameters * (1 if train.microbatches == 1 else 2),
        activations=round(kept),
        working=round(max(loss, recomputed) + 2 * _count_period_weights(model, train)),
    )


class _Part(NamedTuple):
    """One device's share of a microbatch, in the encoder or in the decoder.

    `memory_length` is the length of the inputs that a decoder attends to, 0 in an encoder. `slots`
    counts its experts' slots, 0 in a dense model.
    """

    sequences: float
    length: int
    memory_length: int
    slots: float

    @property
    def tokens(self) -> float:
        return self.sequences * self.length


def _list_shares(model: ModelConfig, train: TrainConfig, inputs: int, targets: int) -> list[_Part]:
    shards = train.data_parallel * train.expert_parallel * train.microbatches
    groups = group_batch(model, train.batch_size, inputs, targets)
    parts = []
    for length, memory_length, count in zip((inputs, targets), (0, inputs), groups, strict=True):
        positions = train.batch_size * length // count
        slots = 0.0
        if model.sparse:
            capacity = expert_capacity(model.capacity_factor, positions, model.experts)
            slots = count * model.experts * capacity / shards
        parts.append(_Part(train.batch_size / shards, length, memory_length, slots))
    return parts


def _count_period_kept(model: ModelConfig, train: TrainConfig, part: _Part) -> float:
    dense = _count_block_kept(model, train, part, sparse=False)
    if not model.sparse:
        return dense
    return (model.period - 1) * dense + _count_block_kept(model, train, part, sparse=True)


def _count_block_kept(
    model: ModelConfig, train: TrainConfig, part: _Part, *, sparse: bool
) -> float:
    width, tokens, decoder = train.model_parallel, part.tokens, part.memory_length > 0
    residual = 2 * model.d_model * tokens * (DECODER_KEPT if decoder else ENCODER_KEPT)
    projections = DECODER_PROJECTIONS if decoder else ENCODER_PROJECTIONS
    projections *= 2 * model.joined_kv / width * tokens
    projections += 2 * model.joined_kv / width * part.sequences * part.memory_length * 2
    attention = _count_attention_weights(model, train, part) if train.remat != "attention" else 0.0
    feed_forward = 2 * FEED_FORWARD_KEPT[model.activation] * model.d_ff / width
    if not sparse:
        return residual + projections + attention + feed_forward * tokens
    experts = part.slots * (feed_forward + QUEUE_KEPT_BYTES * model.d_model)
    router = tokens * (ROUTER_INPUT_KEPT_BYTES * model.d_model + ROUTER_KEPT_BYTES * model.experts)
    return residual + projections + attention + experts + router


def _count_attention_weights(model: ModelConfig, train: TrainConfig, part: _Part) -> float:
    """Count the bytes of a block's attention weights, including a decoder's cross-attention."""
    if train.attention in FUSED_ATTENTION:
        return 0.0
    keys, heads = part.length + part.memory_length, model.heads / train.model_parallel
    return part.tokens * keys * heads * ATTENTION_KEPT_BYTES


def _count_period_weights(model: ModelConfig, train: TrainConfig) -> float:
    """Count the parameters that a device gathers along the batch axes for a group of blocks."""
    matrices = 3 if model.activation == "geglu" else 2
    feed_forward = matrices * model.d_model * model.d_ff
    attention = 2 * 4 * model.d_model * model.joined_kv
    values = model.period * attention + feed_forward * (model.period - (1 if model.sparse else 0))
    experts = feed_forward * model.experts / train.expert_parallel
    if model.sparse and model.routing == "token":
        # For the lookup of rows, the router's table is not sharded along `model`.
        table = model.vocabulary_size * model.experts / train.expert_parallel
        experts += table * train.model_parallel
    return (values + experts) / train.model_parallel
