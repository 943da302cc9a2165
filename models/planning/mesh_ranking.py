"""Rank the meshes and memory settings for training a model on a slice, the fastest first."""

import dataclasses
import math
from collections.abc import Iterator
from typing import get_args

from mswitch.models.capacity import group_batch
from mswitch.models.config import FUSED_ATTENTION, ModelConfig, Remat, TrainConfig
from mswitch.models.nn.flops import count_recomputed_flops, count_training_step_flops
from mswitch.models.partitioning import check_divisible
from mswitch.models.planning.config import PlanConfig
from mswitch.models.planning.memory import StepMemory, count_state_memory, predict_step_memory
from mswitch.models.planning.topology import Topology, share_between_hosts
from mswitch.models.training.state import Skeleton, count_parameters
from mswitch.pipelines.errors import UserError

#: Widest tensor parallelism that is tried: beyond it, all-reduces of activations dominate.
WIDEST = 16
LOSS_CHUNKS = (1, 2, 4, 8)
MOST_BATCH_BITS = 20


@dataclasses.dataclass(frozen=True)
class Setting:
    """Mesh and memory settings for a training, with their predicted costs.

    Attributes:
        train: mesh, microbatches, loss chunks, remat.
        memory: prediction of the memory model.
        secs: analytic time of a step without overlap, by which settings are ranked.
    """

    train: TrainConfig
    memory: StepMemory
    secs: float


def rank_settings(
    model: ModelConfig, config: PlanConfig, topology: Topology, skeleton: Skeleton
) -> list[Setting]:
    """Return all settings whose mesh divides batch, experts and heads, the fastest first."""
    _check_asked(model, config, topology)
    counts = count_parameters(skeleton)
    settings = []
    for mesh in _list_meshes(model, config, topology.devices):
        state = count_state_memory(skeleton, mesh)
        for train in _list_memory_settings(model, config, mesh):
            memory = predict_step_memory(model, train, state, *config.lengths, topology.platform)
            secs = _estimate_secs(model, train, config.lengths, topology, counts)
            settings.append(Setting(train, memory, secs))
    if not settings:
        shares = "batch, routing groups, experts and heads" if model.sparse else "batch and heads"
        other = _find_dividing_batch(model, config, topology.devices)
        raise UserError(
            f"no setting of the {topology.devices} devices of {topology.name} divides {shares} "
            f"evenly: give {f'--batch-size {other}' if other else 'a larger --batch-size'} instead "
            f"of {config.batch_size}, or fewer of the options for mesh and microbatches"
        )
    return sorted(settings, key=lambda setting: setting.secs)


def _find_dividing_batch(model: ModelConfig, config: PlanConfig, devices: int) -> int | None:
    """Find the power of two nearest to the requested batch size that some mesh can divide."""
    near = round(math.log2(config.batch_size))
    for power in sorted(range(MOST_BATCH_BITS), key=lambda power: (abs(power - near), -power)):
        other = dataclasses.replace(config, batch_size=1 << power)
        for mesh in _list_meshes(model, other, devices):
            if any(True for _ in _list_memory_settings(model, other, mesh)):
                return other.batch_size
    return None


def _check_asked(model: ModelConfig, config: PlanConfig, topology: Topology) -> None:
    asked = (config.data_parallel, config.expert_parallel, config.model_parallel)
    product, devices = math.prod(size or 1 for size in asked), topology.devices
    if devices % product or (None not in asked and product != devices):
        raise UserError(
            f"--data-parallel x --expert-parallel x --model-parallel is {product}, and "
            f"{topology.name} has {devices} devices: leave one out to use all devices"
        )
    if config.model_parallel and model.heads % config.model_parallel:
        raise UserError(
            f"--model-parallel {config.model_parallel} does not divide {model.heads} heads"
        )
    if config.expert_parallel and not model.sparse and config.expert_parallel > 1:
        raise UserError(f"--expert-parallel {config.expert_parallel}: a dense model has no experts")
    if config.expert_parallel and model.sparse and model.experts % config.expert_parallel:
        raise UserError(
            f"--expert-parallel {config.expert_parallel} does not divide {model.experts} experts"
        )
    if None not in asked:
        train = _make_train_config(config, *(size or 1 for size in asked))
        train = dataclasses.replace(train, microbatches=config.microbatches or 1)
        check_divisible(model, train, group_batch(model, *config.shape))


def _make_train_config(config: PlanConfig, data: int, expert: int, width: int) -> TrainConfig:
    return TrainConfig(
        batch_size=config.batch_size,
        scan_layers=True,
        attention=config.attention,
        data_parallel=data,
        expert_parallel=expert,
        model_parallel=width,
    )


