"""Count the FLOPs of matrix products, and the FLOPs that custom calls declare."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mswitch.models.planning.hlo import Computation, Instruction, Module

_CONFIG = "backend_config="


class Products(NamedTuple):
    """FLOPs of matrix products.

    Attributes:
        flops: FLOPs; a multiply-add is two.
        bfloat16_flops: the same, with each product times its number of bfloat16 passes.
    """

    flops: int = 0
    bfloat16_flops: int = 0


def count_products(
    module: Module, computation: Computation, instruction: Instruction, passes: Mapping[str, int]
) -> Products:
    """Count the FLOPs of an instruction, including instructions fused in it.

    Args:
        module: the program.
        computation: the computation with the instruction.
        instruction: the instruction.
        passes: passes of the chip (`mswitch.models.hardware.Chip`).
    """
    if instruction.opcode == "fusion":
        inside = [module.computations[name] for name in instruction.list_called()]
        each = [
            count_products(module, own, inner, passes) for own in inside for inner in own.values()
        ]
        return Products(*map(sum, zip((0, 0), *each, strict=True)))
    if instruction.opcode == "custom-call":
        return _count_custom_call_products(instruction, computation, passes)
    if instruction.opcode not in _PRODUCTS:
        return Products()
    flops = _PRODUCTS[instruction.opcode](instruction, computation)
    precision = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
    return _count_passes(
        flops, instruction, computation, passes, precision[1] if precision else None
    )


def _count_passes(
    flops: int,
    product: Instruction,
    computation: Computation,
    passes: Mapping[str, int],
    precision: str | None,
) -> Products:
    """Count a product once for each pass; if `precision` is None, XLA uses its default."""
    if all(computation[name].arrays[0].dtype == "bf16" for name in product.operands[:2]):
        return Products(flops, flops)
    return Products(flops, flops * passes[(precision or "default").lower()])


def _count_custom_call_products(
    call: Instruction, computation: Computation, passes: Mapping[str, int]
) -> Products:
    if estimate := read_estimate(call):
        return Products(estimate["flops"], estimate["flops"])
    if not call.target.startswith("__cublas"):
        return Products()
    gemm = _read_backend_config(call)["gemm_backend_config"]
    left = computation[call.operands[0]].arrays[0].shape
    contracted = gemm["dot_dimension_numbers"]["lhs_contracting_dimensions"]
    flops = 2 * math.prod(call.arrays[0].shape) * math.prod(left[int(axis)] for axis in contracted)
    precision = gemm["precision_config"]["operand_precision"][0]
    return _count_passes(flops, call, computation, passes, precision)


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
    left = computation[dot.operands[0]].arrays[0].shape
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    sizes = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * math.prod(dot.arrays[0].shape) * math.prod(sizes)


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
    # The kernel's dimension `i` counts only the input features of one group.
    batch = left[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    return 2 * positions * batch * kernel[labels[2].index("i")] * kernel[labels[2].index("o")]


def _count_valid_positions(
    *, out: int, size: int, window: int, stride: int, low: int, dilation: int, window_dilation: int
) -> int:
    """Count the pairs of output and window positions at which the input has a value."""
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
