"""TPU slices by name, such as `v5p:4x4x4`."""

import dataclasses
import math
import re

from mswitch.models.hardware import CHIPS, Chip
from mswitch.pipelines.errors import UserError


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
    """Read a slice's name."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology {name} is unknown: give a generation ({', '.join(CHIPS)}) and its chips "
            "along each dimension, such as v5e:16x16 or v5p:4x4x4"
        )
    chip = CHIPS[match[1]]
    shape = tuple(int(size) for size in match[2].split("x"))
    if len(shape) != len(chip.largest):
        raise UserError(
            f"--topology {name}: slices of {match[1]} have {len(chip.largest)} dimensions, not "
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
