"""Compile a training step for a TPU slice or for GPUs that are absent.

Compiling needs libtpu or JAX's plugin for CUDA. `python -m mswitch.models.planning.compile REQUEST`
takes a `CompileRequest` as JSON and prints a `CompileResult` as the last line of its output. The
process ends when its standard input does. libtpu needs its own process: it makes JAX look for a
TPU's metadata for a minute, unless the environment prevents it.
"""

import dataclasses
import json
import re
import resource
import sys
import time
from typing import Any

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.lifeline import exit_with_parent
from mswitch.models.planning.gpu_target import describe_gpu
from mswitch.models.planning.topology import Topology, parse_topology

#: Environment variables for loading libtpu on a single host without a TPU or a metadata server.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5e-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
#: Environment variables for loading JAX's plugin for CUDA without a GPU. Triton's matrix products
#: need tiles that are found only by measuring on a GPU, so all products use cuBLAS.
GPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class CompileRequest:
    """A training step to compile for a topology, with sequences of these lengths."""

    topology: str
    model: ModelConfig
    train: TrainConfig
    inputs_length: int
    targets_length: int

    def to_json(self) -> str:
        """Return the request as a line for `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "CompileRequest":
        """Parse a line that `to_json` returned."""
        fields = json.loads(line)
        model, train = ModelConfig(**fields.pop("model")), TrainConfig(**fields.pop("train"))
        return cls(model=model, train=train, **fields)


@dataclasses.dataclass(frozen=True)
class CompileResult:
    """Result of the compiler, per device.

    Attributes:
        fits: whether the program fits the device's memory.
        peak_bytes: most memory in use at a time, which decides whether it fits. If it does not fit,
            the memory that the compiler wanted; None if that is unknown, or it was not compiled.
        compile_secs: time for tracing and compiling.
        cpu_secs: processor time for them, over all cores.
        process_peak_bytes: memory that compiling took on this machine.
        costs: FLOPs, memory traffic and collectives (`mswitch.models.planning.costs.Costs`), if
            the compiler made a program.
    """

    fits: bool
    peak_bytes: int | None
    compile_secs: float
    cpu_secs: float
    process_peak_bytes: int
    costs: dict[str, Any] | None = None


def lower_step(request: CompileRequest, devices: list[Any]) -> Any:
    """Trace the training step, as `mswitch train` runs it, for a mesh of these devices."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from mswitch.models.capacity import group_batch
    from mswitch.models.partitioning import BATCH_AXES, arrange_mesh, check_divisible
    from mswitch.models.training.optimizer import make_optimizer
    from mswitch.models.training.state import Skeleton
    from mswitch.models.training.step import make_train_step
    from mswitch.models.training.total_loss import FEATURES

    model, train = request.model, request.train
    mesh = arrange_mesh(train, devices)
    groups = group_batch(model, train.batch_size, request.inputs_length, request.targets_length)
    check_divisible(model, train, groups)
    skeleton, optimizer = Skeleton.build(model, train, mesh), make_optimizer(train)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def feature(name: str) -> jax.ShapeDtypeStruct:
        length = request.inputs_length if name.startswith("encoder") else request.targets_length
        dtype = "float32" if name.endswith("weights") else "int32"
        return jax.ShapeDtypeStruct((train.batch_size, length), dtype, sharding=rows)

    batch = {name: feature(name) for name in FEATURES}
    step = make_train_step(skeleton, optimizer, groups)
    return step.lower(skeleton.abstract_state(optimizer), batch)  # pyright: ignore[reportArgumentType]


def describe_devices(topology: Topology) -> list[Any]:
    """Return JAX's descriptions of the devices of a topology; the devices may be absent."""
    from jax.experimental import topologies

    if topology.chip.gpu:
        hosts = topology.devices // topology.linked
        described = topologies.get_topology_desc(
            platform="cuda",
            target_config=describe_gpu(topology.chip),
            topology=f"1x{hosts}x{topology.linked}",
        )
    else:
        options = {"chip_config_name": "megacore"} if topology.name.startswith("v4:") else {}
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    return list(described.devices)


def compile_step(request: CompileRequest) -> CompileResult:
    """Compile a step, and read its costs from the program."""
    import jax

    from mswitch.models.planning.costs import count_costs

    topology = parse_topology(request.topology)
    devices = describe_devices(topology)
    began, cpu_began = time.monotonic(), time.process_time()
    lowered = lower_step(request, devices)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted = read_wanted_memory(str(error))
        secs, cpu_secs = time.monotonic() - began, time.process_time() - cpu_began
        return CompileResult(False, wanted, secs, cpu_secs, _read_own_peak())
    secs, cpu_secs = time.monotonic() - began, time.process_time() - cpu_began
    peak = compiled.memory_analysis().peak_memory_in_bytes
    costs = dataclasses.asdict(count_costs(compiled.as_text(), topology))
    # libtpu has already refused a program that does not fit; the compiler for GPUs accepts it.
    fits = topology.platform == "tpu" or peak <= topology.chip.hbm_bytes
    return CompileResult(fits, peak, secs, cpu_secs, _read_own_peak(), costs)


def _read_own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_wanted_memory(message: str) -> int | None:
    """Read from the compiler's refusal how much memory a program would take."""
    match = re.search(r"[Uu]sed ([\d.]+)([KMGT])", message) or re.search(
        r"\(([\d.]+)([KMGT])\) exceeds", message
    )
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1))


def main() -> None:
    """Compile the training step that the first argument describes; print the result."""
    exit_with_parent()
    result = compile_step(CompileRequest.from_json(sys.argv[1]))
    print(json.dumps(dataclasses.asdict(result)))


if __name__ == "__main__":
    main()
