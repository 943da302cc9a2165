"""Counting FLOPs, loops and collectives in compiled programs."""

import dataclasses
import json
from pathlib import Path

import pytest
from processes import output_of

from mswitch.models.planning.costs import compute_roofline, count_costs, read_group
from mswitch.models.planning.hlo import Module
from mswitch.models.planning.topology import parse_topology

TPU = parse_topology("v5p:2x2x2")

COLLECTIVES = """
import json, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from mswitch.models.planning.costs import count_costs
from mswitch.models.planning.topology import parse_topology
import dataclasses

mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

def body(x, _):
    x = jax.lax.all_to_all(x, "x", 0, 0, tiled=True)
    x = jax.lax.ppermute(x, "x", [(i, (i + 1) % 4) for i in range(4)])
    x = x + jax.lax.all_gather(x, "x").sum(0)
    x = x + jnp.tile(jax.lax.psum_scatter(x, "x", tiled=True), (4, 1))
    return jax.lax.pcast(jax.lax.psum(x, "x"), "x", to="varying"), None

def program(x):
    return jax.lax.scan(body, x, None, length=3)[0]

shape = jax.ShapeDtypeStruct((32, 16), jnp.float32)
step = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=P("x"), out_specs=P("x")))
text = step.lower(shape).compile().as_text()
print(json.dumps(dataclasses.asdict(count_costs(text, parse_topology("v5p:2x2x1")))))
"""


