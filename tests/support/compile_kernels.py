"""Compile kernels for a TPU slice of four devices: `compile_kernels.py v5e:2x2`.

Prints a JSON line for each case of attention, forward and backward on data 2 x model 2: how many
kernels the program has, and arrays of the size of logits. Then a line for a whole training step,
and one for experts without drops, forward on data 2 x expert 2.
"""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mswitch.models.config import TrainConfig
from mswitch.models.nn.experts import compute_groups
from mswitch.models.nn.sharded_attention import KernelMask, attend_by_kernel, choose_kernel
from mswitch.models.nn.t5_attention import diagonal_distances
from mswitch.models.partitioning import AXES, BATCH_AXES
from mswitch.models.planning.compile import CompileRequest, describe_devices, lower_step
from mswitch.models.planning.topology import parse_topology
from mswitch.models.presets import preset

ROWS = PartitionSpec(BATCH_AXES)
#: Queries, keys, heads, their width, and what is masked.
CASES = (
    (1024, 1024, 4, 64, ("biased",)),
    (229, 229, 6, 64, ("biased", "causal", "packed")),
    (229, 1024, 4, 64, ()),
    (1024, 1024, 2, 128, ("biased", "packed")),
    (2048, 2048, 4, 64, ("biased", "packed")),
)


def compiled_case(devices, queries: int, keys: int, heads: int, width: int, masked) -> str:
    mesh = Mesh(np.array(devices).reshape(2, 1, 2), AXES)
    options = choose_kernel("auto", width, (queries, keys), devices[0].device_kind)
    assert options is not None

    def array(*shape: int, dtype="bfloat16", spec=ROWS):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def loss(q, k, v, diagonals, of_keys, of_queries):
        segments = of_queries if "packed" in masked else None
        mask = KernelMask(of_keys, segments, "causal" in masked, options, mesh)
        return attend_by_kernel(q, k, v, mask, diagonals, heads=heads).astype(jnp.float32).sum()

    differences = len(diagonal_distances(queries, keys))
    wide = PartitionSpec(BATCH_AXES, None, "model")
    bias = array(heads, differences, dtype="float32", spec=PartitionSpec("model"))
    inputs = (
        *(array(4, length, heads * width, spec=wide) for length in (queries, keys, keys)),
        bias if "biased" in masked else None,
        *(array(4, length, dtype="int32") for length in (keys, queries)),
    )
    return str(jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3))).lower(*inputs).compile().as_text())


def compiled_step(topology: str, devices, queries: int, keys: int) -> str:
    model = dataclasses.replace(
        preset("mt5-small").model, vocabulary_size=2048, encoder_layers=2, decoder_layers=2
    )
    train = TrainConfig(batch_size=8, scan_layers=True, data_parallel=2, model_parallel=2)
    request = CompileRequest(topology, model, train, keys, queries)
    return lower_step(request, devices).compile().as_text()


def compiled_experts(devices) -> str:
    mesh = Mesh(np.array(devices).reshape(2, 2, 1), AXES)
    rows = NamedSharding(mesh, ROWS)
    tokens = jax.ShapeDtypeStruct((8, 500, 256), "bfloat16", sharding=rows)
    expert = jax.ShapeDtypeStruct((8, 500), "int32", sharding=rows)
    into, back = (
        jax.ShapeDtypeStruct(
            (8, *widths), "bfloat16", sharding=NamedSharding(mesh, PartitionSpec())
        )
        for widths in ((256, 640), (640, 256))
    )
    specs = (ROWS, ROWS, PartitionSpec(), PartitionSpec())
    local = jax.shard_map(
        compute_groups, mesh=mesh, in_specs=specs, out_specs=ROWS, check_vma=False
    )
    return str(jax.jit(local).lower(tokens, expert, [into, into], back).compile().as_text())


def main() -> None:
    topology = sys.argv[1]
    devices = describe_devices(parse_topology(topology))

    def report(text: str, queries: int, keys: int) -> None:
        logits = re.findall(rf"\w+\[(?:\d+,)+(?:{queries},{keys}|{keys},{queries})\]", text)
        kernels = text.count('custom_call_target="tpu_custom_call"')
        print(json.dumps({"kernels": kernels, "logits": sorted(set(logits))}), flush=True)

    for case in CASES:
        queries, keys, _, width, _ = case
        if choose_kernel("auto", width, (queries, keys), devices[0].device_kind):
            report(compiled_case(devices, *case), queries, keys)
    report(compiled_step(topology, devices, 229, 640), 229, 640)
    report(compiled_experts(devices), 229, 640)


if __name__ == "__main__":
    main()
