"""A training step on whatever JAX finds here: XLA's attention, and the kernel where it runs.

    python tests/benchmarks/step.py [--preset mt5-base] [--rows 16] [--inputs 1024] [--targets 229]

Runs in any environment with mswitch[train] and JAX for the device, such as jax[tpu], on all devices
of one machine. Takes minutes, most of them to compile. On CPU the model is small, as the kernel is
interpreted there.

Prints a row for docs/reference/tpu.md: median seconds of a step, tokens a second, MFU, the step's
peak by the compiler, and the share of attention, which is timed alone, forward and backward,
without its projections.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from timing import markdown, options

from mswitch.models.capacity import group_batch
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.hardware import GIB, find_peak_flops
from mswitch.models.nn.attention import RelativePositionBias, _sum_weighted
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.nn.sharded_attention import KernelMask, attend_by_kernel, choose_kernel
from mswitch.models.partitioning import BATCH_AXES, make_mesh, put_batch
from mswitch.models.presets import preset
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_train_step
from mswitch.pipelines.errors import UserError

#: Preset, rows a device, inputs, targets: the batch of docs/reference/tpu.md, and one for a CPU.
SIZES, CPU_SIZES = ("mt5-base", 16, 1024, 229), ("mt5-tiny", 4, 128, 29)
ROUNDS = 10
COLUMNS = (
    *("devices", "preset", "batch", "attention", "step s", "tokens/s", "MFU"),
    *("peak GiB", "attention's share", "compile s"),
)


def main() -> None:
    device = jax.devices()[0]
    names = ("preset", "rows", "inputs", "targets")
    sizes = dict(zip(names, CPU_SIZES if device.platform == "cpu" else SIZES, strict=True))
    asked = options(__doc__, **sizes)
    lengths = (asked.inputs, asked.targets)
    model = preset(asked.preset).model
    where = f"{len(jax.devices())} x {device.device_kind}"
    rows = []
    for way in ("kernel", "cudnn", "xla"):
        try:
            choose_kernel(way, model.d_kv, lengths, device.device_kind)
        except UserError as error:
            print(error, flush=True)
            continue
        rows.append((where, asked.preset, *measure(model, way, asked.rows, lengths)))
    print(*markdown(COLUMNS, rows), sep="\n")


def measure(
    model: ModelConfig, way: str, device_rows: int, lengths: tuple[int, int]
) -> tuple[str, ...]:
    """Cells of a row; a step for which the device has too little memory has no figures."""
    count = len(jax.devices())
    train = TrainConfig(
        batch_size=device_rows * count,
        scan_layers=jax.default_backend() != "cpu",
        attention=way,
        **{"expert_parallel" if model.sparse else "data_parallel": count},
    )
    batch_name = f"{train.batch_size:,} x ({lengths[0]:,} + {lengths[1]:,})"
    try:
        secs, peak, compile_secs = time_step(model, train, lengths)
        attention = time_attention(model, train, lengths)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"{way}: too little memory for --rows {device_rows}: give fewer", flush=True)
        return (batch_name, way, *["-"] * 6)
    flops = count_training_step_flops(model, train.batch_size, *lengths)
    most = find_peak_flops(jax.devices()[0].device_kind)
    return (
        batch_name,
        way,
        f"{secs:.4f}",
        f"{train.batch_size * sum(lengths) / secs:,.0f}",
        f"{flops / secs / most / count:.1%}" if most else "unknown",
        f"{peak / GIB:.2f}",
        f"{attention / secs:.0%}",
        f"{compile_secs:.0f}",
    )


def time_step(
    model: ModelConfig, train: TrainConfig, lengths: tuple[int, int]
) -> tuple[float, int, float]:
    """Seconds of a training step, its peak bytes a device, and seconds of compiling."""
    mesh = make_mesh(train)
    skeleton, optimizer = Skeleton.build(model, train, mesh), make_optimizer(train)
    rng = np.random.default_rng(0)
    source, targets = (
        rng.integers(3, model.vocabulary_size, (train.batch_size, length)).astype(np.int32)
        for length in lengths
    )
    batch = {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }
    placed, state = put_batch(batch, mesh), skeleton.initial_state(optimizer)
    begin = time.monotonic()
    step = make_train_step(skeleton, optimizer, group_batch(model, train.batch_size, *lengths))
    compiled = step.lower(state, placed).compile()
    compile_secs = time.monotonic() - begin
    print(f"{train.attention}: compiled in {compile_secs:.0f} s", flush=True)

    def work() -> Any:
        nonlocal state
        state, metrics = compiled(state, placed)
        return metrics

    return median_secs(work), compiled.memory_analysis().peak_memory_in_bytes, compile_secs


def time_attention(model: ModelConfig, train: TrainConfig, lengths: tuple[int, int]) -> float:
    """Seconds that attention of all layers takes alone, forward and backward."""
    inputs, targets = lengths
    cases = (
        (inputs, inputs, False, True, model.encoder_layers),
        (targets, targets, True, True, model.decoder_layers),
        (targets, inputs, False, False, model.decoder_layers),
    )
    return sum(
        layers * median_secs(make_attention(model, train, lengths, *case))
        for *case, layers in cases
    )


def make_attention(
    model: ModelConfig,
    train: TrainConfig,
    lengths: tuple[int, int],
    queries: int,
    keys: int,
    causal: bool,
    biased: bool,
) -> Callable[[], Any]:
    """Attention of one layer, compiled: its gradients by queries, keys, values and bias."""
    mesh, rows = make_mesh(train), train.batch_size
    kind = jax.devices()[0].device_kind
    kernel = choose_kernel(train.attention, model.d_kv, lengths, kind)
    place = None if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    table = RelativePositionBias(model, bidirectional=not causal, rngs=nnx.Rngs(0))
    graph, state = nnx.split(table)
    arrays = [
        jax.device_put(jnp.ones((rows, length, model.joined_kv), train.dtype), place)
        for length in (queries, keys, keys)
    ]
    if kernel is None:
        seen = jnp.ones((1, queries, keys), bool)
        mask = jnp.tril(seen) if causal else seen
    else:
        seen = jax.device_put(jnp.ones((rows, keys), jnp.int32), place)
        mask = KernelMask(seen, None, causal, kernel, mesh)

    @jax.jit
    def gradients(arrays: list[jax.Array], state: Any) -> Any:
        def loss(arrays: list[jax.Array], state: Any) -> jax.Array:
            bias = nnx.merge(graph, state)(keys, mask) if biased else None
            if isinstance(mask, KernelMask):
                y = attend_by_kernel(*arrays, mask, bias, heads=model.heads)
            else:
                q, k, v = (x.reshape(*x.shape[:2], model.heads, -1) for x in arrays)
                y = _sum_weighted(q, k, v, mask, bias, None, dropout_rate=0.0)
            return y.astype(jnp.float32).sum()

        return jax.grad(loss, argnums=(0, 1))(arrays, state)

    return lambda: gradients(arrays, state)


def median_secs(work: Callable[[], Any]) -> float:
    """Median seconds of a call, after two that warm up."""
    secs = []
    for number in range(ROUNDS + 2):
        begin = time.perf_counter()
        jax.block_until_ready(work())
        if number > 1:
            secs.append(time.perf_counter() - begin)
    return statistics.median(secs)


if __name__ == "__main__":
    main()