def test_collectives_of_a_loop_are_counted_by_kind_with_what_a_device_sends():
    printed = output_of("-c", COLLECTIVES, cwd=Path(__file__).parents[3])
    found = json.loads(printed.splitlines()[-1])["collectives"]
    own = 8 * 16 * 4  # bytes of a device's share
    assert found == {
        "all-to-all": {"count": 3, "bytes": 3 * own * 3 // 4},
        "collective-permute": {"count": 3, "bytes": 3 * own},
        "all-gather": {"count": 3, "bytes": 3 * own * 4 * 3 // 4},
        "reduce-scatter": {"count": 3, "bytes": 3 * own // 4 * 3},
        "all-reduce": {"count": 3, "bytes": 3 * own * 2 * 3 // 4},
    }


#: Lines of programs that libtpu made, shortened: products as convolutions, a loop whose trip count
#: is in its condition, groups as axes of a mesh, one collective in two fusions.
TPU_HLO = """HloModule step, is_scheduled=true

%condition (p: (s32[], bf16[4,8])) -> pred[] {
  %p = (s32[]{:T(256)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %n = s32[]{:T(256)} constant(12)
  %i = s32[]{:T(256)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(1024)} compare(%i, %n), direction=LT
}

%overlapped.1 (a: bf16[4,8], b: bf16[8,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(1)
  %gathered.1 = bf16[32,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%b), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}, dimensions={0}
  ROOT %product = bf16[4,8]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

%overlapped.2 (c: bf16[8,8]) -> bf16[32,8] {
  %c = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gathered.2 = bf16[32,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%c), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}, dimensions={0}
}

%body (q: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %q = (s32[]{:T(256)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(256)} get-tuple-element(%q), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%q), index=1
  %w = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %y = bf16[4,8]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%overlapped.1
  %z = bf16[32,8]{1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kLoop, calls=%overlapped.2
  ROOT %next = (s32[]{:T(256)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%i.1, %y)
}

ENTRY %main (x0: bf16[4,8], q0: bf16[4,16,12,8], k0: bf16[4,16,12,8]) -> bf16[4,8] {
  %x0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %q0 = bf16[4,16,12,8]{3,1,2,0:T(8,128)(2,1)} parameter(1)
  %k0 = bf16[4,16,12,8]{3,1,2,0:T(8,128)(2,1)} parameter(2)
  %zero = s32[]{:T(256)} constant(0)
  %logits = bf16[4,12,16,16]{2,3,1,0:T(8,128)(2,1)} convolution(%q0, %k0), \
window={size=4x12 stride=3x11 lhs_dilate=4x12}, dim_labels=0b1f_0o1i->01bf
  %start = (s32[]{:T(256)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%zero, %x0)
  %loop = (s32[]{:T(256)}, bf16[4,8]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition, \
body=%body
  ROOT %result = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_programs_for_tpus_are_read():
    costs = count_costs(TPU_HLO, TPU)
    projection, logits = 2 * 4 * 8 * 8, 2 * (4 * 12) * 16 * 16 * 8
    assert costs.flops == 12 * projection + logits
    gather = costs.collectives["all-gather"]
    assert gather == {"count": 12, "bytes": 12 * 32 * 8 * 2 * 3 // 4}
    # In the loop x is read and y written; what is marked S(1) stays on the chip.
    in_loop, outside = 2 * 4 * 8 * 2, 2 * (2 * 4 * 16 * 12 * 8 + 4 * 12 * 16 * 16)
    assert costs.memory_bytes == 12 * in_loop + outside


def test_float32_products_count_the_passes_that_a_tpu_makes_of_them():
    """libtpu says the precision of a product, and nothing where it is the default."""
    projection = 2 * 4 * 8 * 8
    for precision, passes in (("", 1), ("high", 3), ("highest", 6)):
        text = TPU_HLO.replace("bf16[", "f32[")
        if precision:
            text = text.replace("->bf\n", f"->bf, operand_precision={{{precision},{precision}}}\n")
        costs = count_costs(text, TPU)
        logits = costs.flops - 12 * projection
        assert costs.bfloat16_flops == 12 * passes * projection + logits
    assert count_costs(TPU_HLO, TPU).bfloat16_flops == count_costs(TPU_HLO, TPU).flops


#: A layer's activations are sliced from all layers' and written back among them.
STACKED_HLO = """HloModule stacked

%slice_inner (s: f32[12,64], i: s32[]) -> f32[1,64] {
  %s = f32[12,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %one = f32[1,64]{1,0} dynamic-slice(%s, %i, %zero), dynamic_slice_sizes={1,64}
}

%update (s.1: f32[12,64], i.1: s32[]) -> f32[12,64] {
  %s.1 = f32[12,64]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %same = f32[12,64]{1,0} bitcast(%s.1)
  %one.1 = f32[1,64]{1,0} fusion(%same, %i.1), kind=kLoop, calls=%slice_inner
  %twice = f32[1,64]{1,0} add(%one.1, %one.1)
  %zero.1 = s32[] constant(0)
  ROOT %all = f32[12,64]{1,0} dynamic-update-slice(%s.1, %twice, %i.1, %zero.1)
}

ENTRY %main (s.2: f32[12,64], i.2: s32[]) -> f32[12,64] {
  %s.2 = f32[12,64]{1,0} parameter(0)
  %i.2 = s32[] parameter(1)
  ROOT %done = f32[12,64]{1,0} fusion(%s.2, %i.2), kind=kLoop, calls=%update
}
"""


def test_of_what_all_layers_share_only_the_layers_own_part_moves():
    one_layer = 64 * 4
    assert count_costs(STACKED_HLO, TPU).memory_bytes == 2 * one_layer


#: A gather overlaps with a product. The product's fusion passes on the gather's arrays.
OVERLAPPED_HLO = """HloModule overlapped

%product (x: f32[4,8], w: f32[8,8], part: f32[2,8], all: f32[8,8]) -> (f32[4,8], f32[8,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[8,8]{1,0} parameter(1)
  %part = f32[2,8]{1,0} parameter(2)
  %all = f32[8,8]{1,0} parameter(3)
  %y = f32[4,8]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %gathered = f32[8,8]{1,0} all-gather(%part), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %both = (f32[4,8]{1,0}, f32[8,8]{1,0}, f32[8,8]{1,0}) tuple(%y, %all, %gathered)
}

%last (part.1: f32[2,8]) -> f32[8,8] {
  %part.1 = f32[2,8]{1,0} parameter(0)
  ROOT %gathered.1 = f32[8,8]{1,0} all-gather(%part.1), channel_id=1, replica_groups={{0,1,2,3}}
}

ENTRY %main (x.2: f32[4,8], w.2: f32[8,8], part.2: f32[2,8], all.2: f32[8,8]) -> f32[8,8] {
  %x.2 = f32[4,8]{1,0} parameter(0)
  %w.2 = f32[8,8]{1,0} parameter(1)
  %part.2 = f32[2,8]{1,0} parameter(2)
  %all.2 = f32[8,8]{1,0} parameter(3)
  %fused = (f32[4,8]{1,0}, f32[8,8]{1,0}, f32[8,8]{1,0}) fusion(%x.2, %w.2, %part.2, %all.2), \
kind=kOutput, calls=%product
  ROOT %done = f32[8,8]{1,0} fusion(%part.2), kind=kCustom, calls=%last
}
"""


def test_a_gather_counts_once_however_many_fusions_it_overlaps_with():
    product, gather = 4 * (4 * 8 + 8 * 8 + 4 * 8), 4 * (2 * 8 + 8 * 8)
    costs = count_costs(OVERLAPPED_HLO, TPU)
    assert costs.memory_bytes == product + gather
    assert costs.collectives["all-gather"]["count"] == 1


def test_a_loop_that_cannot_be_read_is_an_error():
    text = TPU_HLO.replace("%n = s32[]{:T(256)} constant(12)", "%n = s32[]{:T(256)} add(%i, %i)")
    module = Module.parse(text)
    with pytest.raises(ValueError, match="trip count of the loop loop cannot be read"):
        list(module.list_runs())


@pytest.mark.parametrize(("step", "trips"), [(1, 12), (2, 6), (5, 3)])
def test_a_loop_that_the_compiler_unrolled_counts_in_larger_steps(step: int, trips: int):
    counter = "%i.2 = s32[]{:T(256)} add(%i.1, %step)\n  ROOT %next"
    text = TPU_HLO.replace("tuple(%i.1, %y)", "tuple(%i.2, %y)").replace("ROOT %next", counter)
    text = text.replace("  %i.1 =", f"  %step = s32[]{{:T(256)}} constant({step})\n  %i.1 =")
    assert count_costs(text, TPU).collectives["all-gather"]["count"] == trips


#: A Pallas kernel in attention, and a product of libtpu's, as compiled for v5e, shortened: the
#: kernel's result stays on the chip.
KERNEL_HLO = """HloModule step, is_scheduled=true

FileNames
1 "/code/mswitch/models/nn/block.py"
2 "/code/mswitch/models/nn/attention.py"
3 "/code/mswitch/models/nn/attention_kernel.py"

FunctionNames
1 "Block.__call__"
2 "Attention.attend"
3 "attend"

FileLocations
1 {file_name_id=1 function_name_id=1 line=91 end_line=91 column=12 end_column=12}
2 {file_name_id=2 function_name_id=2 line=131 end_line=131 column=19 end_column=19}
3 {file_name_id=3 function_name_id=3 line=40 end_line=40 column=11 end_column=11}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

ENTRY %main (x: bf16[256,512], y: bf16[512,128]) -> bf16[256,128] {
  %x = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[512,128]{1,0:T(8,128)(2,1)} parameter(1)
  %weighted.1 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} custom-call(%x, %y), \\
custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/weighted/pallas_call" \\
stack_frame_id=3}, backend_config={"flag_configs":[],"custom_call_config":{"body":"TUz{,}",\\
"cost_estimate":{"flops":"33554432","transcendentals":"32768","bytes_accessed":"458752"}}}
  %copied = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} copy(%weighted.1)
  ROOT %out = bf16[256,128]{1,0:T(8,128)(2,1)} convolution(%copied, %copied), \\
dim_labels=bf_oi->bf, metadata={op_name="jit(f)/dot_general" stack_frame_id=2}
}
""".replace("\\\n", "")


def test_a_kernel_counts_as_it_says_and_belongs_to_the_function_that_called_it():
    costs = count_costs(KERNEL_HLO, TPU)
    kernel, product = 2 * 256 * 512 * 128, 2 * 256 * 128 * 256
    read, result = 2 * (256 * 512 + 512 * 128), 2 * 256 * 128
    assert costs.flops == costs.bfloat16_flops == kernel + product
    # What the kernel leaves on the chip is no traffic, nor is its copy there.
    assert costs.memory_bytes == read + result
    secs = {
        "attention": max(kernel / TPU.chip.flops_per_sec, read / TPU.chip.hbm_bytes_per_sec),
        "projections": max(product / TPU.chip.flops_per_sec, result / TPU.chip.hbm_bytes_per_sec),
    }
    assert {name: part["secs"] for name, part in costs.parts.items()} == secs
    assert costs.parts["attention"]["flops"] == kernel


#: Products of a program for GPUs, shortened: XLA calls cuBLAS, which takes a workspace.
GPU_HLO = """HloModule step, is_scheduled=true

ENTRY %main (x: f32[64,32], w: f32[32,128], q: bf16[8,16,4], k: bf16[8,16,4]) -> bf16[8,16,16] {
  %x = f32[64,32]{1,0} parameter(0)
  %w = f32[32,128]{1,0} parameter(1)
  %q = bf16[8,16,4]{2,1,0} parameter(2)
  %k = bf16[8,16,4]{2,1,0} parameter(3)
  %y = (f32[64,128]{1,0}, s8[33554432]{0}) custom-call(%x, %w), \\
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"alpha_real":1,\\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]},\\
"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]},"epilogue":"DEFAULT"}}
  %logits = (bf16[8,16,16]{2,1,0}, s8[33554432]{0}) custom-call(%q, %k), \\
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"alpha_real":1,\\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]},\\
"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]},"epilogue":"DEFAULT"}}
  %sent = ((f32[64,32]{1,0}), f32[64,32]{1,0}) all-to-all-start(%x), channel_id=1, \\
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  %received = f32[64,32]{1,0} all-to-all-done(%sent)
  ROOT %result = bf16[8,16,16]{2,1,0} get-tuple-element(%logits), index=0
}
""".replace("\\\n", "")


def test_programs_for_gpus_are_read():
    hosts = parse_topology("h100:4x2")
    costs = count_costs(GPU_HLO, hosts)
    full, half = 2 * 64 * 128 * 32, 2 * 8 * 16 * 16 * 4
    assert costs.flops == full + half
    # A float32 product is TF32's, at half of bfloat16's rate; with full precision far slower.
    assert costs.bfloat16_flops == 2 * full + half
    exact = count_costs(GPU_HLO.replace("DEFAULT", "HIGHEST"), hosts)
    assert exact.bfloat16_flops == 15 * full + half
    products = 4 * (64 * 32 + 32 * 128 + 64 * 128) + 2 * (2 * 8 * 16 * 4 + 8 * 16 * 16)
    assert costs.memory_bytes == products + 4 * 64 * 32
    # Devices 0, 2, 4, 6: two of the three that a device sends to are on the other host.
    sent = 4 * 64 * 32 * 3 // 4
    assert costs.collectives == {
        "all-to-all": {"count": 1, "bytes": sent, "bytes_between_hosts": sent * 2 // 3}
    }
    secs = compute_roofline(dataclasses.asdict(costs), hosts.chip)
    assert secs["network_secs"] == pytest.approx(sent / 3 / 450e9)
    assert secs["between_hosts_secs"] == pytest.approx(sent * 2 / 3 / 50e9)
    assert "between_hosts_secs" not in compute_roofline(
        dataclasses.asdict(count_costs(GPU_HLO, parse_topology("h100:8"))), hosts.chip
    )


def test_of_a_ring_one_device_a_host_sends_to_another_host():
    text = GPU_HLO.replace("all-to-all", "all-reduce").replace("((f32[64,32]{1,0}), f32", "(f32")
    [kind] = count_costs(text, parse_topology("h100:4x2")).collectives.values()
    assert kind["bytes"] == 2 * 4 * 64 * 32 * 3 // 4
    assert kind["bytes_between_hosts"] == kind["bytes"] // 2


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}", [0, 2, 4, 6]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [0, 2, 4, 6]),
        ("source_target_pairs={{0,1},{1,2},{3,0}}", [3, 0]),
    ],
)
def test_the_devices_of_a_collective_are_read(attributes, group):
    assert read_group(f"channel_id=1, {attributes}, use_global_device_ids=true") == group


def test_unknown_groups_are_an_error():
    with pytest.raises(ValueError, match="unknown replica groups"):
        read_group("replica_groups={}")