def _list_meshes(model: ModelConfig, config: PlanConfig, devices: int) -> Iterator[TrainConfig]:
    for expert in _list_divisors(devices):
        if (model.experts % expert if model.sparse else expert > 1) or not config.allows(
            "expert_parallel", expert
        ):
            continue
        for width in _list_divisors(devices // expert):
            data = devices // expert // width
            if (
                (width > WIDEST and config.model_parallel is None)
                or model.heads % width
                or model.d_ff % width
                or not config.allows("model_parallel", width)
                or not config.allows("data_parallel", data)
            ):
                continue
            yield _make_train_config(config, data, expert, width)


def _list_memory_settings(
    model: ModelConfig, config: PlanConfig, mesh: TrainConfig
) -> Iterator[TrainConfig]:
    shards = mesh.data_parallel * mesh.expert_parallel
    parts = group_batch(model, *config.shape).separable
    if config.batch_size % shards or parts % shards:
        return
    chunks = LOSS_CHUNKS if config.loss_chunks is None else (config.loss_chunks,)
    for microbatches in _list_divisors(parts // shards):
        if not config.allows("microbatches", microbatches):
            continue
        if model.balance_scope == "global" and microbatches > 1:
            continue
        for loss_chunks in chunks:
            for remat in get_args(Remat):
                # Fused attention keeps no weights, so remat `attention` would save no memory.
                needless = remat == "attention" and config.attention in FUSED_ATTENTION
                if config.allows("remat", remat) and not (needless and config.remat is None):
                    yield dataclasses.replace(
                        mesh, microbatches=microbatches, loss_chunks=loss_chunks, remat=remat
                    )


def _list_divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _estimate_secs(
    model: ModelConfig,
    train: TrainConfig,
    lengths: tuple[int, int],
    topology: Topology,
    counts: dict[str, int],
) -> float:
    chip, parts = topology.chip, train.microbatches
    flops = count_training_step_flops(model, train.batch_size, *lengths)
    flops += count_recomputed_flops(model, train, *lengths)
    experts = counts.get("experts", 0) / train.expert_parallel / train.model_parallel
    others = (sum(counts.values()) - counts.get("experts", 0)) / train.model_parallel
    passes = 3 if train.remat == "layers" else 2
    # Each pass gathers bfloat16 weights; gradients are scattered in float32.
    width, shards = train.model_parallel, train.data_parallel * train.expert_parallel
    wire = (2 * passes + 4) * parts
    values = train.batch_size / shards * model.d_model
    positions = model.encoder_layers * lengths[0] + model.decoder_layers * lengths[1]
    # Each pass sends bfloat16 values to their experts and back.
    dispatched = positions / model.sparse_every * values * model.capacity_factor * 4 * passes
    # Attention and feed-forward each end with an all-reduce in each forward and backward pass. An
    # upper bound, as if each position passed both stacks: with the lower number, wider meshes rank
    # first, for which compiled steps are not estimated shorter.
    layers = model.encoder_layers + model.decoder_layers
    reduced = 2 * layers * sum(lengths) * values * 2 * 2 * passes
    collectives = (
        ("all-gather", others * wire, shards, width),
        ("all-gather", experts * wire, train.data_parallel, width * train.expert_parallel),
        ("all-to-all", dispatched, train.expert_parallel, width),  # dense models send nothing
        ("all-reduce", reduced, width, 1),
    )
    sending = sum(_estimate_sending_secs(topology, *collective) for collective in collectives)
    # Bytes of traffic per value of a gradient, which is written and summed over devices. With
    # microbatches, each gradient is also added to a sum.
    gradient_bytes = 12 if parts == 1 else 24
    traffic = (others + experts) * (2 * passes + gradient_bytes) * parts
    return (
        flops / topology.devices / chip.flops_per_sec + sending + traffic / chip.hbm_bytes_per_sec
    )


def _estimate_sending_secs(
    topology: Topology, kind: str, sent: float, size: int, stride: int
) -> float:
    """Estimate the time of the collectives along one mesh axis.

    The axis has `size` devices, whose numbers are `stride` apart.
    """
    if size == 1:
        return 0.0
    linked = max(1, topology.linked // stride)
    left = sent * share_between_hosts(kind, size, linked)
    secs = (sent - left) / topology.chip.link_bytes_per_sec
    network = topology.chip.network_bytes_per_sec
    return max(secs, left / network) if network else secs
