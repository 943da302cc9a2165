"""TPU slices by name, such as `v5p:4x4x4`, and the figures of their chips."""

import dataclasses
import math
import re

from pipelines.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device of a TPU generation has.

    Peak rates are those that Google publishes for a chip, halved where a chip is two devices.

    Attributes:
        dimensions: of the torus, 2 or 3.
        largest: the largest slice sold, in chips along each dimension.
        devices: JAX devices of a chip.
        hbm_bytes: memory that the compiler lets a program have (what libtpu 0.0.42 says when a
            program exceeds it; a little below the nominal size).
        flops_per_sec: bfloat16 peak.
        hbm_bytes_per_sec: memory bandwidth.
        link_bytes_per_sec: what a device sends to all its neighbours together.
    """

    dimensions: int
    largest: tuple[int, ...]
    devices: int
    hbm_bytes: int
    flops_per_sec: float
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float


#: v4's two cores are one device (megacore), as they are when a v4 slice is used.
CHIPS = {
    "v3": Chip(2, (32, 32), 2, int(15.48 * GIB), 61.5e12, 450e9, 164e9),
    "v4": Chip(3, (16, 16, 16), 1, int(30.75 * GIB), 275e12, 1228e9, 300e9),
    "v5p": Chip(3, (16, 16, 24), 1, int(95.74 * GIB), 459e12, 2765e9, 600e9),
    "v5e": Chip(2, (16, 16), 1, int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v6e": Chip(2, (16, 16), 1, int(31.25 * GIB), 918e12, 1640e9, 448e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice.

    Attributes:
        name: as libtpu knows it.
        chip: figures of one device.
        shape: chips along each dimension.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        """JAX devices of the whole slice."""
        return math.prod(self.shape) * self.chip.devices


def parse_topology(name: str) -> Topology:
    """Read a slice's name.

    Raises:
        UserError: no such slice exists.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology {name} is unknown: give a generation ({', '.join(CHIPS)}) and its chips "
            "along each dimension, such as v5e:16x16 or v5p:4x4x4"
        )
    chip = CHIPS[match[1]]
    shape = tuple(int(size) for size in match[2].split("x"))
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology {name}: slices of {match[1]} have {chip.dimensions} dimensions, not "
            f"{len(shape)}"
        )
    if any(size % 2 for size in shape[:2]) or not all(shape):
        raise UserError(
            f"--topology {name}: a slice is made of hosts of 2x2 chips, so its first two "
            "dimensions are even"
        )
    if any(size > limit for size, limit in zip(sorted(shape), sorted(chip.largest), strict=True)):
        largest = "x".join(str(size) for size in chip.largest)
        raise UserError(f"--topology {name}: the largest slice of {match[1]} is {largest}")
    return Topology(name, chip, shape)
