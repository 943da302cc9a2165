"""What a compiled program costs one device: FLOPs, bytes to and from memory, collectives."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from mswitch.models.hardware import Chip
from mswitch.models.planning.hlo import Computation, Instruction, Module

#: Collectives, and how many times its result's bytes a ring of n devices makes one device send.
_SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}

#: By an operand's precision; XLA says nothing where it is the default.
_PASSES = {"default": 1, "high": 3, "highest": 6}

#: Instructions that move nothing: names for memory, or parts that are counted on their own.
_FREE = frozenset(
    (
        "",
        "after-all",
        "bitcast",
        "call",
        "conditional",
        "constant",
        "get-tuple-element",
        "iota",
        "optimization-barrier",
        "parameter",
        "partition-id",
        "tuple",
        "while",
    )
)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one device does in one step, loops counted as often as they run.

    Attributes:
        flops: of matrix products, a multiply-add being two.
        bfloat16_flops: the same, each product times the bfloat16 passes that a TPU makes of it.
        memory_bytes: read from and written to HBM by the instructions as scheduled.
        collectives: by kind, such as all-to-all: `count`, how many run, and `bytes`, what one
            device sends, if each is done as a ring.
    """

    flops: int
    bfloat16_flops: int
    memory_bytes: int
    collectives: Mapping[str, Mapping[str, int]]


def costs_of(text: str) -> Costs:
    """Count the costs of optimised HLO."""
    module = Module.parse(text)
    fused = {
        name
        for computation in module.computations.values()
        for instruction in computation.values()
        if instruction.opcode == "fusion"
        for name in instruction.called()
    }
    flops, in_passes, memory, channels = 0, 0, 0, {}
    runs: collections.Counter[str] = collections.Counter()
    for name, times in module.runs():
        runs[name] += times
    for name, times in runs.items():
        if name not in fused:
            memory += _memory_bytes(module, name) * times
        computation = module.computations[name]
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in _PRODUCTS:
                product = _PRODUCTS[kind](instruction, computation) * times
                flops += product
                in_passes += product * _passes(instruction, computation)
            elif kind in _SENT:
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                # One collective stands in each of the fusions that it overlaps with.
                key = channel[1] if channel and name in fused else instruction.name
                channels[key] = (kind, instruction, max(times, channels.get(key, (0, 0, 0))[2]))
    return Costs(flops, in_passes, memory, _collectives(channels.values()))


