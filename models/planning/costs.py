"""Count a compiled program's costs on one device: FLOPs, memory traffic, collectives."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mswitch.models.hardware import Chip
from mswitch.models.planning.hlo import Instruction, Module
from mswitch.models.planning.parts import PARTS, REST, name_parts
from mswitch.models.planning.products import list_products
from mswitch.models.planning.topology import Topology, share_between_hosts
from mswitch.models.planning.traffic import count_bytes

#: Bytes that each device in a ring of n devices sends per byte of a collective's result.
_SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one step on one device, with loops counted as often as they run.

    Attributes:
        flops: FLOPs of matrix products; a multiply-add is two.
        bfloat16_flops: the same, with each product times its number of bfloat16 passes on the chip.
        memory_bytes: bytes read from and written to HBM by the instructions as scheduled.
        collectives: by kind, such as all-to-all: `count`, the number that run, and `bytes`, which
            one device sends if each is a ring; with several hosts also `bytes_between_hosts`, the
            part of these that leaves its host.
        parts: by part of the step, such as attention: `flops`, `memory_bytes` and `secs`. `secs`
            sums over instructions the longer time of products or traffic at peak rates.
    """

    flops: int
    bfloat16_flops: int
    memory_bytes: int
    collectives: Mapping[str, Mapping[str, int]]
    parts: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def count_costs(text: str, topology: Topology) -> Costs:
    """Count the costs of a program from its optimised HLO."""
    module, chip = Module.parse(text), topology.chip
    parts = {part: {"flops": 0, "memory_bytes": 0, "secs": 0.0} for part in (*PARTS, REST)}
    in_passes, fused = 0, module.list_fused()
    runs: collections.Counter[str] = collections.Counter()
    for name, times in module.list_runs():
        runs[name] += times
    for name, times in runs.items():
        if name in fused:
            continue
        computation = module.computations[name]
        part_names = name_parts(module, computation)
        for instruction in computation.values():
            products = list(list_products(module, computation, instruction, chip.passes))
            bfloat16_flops = sum(flops * passes for flops, passes in products)
            moved = count_bytes(module, computation, instruction)
            part = parts[part_names.get(instruction.name, REST)]
            part["flops"] += sum(flops for flops, _ in products) * times
            part["memory_bytes"] += moved * times
            compute_secs = bfloat16_flops / chip.flops_per_sec
            part["secs"] += times * max(compute_secs, moved / chip.hbm_bytes_per_sec)
            in_passes += bfloat16_flops * times
    return Costs(
        flops=sum(part["flops"] for part in parts.values()),
        bfloat16_flops=in_passes,
        memory_bytes=sum(part["memory_bytes"] for part in parts.values()),
        collectives=_count_collectives(module, runs, fused, topology),
        parts={name: part for name, part in parts.items() if part["secs"]},
    )


def _count_collectives(
    module: Module, runs: Mapping[str, int], fused: set[str], topology: Topology
) -> dict[str, dict[str, int]]:
    channels: dict[str, tuple[str, Instruction, int]] = {}
    for name, times in runs.items():
        for instruction in module.computations[name].values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in _SENT:
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                # A collective appears in every fusion that it overlaps with: count it once, by its
                # channel.
                key = channel[1] if channel and name in fused else instruction.name
                channels[key] = (kind, instruction, max(times, channels.get(key, (0, 0, 0))[2]))
    kinds: dict[str, dict[str, int]] = {}
    for kind, instruction, times in channels.values():
        entry = kinds.setdefault(kind, {"count": 0, "bytes": 0})
        group = read_group(instruction.attributes)
        sent = round(_count_result_bytes(instruction) * _SENT[kind](len(group)))
        entry["count"] += times
        entry["bytes"] += sent * times
        if topology.linked < topology.devices:
            hosts = [device // topology.linked for device in group]
            left = sent * share_between_hosts(kind, len(group), hosts.count(hosts[0]))
            entry["bytes_between_hosts"] = entry.get("bytes_between_hosts", 0) + round(left) * times
    return kinds


def _count_result_bytes(collective: Instruction) -> int:
    """Return the bytes of a collective's result.

    A `-start` instruction may list operands before the result, and scalars after it.
    """
    arrays = [array for array in collective.arrays if array.shape]
    if len(arrays) > len(collective.operands):
        arrays = arrays[len(collective.operands) :]
    return sum(array.bytes for array in arrays)


def read_group(attributes: str) -> list[int]:
    """Read the devices of one group of a collective.

    If the collective has pairs, return the pair whose devices are farthest apart.
    """
    pairs = re.search(r"source_target_pairs=\{(\{[^}]*\}(?:,\{[^}]*\})*)\}", attributes)
    if pairs:
        ends = [[int(end) for end in pair] for pair in re.findall(r"(\d+),(\d+)", pairs[1])]
        return max(ends, key=lambda pair: abs(pair[0] - pair[1]))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return [int(device) for device in listed[1].split(",")]
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]*)\](?:T\(([\d,]*)\))?", attributes)
    if tiled:
        return _arrange(tiled[3], tiled[4]).reshape(int(tiled[1]), int(tiled[2]))[0].tolist()
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]*)\](?:T\(([\d,]*)\))?\))?"
        r"[^{]* \{([^}]*)\}",
        attributes,
    )
    if mesh is None:
        raise ValueError(f"unknown replica groups: {attributes[:120]}")
    sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    taking = re.findall(r"'([^']+)'", mesh[4])
    ids = _arrange(mesh[2], mesh[3]) if mesh[2] else np.arange(math.prod(sizes.values()))
    where = tuple(slice(None) if axis in taking else 0 for axis in sizes)
    return ids.reshape(tuple(sizes.values()))[where].ravel().tolist()


def _arrange(shape: str, order: str | None) -> np.ndarray:
    sizes = [int(size) for size in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(axis) for axis in order.split(",")]) if order else ids


def compute_roofline(costs: Mapping[str, Any], chip: Chip) -> dict[str, float]:
    """Estimate, without a run, how many seconds each resource of a device is busy at peak rate.

    Matrix products count once per pass; all links of a device are in use. A step takes longer than
    the longest of these times, even if they overlapped perfectly. `costs` are a program's `Costs`
    as a dictionary. The network is a slice's links or a host's NVLink; several hosts have another
    between them.
    """
    collectives = costs["collectives"].values()
    sent = sum(collective["bytes"] for collective in collectives)
    left = sum(collective.get("bytes_between_hosts", 0) for collective in collectives)
    secs = {
        "compute_secs": costs["bfloat16_flops"] / chip.flops_per_sec,
        "memory_secs": costs["memory_bytes"] / chip.hbm_bytes_per_sec,
        "network_secs": (sent - left) / chip.link_bytes_per_sec,
    }
    if left and chip.network_bytes_per_sec:
        secs["between_hosts_secs"] = left / chip.network_bytes_per_sec
    return secs
