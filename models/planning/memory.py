"""How much memory a training step takes on each device, from shapes alone.

Parameters and moments are exact: the real shardings are applied to the real shapes. The rest
follows what XLA was seen to keep for the backward pass. docs/reference/tpu.md has the error against
compiled programs.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mswitch.models.capacity import batch_groups, expert_capacity
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.partitioning import AXES
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.state import Skeleton

#: Arrays kept for the backward pass, each of one value a token and unit: of the feed-forward
#: width (GELU's inner values among them) in bfloat16, and of the model's width in bfloat16 and
#: float32 for an encoder's block, a decoder's block. Read off compiled steps of mT5-Base.
FEED_FORWARD_KEPT = {"geglu": 8, "relu": 2}
ENCODER_KEPT_BYTES = 5 * 2 + 4 * 4
DECODER_KEPT_BYTES = 8 * 2 + 6 * 4
#: Attention keeps its probabilities in float32 and, for the product with values, in bfloat16.
ATTENTION_KEPT_BYTES = 4 + 2
#: A sparse block keeps its queues, the router's input in float32 before and after jitter, and two
#: float32 values for each token and expert. Read off compiled steps of mSwitch-Base.
QUEUE_KEPT_BYTES = 2
ROUTER_INPUT_KEPT_BYTES = 2 * 4
ROUTER_KEPT_BYTES = 2 * 4
#: At the peak there is one float32 array of the logits' size, and a vocabulary's table, gathered
#: from all devices.
LOGITS_BYTES = 4
GATHERED_TABLE_BYTES = 4
#: Share of a device's memory that a setting may be predicted to take and still be tried: steps
#: took up to 11 % more than predicted (docs/reference/tpu.md).
USABLE_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class StateMemory:
    """A run's state at rest, on each device of a mesh.

    Attributes:
        parameters: bytes of the parameters.
        optimizer: bytes of the optimizer's moments.
    """

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
) -> StepMemory:
    """Estimate the peak on each device."""
    part = _Part.of(model, train, inputs_length, targets_length)
    stacks = (False, True)
    periods = [_period_kept(model, train, part, decoder=decoder) for decoder in stacks]
    counts = (model.encoder_layers // model.period, model.decoder_layers // model.period)
    lengths = (inputs_length, targets_length)
    if train.remat == "layers":
        carries = (2 * model.d_model * part.sequences * length for length in lengths)
        kept, recomputed = sum(n * x for n, x in zip(counts, carries, strict=True)), max(periods)
    else:
        kept, recomputed = sum(n * x for n, x in zip(counts, periods, strict=True)), 0.0
        if train.remat == "attention":
            recomputed = max(_attention_weights(model, train, part, decoder=d) for d in stacks)
    rows = part.sequences * targets_length / train.loss_chunks
    values = rows * LOGITS_BYTES + model.d_model * GATHERED_TABLE_BYTES
    loss = values * model.vocabulary_size / train.model_parallel
    return StepMemory(
        state=state,
        gradients=state.parameters * (1 if train.microbatches == 1 else 2),
        activations=round(kept),
        working=round(max(loss, recomputed) + 2 * _period_weights(model, train)),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """One device's share of one microbatch: sequences, their lengths, and expert slots."""

    sequences: float
    inputs_length: int
    targets_length: int
    encoder_slots: float
    decoder_slots: float

    @classmethod
    def of(cls, model: ModelConfig, train: TrainConfig, inputs: int, targets: int) -> "_Part":
        shards = train.data_parallel * train.expert_parallel * train.microbatches
        groups = batch_groups(model, train.batch_size, inputs, targets)

        def slots(length: int, groups: int) -> float:
            if not model.sparse:
                return 0.0
            positions = train.batch_size * length // groups
            capacity = expert_capacity(model.capacity_factor, positions, model.experts)
            return groups * model.experts * capacity / shards

        return cls(
            train.batch_size / shards,
            inputs,
            targets,
            slots(inputs, groups.encoder),
            slots(targets, groups.decoder),
        )


def _period_kept(model: ModelConfig, train: TrainConfig, part: _Part, *, decoder: bool) -> float:
    """Bytes that one period of a stack keeps for its backward pass."""
    dense = _block_kept(model, train, part, decoder=decoder, sparse=False)
    if not model.sparse:
        return dense
    sparse = _block_kept(model, train, part, decoder=decoder, sparse=True)
    return (model.period - 1) * dense + sparse


def _block_kept(
    model: ModelConfig, train: TrainConfig, part: _Part, *, decoder: bool, sparse: bool
) -> float:
    width = train.model_parallel
    length = part.targets_length if decoder else part.inputs_length
    tokens = part.sequences * length
    residual = tokens * model.d_model * (DECODER_KEPT_BYTES if decoder else ENCODER_KEPT_BYTES)
    projections = 2 * model.joined_kv / width * tokens * (4 if decoder else 3)
    if decoder:
        projections += 2 * model.joined_kv / width * part.sequences * part.inputs_length * 2
    attention = 0.0
    if train.remat != "attention":
        attention = _attention_weights(model, train, part, decoder=decoder)
    feed_forward = 2 * FEED_FORWARD_KEPT[model.activation] * model.d_ff / width
    if not sparse:
        return residual + projections + attention + feed_forward * tokens
    slots = part.decoder_slots if decoder else part.encoder_slots
    experts = slots * (feed_forward + QUEUE_KEPT_BYTES * model.d_model)
    router = tokens * (ROUTER_INPUT_KEPT_BYTES * model.d_model + ROUTER_KEPT_BYTES * model.experts)
    return residual + projections + attention + experts + router


def _attention_weights(
    model: ModelConfig, train: TrainConfig, part: _Part, *, decoder: bool
) -> float:
    """Bytes of the attention weights of one block: self-attention's, and a decoder's own."""
    length = part.targets_length if decoder else part.inputs_length
    keys = length + (part.inputs_length if decoder else 0)
    heads = model.heads / train.model_parallel
    return part.sequences * length * keys * heads * ATTENTION_KEPT_BYTES


def _period_weights(model: ModelConfig, train: TrainConfig) -> float:
    """Parameters of one period on one device while it runs, gathered along its batch axes."""
    matrices = 3 if model.activation == "geglu" else 2
    feed_forward = matrices * model.d_model * model.d_ff
    attention = 2 * 4 * model.d_model * model.joined_kv
    values = model.period * attention + feed_forward * (model.period - (1 if model.sparse else 0))
    experts = feed_forward * model.experts / train.expert_parallel
    return (values + experts) / train.model_parallel
