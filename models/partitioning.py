"""Place arrays on a mesh of devices with axes `data`, `expert` and `model`.

The batch, and so every layer without experts, is sharded over data x expert: the expert axis never
repeats work. A parameter's dimensions have logical names. Each name prefers some mesh axes, and
takes all that are free and divide it, so that nothing large is replicated. If a batch axis divides
no width, the largest other dimension that it divides takes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mswitch.models.capacity import Groups
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.pipelines.errors import UserError

AXES = ("data", "expert", "model")
BATCH_AXES = ("data", "expert")

#: For each logical axis, the mesh axes that shard it, if they divide its size.
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
    "router_columns": ("expert",),
}
#: Logical axes that are never sharded. A loop takes layers one by one; `heads` and `buckets` are
#: short.
WHOLE = ("layers", "heads", "buckets")

#: Parameters with fewer values than this are replicated (norm scales, position biases).
MIN_SHARDED_VALUES = 4096


def make_mesh(config: TrainConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Make the mesh of a run, or return None for a single device.

    Devices of a process are adjacent, so that its rows of a batch are consecutive.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
    if jax.process_count() > 1 and config.devices != len(devices):
        raise UserError(
            f"--data-parallel x --expert-parallel x --model-parallel is {config.devices}, and the "
            f"{jax.process_count()} processes of the job have {len(devices)} devices: use them all"
        )
    if config.devices == 1:
        return None
    if len(devices) < config.devices:
        sizes = zip(AXES, config.mesh, strict=True)
        asked = " x ".join(f"--{axis}-parallel {size}" for axis, size in sizes if size > 1)
        raise UserError(
            f"{asked} needs {config.devices} devices, and there are {len(devices)}: choose smaller "
            "ones"
        )
    if jax.process_count() > 1:
        return Mesh(np.array(devices).reshape(config.mesh), AXES)
    return arrange_mesh(config, devices[: config.devices])


def arrange_mesh(config: TrainConfig, devices: Sequence[Any]) -> Mesh:
    """Arrange devices as a mesh whose axes follow the links of a TPU's torus."""
    return Mesh(create_device_mesh(config.mesh, devices, allow_split_physical_axes=True), AXES)


def find_fed_part(mesh: Mesh | None) -> tuple[int, int]:
    """Return the number of the batch part that this process provides, and the count of parts.

    Processes that differ only along the `model` axis feed the same part.
    """
    if mesh is None:
        return 0, 1
    owners = np.array([device.process_index for device in mesh.devices.flat])
    return find_part(owners.reshape(-1, mesh.shape["model"]), jax.process_index())


def find_part(owners: np.ndarray, process: int) -> tuple[int, int]:
    """Return the number of the batch part that `process` feeds, and the count of parts.

    `owners` [batch shards, model] contains each device's process.
    """
    shards, model = owners.shape
    mine = np.flatnonzero((owners == process).any(axis=1))
    if shards % mine.size or mine[0] % mine.size:
        raise UserError(
            f"--model-parallel {model} divides the devices of the processes unevenly: choose one "
            "that divides the devices of a process, or a multiple of them"
        )
    return int(mine[0]) // mine.size, shards // mine.size


def check_divisible(model: ModelConfig, config: TrainConfig, groups: Groups) -> None:
    """Check that the mesh divides batch, heads, widths and experts."""
    for name, size in (("attention heads", model.heads), ("d_ff", model.d_ff)):
        if size % config.model_parallel:
            raise UserError(
                f"--model-parallel {config.model_parallel} does not divide the model's {size} "
                f"({name}): choose a divisor"
            )
    batch_shards = config.data_parallel * config.expert_parallel
    if config.rows % (batch_shards * config.microbatches):
        packed = f" / --pack {config.pack}" if config.row_examples > 1 else ""
        raise UserError(
            f"--batch-size {config.batch_size}{packed} is not a multiple of data x expert shards x "
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
    if groups.separable % (batch_shards * config.microbatches):
        raise UserError(
            f"a batch has {groups.encoder} routing groups in the encoder and {groups.decoder} in "
            f"the decoder, which data x expert shards x microbatches = "
            f"{batch_shards * config.microbatches} do not divide: use a larger --batch-size or a "
            "smaller --group-size"
        )


def shard_parameter(axes: Sequence[str], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Shard each dimension of a parameter over mesh axes in `RULES` that are free and divide it."""
    if int(np.prod(shape)) < MIN_SHARDED_VALUES:
        return PartitionSpec()
    # Dimensions with few possible mesh axes choose first. Otherwise `embed` could take mesh axis
    # `expert`, the only axis for the dimension of experts.
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
    for axis in BATCH_AXES:
        if axis in taken or mesh.shape[axis] == 1:
            continue
        for dimension in sorted(range(len(axes)), key=lambda dimension: -shape[dimension]):
            before = chosen[dimension] or ()
            size = int(np.prod([mesh.shape[name] for name in (*before, axis)]))
            if axes[dimension] not in WHOLE and shape[dimension] % size == 0:
                chosen[dimension] = (*before, axis)
                break
    return PartitionSpec(*chosen)


def constrain_batch(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Constrain the first axis of an array to be sharded over `data` and `expert`."""
    if mesh is None:
        return x
    spec = PartitionSpec(BATCH_AXES, *[None] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh | None) -> dict[str, jax.Array]:
    """Copy a batch to the device, or shard its rows over mesh axes `data` and `expert`.

    In a job of several processes, `batch` has the rows of `find_fed_part`.
    """
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    if where is None or where.is_fully_addressable:
        # A step may run after this function returns: it must not read memory that the caller may
        # change.
        return jax.device_put(dict(batch), where, may_alias=False)
    return {
        name: jax.make_array_from_process_local_data(where, rows.copy())
        for name, rows in batch.items()
    }
