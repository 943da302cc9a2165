"""Slices of TPUs by name, such as `v5p:4x4x4`, and hosts of GPUs, such as `h100:8x4`."""

import dataclasses
import math
import re
from typing import Literal

from mswitch.models.hardware import CHIPS, Chip
from mswitch.pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU slice, or hosts of GPUs.

    Attributes:
        name: libtpu's name of the slice, or the same form for GPUs.
        chip: figures of one device.
        shape: chips along each dimension; or GPUs per host, and hosts if there are several.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Number of JAX devices in the whole slice."""
        return math.prod(self.shape) * self.chip.devices

    @property
    def linked(self) -> int:
        """Number of devices that fast links join: all devices of a slice, or the GPUs of a host."""
        return self.shape[0] if self.chip.gpu else self.devices

    @property
    def platform(self) -> Literal["tpu", "gpu"]:
        """Kind of device."""
        return "gpu" if self.chip.gpu else "tpu"


def share_between_hosts(kind: str, size: int, linked: int) -> float:
    """Return the share of a collective's traffic that leaves the sending device's host.

    A ring leaves a host once, however many devices it has there. All-to-all sends equally to each
    device.

    Of the `size` devices that take part, `linked` are on each host.
    """
    if size <= linked:
        return 0.0
    return (size - linked) / (size - 1) if kind == "all-to-all" else 1 / linked


def parse_topology(name: str) -> Topology:
    """Parse the name of a TPU slice, or of hosts of GPUs."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology {name} is unknown: give a generation ({', '.join(CHIPS)}) and its chips "
            "along each dimension, such as v5e:16x16 or v5p:4x4x4, or the GPUs of a host and "
            "hosts, such as h100:8 or h100:8x4"
        )
    chip = CHIPS[match[1]]
    shape = tuple(int(size) for size in match[2].split("x"))
    if chip.gpu:
        gpus, *hosts = shape
        if not 0 < gpus <= chip.largest[0] or len(hosts) > 1 or 0 in hosts:
            raise UserError(
                f"--topology {name}: give the GPUs of a host, 1 to {chip.largest[0]}, and the "
                f"number of hosts, such as {match[1]}:8x2"
            )
        return Topology(name, chip, shape)
    if len(shape) != len(chip.largest):
        raise UserError(
            f"--topology {name}: slices of {match[1]} have {len(chip.largest)} dimensions, not "
            f"{len(shape)}"
        )
    if any(size % 2 for size in shape[:2]) or not all(shape):
        raise UserError(
            f"--topology {name}: a slice consists of hosts of 2x2 chips, so its first two "
            "dimensions must be even"
        )
    if any(size > limit for size, limit in zip(sorted(shape), sorted(chip.largest), strict=True)):
        largest = "x".join(str(size) for size in chip.largest)
        raise UserError(f"--topology {name}: the largest slice of {match[1]} is {largest}")
    return Topology(name, chip, shape)
