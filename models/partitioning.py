"""How arrays lie on a mesh of devices with axes `data`, `expert` and `model`.

The batch, and so every layer that has no experts, is sharded over data x expert: the expert axis
never repeats work. A parameter's dimensions have logical names; each name prefers some mesh axes,
and takes those that are free and divide it, so that nothing large is replicated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig, TrainConfig
from pipelines.errors import UserError

AXES = ("data", "expert", "model")
BATCH_AXES = ("data", "expert")

#: Mesh axes a logical axis is sharded over, where it can be.
RULES: Mapping[str, tuple[str, ...]] = {
    "layers": (),
    "expert": ("expert",),
    "vocab": ("model",),
    "embed": ("data", "expert"),
    "mlp": ("model",),
    "joined_kv": ("model",),
    "heads": (),
    "buckets": (),
    "router_experts": (),
}

#: Parameters with fewer values than this are replicated (norm scales, position biases).
MIN_SHARDED_VALUES = 4096


def make_mesh(config: TrainConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh a run asks for, or None for a single device.

    Raises:
        UserError: there are fewer devices than asked for.
    """
    if config.devices == 1:
        return None
    devices = list(jax.devices() if devices is None else devices)
    if len(devices) < config.devices:
        raise UserError(
            f"--data-parallel x --expert-parallel x --model-parallel needs {config.devices} "
            f"devices, and there are {len(devices)}: choose smaller ones"
        )
    return arrange_mesh(config, devices[: config.devices])


def arrange_mesh(config: TrainConfig, devices: Sequence[Any]) -> Mesh:
    """Lay devices out as a run asks for, so that on a TPU each axis follows links of the torus."""
    shape = (config.data_parallel, config.expert_parallel, config.model_parallel)
    return Mesh(create_device_mesh(shape, devices, allow_split_physical_axes=True), AXES)


def check_divisible(model: ModelConfig, config: TrainConfig, groups: int) -> None:
    """Check that batch and experts can be divided as asked.

    Raises:
        UserError: they cannot.
    """
    batch_shards = config.data_parallel * config.expert_parallel
    if config.batch_size % (batch_shards * config.microbatches):
        raise UserError(
            f"--batch-size {config.batch_size} is no multiple of data x expert shards x "
            f"microbatches = {batch_shards * config.microbatches}"
        )
    if not model.sparse:
        return
    if model.balance_scope == "global" and config.microbatches > 1:
        raise UserError(
            "--balance-scope global balances the batch as a whole, which --microbatches "
            f"{config.microbatches} never sees: use 1, or --balance-scope group"
        )
    if model.experts % config.expert_parallel:
        raise UserError(
            f"--expert-parallel {config.expert_parallel} does not divide {model.experts} experts"
        )
    if groups % (batch_shards * config.microbatches):
        raise UserError(
            f"a batch has {groups} routing groups, which data x expert shards x microbatches = "
            f"{batch_shards * config.microbatches} do not divide: use a larger batch or a "
            "smaller group_size"
        )


def parameter_spec(axes: Sequence[str], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Shard a parameter, dimension by dimension, over the mesh axes its names prefer."""
    if int(np.prod(shape)) < MIN_SHARDED_VALUES:
        return PartitionSpec()
    # Dimensions with one wish choose first: experts before the width that would take their axis.
    order = sorted(range(len(axes)), key=lambda dimension: len(RULES[axes[dimension]]))
    taken: set[str] = set()
    chosen: list[tuple[str, ...] | None] = [None] * len(axes)
    for dimension in order:
        fitting: list[str] = []
        size = 1
        for axis in RULES[axes[dimension]]:
            larger = size * mesh.shape[axis]
            if axis not in taken and shape[dimension] % larger == 0:
                fitting.append(axis)
                size = larger
        taken.update(fitting)
        chosen[dimension] = tuple(fitting) or None
    return PartitionSpec(*chosen)


def parameter_sharding(
    axes: Sequence[str], shape: Sequence[int], mesh: Mesh | None
) -> NamedSharding | None:
    """`parameter_spec` on its mesh; None without one."""
    return None if mesh is None else NamedSharding(mesh, parameter_spec(axes, shape, mesh))


def constrain_batch(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Keep the first axis sharded over data x expert."""
    if mesh is None:
        return x
    spec = PartitionSpec(BATCH_AXES, *[None] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh | None) -> dict[str, jax.Array]:
    """Copy a batch to the device, or spread its rows over data x expert."""
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    # A step runs later than this returns: it must not read memory that the caller may change.
    return jax.device_put(dict(batch), where, may_alias=False)