def _collectives(found) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for kind, instruction, times in found:
        size = instruction.bytes
        if instruction.opcode in ("all-gather-start", "collective-permute-start"):
            # The result of such a start is operands, results, and further scalars.
            parts = [array for array in instruction.arrays if array.shape]
            size = sum(array.bytes for array in parts[len(parts) // 2 :])
        devices = group_size(instruction.attributes)
        entry = kinds.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += times
        entry["bytes"] += round(size * _SENT[kind](devices)) * times
    return kinds


def group_size(attributes: str) -> int:
    """Devices that take part in one instance of a collective."""
    if "source_target_pairs=" in attributes:
        return 2
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if tiled:
        return int(tiled[1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    raise ValueError(f"unknown replica groups: {attributes[:120]}")


def _passes(product: Instruction, computation: Computation) -> int:
    """Products of bfloat16 parts that a TPU adds up for a product of float32 values."""
    if all(computation[name].arrays[0].dtype == "bf16" for name in product.operands[:2]):
        return 1
    precision = re.search(r"operand_precision=\{(\w+)", product.attributes)
    return _PASSES[precision[1]] if precision else 1


def dot_flops(dot: Instruction, computation: Computation) -> int:
    """FLOPs of a `dot`: two for every result value and contracted position."""
    left = computation[dot.operands[0]].arrays[0].shape
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    sizes = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * math.prod(dot.arrays[0].shape) * math.prod(sizes)


def convolution_flops(convolution: Instruction, computation: Computation) -> int:
    """FLOPs of a `convolution`, as which TPUs run every matrix product.

    Batch dimensions of a product become spatial ones, of which padding and dilation leave only
    the positions where both operands have values: just those count.
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
        positions *= _valid_positions(
            out=result[labels[3].index(str(dimension))],
            size=left[labels[1].index(str(dimension))],
            window=kernel[labels[2].index(str(dimension))],
            stride=int(field("stride", dimension, "1")),
            low=low,
            dilation=int(field("lhs_dilate", dimension, "1")),
            window_dilation=int(field("rhs_dilate", dimension, "1")),
        )
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    # The kernel's `i` is already the share of one feature group.
    batch = left[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    return 2 * positions * batch * kernel[labels[2].index("i")] * kernel[labels[2].index("o")]


def _valid_positions(
    *, out: int, size: int, window: int, stride: int, low: int, dilation: int, window_dilation: int
) -> int:
    """Pairs of output and window positions that meet a value of the input."""
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


#: Matrix products, and what counts their FLOPs.
_PRODUCTS = {"dot": dot_flops, "convolution": convolution_flops}


def _memory_bytes(module: Module, name: str) -> int:
    computation = module.computations[name]
    total = 0
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-start"):
            continue
        if opcode == "custom-call" and not instruction.operands:
            continue  # memory set aside, not yet written
        if opcode in ("dynamic-slice", "gather"):
            total += 2 * _in_hbm(instruction)
        elif opcode == "dynamic-update-slice":
            total += 2 * _in_hbm(computation[instruction.operands[1]])
        elif opcode == "fusion":
            total += _fusion_bytes(module, computation, instruction)
        else:
            total += _in_hbm(instruction)
            if not opcode.endswith("-done"):
                total += sum(_in_hbm(computation[name]) for name in instruction.operands)
    return total


def _in_hbm(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays if array.in_hbm and array.shape)


def _fusion_bytes(module: Module, computation: Computation, fusion: Instruction) -> int:
    """Bytes of a fusion: its operands and results, or the parts it touches of large ones."""
    inside = module.computations[fusion.called()[0]]
    total = 0
    for parameter in inside.values():
        if parameter.opcode == "parameter":
            operand = computation[fusion.operands[int(parameter.literal)]]
            total += min(_in_hbm(operand), _bytes_read(module, inside, parameter))
    return total + sum(
        _bytes_written(module, inside, one) for one in inside.values() if one.is_root
    )


def _bytes_read(module: Module, inside: Computation, value: Instruction) -> int:
    """Bytes that a fused computation reads of a value: of one it slices, only the slices."""
    total = 0
    for user in inside.values():
        if value.name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "gather", "slice"):
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # written in place
        elif user.opcode == "bitcast":
            total += _bytes_read(module, inside, user)
        elif user.opcode == "fusion":
            nested = module.computations[user.called()[0]]
            total += sum(
                _bytes_read(module, nested, one)
                for one in nested.values()
                if one.opcode == "parameter" and user.operands[int(one.literal)] == value.name
            )
        else:
            return value.bytes
    return min(total, value.bytes)


def _bytes_written(module: Module, inside: Computation, root: Instruction) -> int:
    """Bytes of a fused computation's result: of one it updates in place, only the update."""
    if root.opcode == "tuple":
        return sum(_bytes_written(module, inside, inside[name]) for name in root.operands)
    if root.opcode == "bitcast":
        return _bytes_written(module, inside, inside[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return inside[root.operands[1]].bytes
    if root.opcode == "fusion":
        nested = module.computations[root.called()[0]]
        return sum(_bytes_written(module, nested, one) for one in nested.values() if one.is_root)
    return _in_hbm(root)


def roofline(costs: Mapping[str, Any], chip: Chip) -> dict[str, float]:
    """Seconds that each resource of a device would be busy at its peak rate; nothing was run.

    Matrix products count as often as they have passes; all links of a device are in use. A step
    takes longer than the longest of the three, which is as if they overlapped perfectly. `costs`
    are a program's `Costs` as a dictionary.
    """
    sent = sum(collective["bytes"] for collective in costs["collectives"].values())
    return {
        "compute_secs": costs["bfloat16_flops"] / chip.flops_per_sec,
        "memory_secs": costs["memory_bytes"] / chip.hbm_bytes_per_sec,
        "network_secs": sent / chip.link_bytes_per_sec,
    }
