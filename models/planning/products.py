"""Count the FLOPs of matrix products, and the FLOPs that custom calls declare."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mswitch.models.planning.hlo import Computation, Instruction, Module

_CONFIG = "backend_config="


def list_products(
    module: Module, computation: Computation, instruction: Instruction, passes: Mapping[str, int]
) -> Iterator[tuple[int, int]]:
    """Yield the FLOPs and the number of bfloat16 passes of each matrix product in an instruction.

    A multiply-add is two FLOPs. A fusion has the products of the instructions fused in it.

    `passes` are the chip's (`mswitch.models.hardware.Chip`).
    """
    if instruction.opcode == "fusion":
        inside = module.find_fused(instruction)
        for inner in inside.values():
            yield from list_products(module, inside, inner, passes)
        return
    if estimate := read_estimate(instruction):
        yield estimate["flops"], 1
        return
    if instruction.opcode == "custom-call" and instruction.target.startswith("__cudnn$fmha"):
        q, k = (computation[name].arrays[0].shape for name in instruction.operands[:2])
        products = 5 if "Backward" in instruction.target else 2
        yield products * 2 * math.prod(q) * k[1], 1
        return
    if instruction.opcode in _PRODUCTS:
        flops = _PRODUCTS[instruction.opcode](instruction, computation)
        named = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
        precision = named[1] if named else "default"
    elif instruction.opcode == "custom-call" and instruction.target.startswith("__cublas"):
        gemm = _read_backend_config(instruction)["gemm_backend_config"]
        contracted = gemm["dot_dimension_numbers"]["lhs_contracting_dimensions"]
        flops = _count_contracted_flops(instruction, computation, contracted)
        precision = gemm["precision_config"]["operand_precision"][0].lower()
    else:
        return
    operands = (computation[name] for name in instruction.operands[:2])
    in_bfloat16 = all(operand.arrays[0].dtype == "bf16" for operand in operands)
    yield flops, 1 if in_bfloat16 else passes[precision]


def read_estimate(call: Instruction) -> dict[str, int] | None:
    """Read a Pallas kernel's own estimate of its costs: flops and bytes_accessed."""
    if call.opcode != "custom-call" or "cost_estimate" not in call.attributes:
        return None
    estimate = _read_backend_config(call)["custom_call_config"]["cost_estimate"]
    return {name: int(estimate.get(name, 0)) for name in ("flops", "bytes_accessed")}


def _read_backend_config(call: Instruction) -> dict[str, Any]:
    start = call.attributes.index(_CONFIG) + len(_CONFIG)
    return json.JSONDecoder().raw_decode(call.attributes, start)[0]


def count_dot_flops(dot: Instruction, computation: Computation) -> int:
    """Count the FLOPs of a `dot`: two for every result value and contracted position."""
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [axis for axis in contracted[1].split(",") if axis] if contracted else []
    return _count_contracted_flops(dot, computation, axes)


def _count_contracted_flops(
    product: Instruction, computation: Computation, axes: Iterable[str]
) -> int:
    left = computation[product.operands[0]].arrays[0].shape
    return 2 * math.prod(product.arrays[0].shape) * math.prod(left[int(axis)] for axis in axes)


def count_convolution_flops(convolution: Instruction, computation: Computation) -> int:
    """Count the FLOPs of a `convolution`; on TPUs every matrix product is a convolution.

    Batch dimensions of a product become spatial ones, with padding and dilation. Only positions
    where both operands have values count.
    """
    left, kernel = (computation[name].arrays[0].shape for name in convolution.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {convolution.name}")
    window = re.search(r"window=\{([^}]*)\}", convolution.attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    result = convolution.arrays[0].shape

    def field(name: str, dimension: int, default: str) -> str:
        return fields[name].split("x")[dimension] if name in fields else default

    positions = 1
    for dimension in range(len(labels[1]) - 2):
        low = int(field("pad", dimension, "0_0").split("_")[0])
        positions *= _count_valid_positions(
            out=result[labels[3].index(str(dimension))],
            size=left[labels[1].index(str(dimension))],
            window=kernel[labels[2].index(str(dimension))],
            stride=int(field("stride", dimension, "1")),
            low=low,
            dilation=int(field("lhs_dilate", dimension, "1")),
            window_dilation=int(field("rhs_dilate", dimension, "1")),
        )
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    # The kernel's dimension `i` counts one group's inputs: do not divide by feature_group_count.
    batch = left[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    return 2 * positions * batch * kernel[labels[2].index("i")] * kernel[labels[2].index("o")]


def _count_valid_positions(
    *, out: int, size: int, window: int, stride: int, low: int, dilation: int, window_dilation: int
) -> int:
    """Count pairs of output position and kernel tap that read an input, not padding or a gap."""
    last = (size - 1) * dilation
    valid = 0
    for tap in range(window):
        offset = tap * window_dilation - low
        if stride == 1 and dilation == 1:
            valid += max(0, min(out, size - offset) - max(0, -offset))
            continue
        positions = range(offset, offset + out * stride, stride)
        valid += sum(0 <= position <= last and position % dilation == 0 for position in positions)
    return valid


_PRODUCTS = {"dot": count_dot_flops, "convolution": count_convolution_flops}
