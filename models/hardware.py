"""Peak rates and memory of accelerators, as their makers publish them."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device of a TPU generation has.

    Peak rates are those that Google publishes for a chip, halved where a chip is two devices.

    Attributes:
        largest: the largest slice sold, in chips along each dimension of the torus.
        devices: JAX devices of a chip.
        hbm_bytes: memory that the compiler lets a program have (what libtpu 0.0.42 says when a
            program exceeds it; a little below the nominal size).
        flops_per_sec: bfloat16 peak.
        hbm_bytes_per_sec: memory bandwidth.
        link_bytes_per_sec: what a device sends to all its neighbours together.
    """

    largest: tuple[int, ...]
    devices: int
    hbm_bytes: int
    flops_per_sec: float
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float


#: v4's two cores are one device (megacore), as they are when a v4 slice is used.
CHIPS = {
    "v3": Chip((32, 32), 2, int(15.48 * GIB), 61.5e12, 450e9, 164e9),
    "v4": Chip((16, 16, 16), 1, int(30.75 * GIB), 275e12, 1228e9, 300e9),
    "v5p": Chip((16, 16, 24), 1, int(95.74 * GIB), 459e12, 2765e9, 600e9),
    "v5e": Chip((16, 16), 1, int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v6e": Chip((16, 16), 1, int(31.25 * GIB), 918e12, 1640e9, 448e9),
}


#: bfloat16 peak of a device, FLOPs a second, as makers publish it (NVIDIA's without sparsity), by
#: the beginning of JAX's name for it.
PEAKS = {
    "TPU v3": CHIPS["v3"].flops_per_sec,
    "TPU v4": CHIPS["v4"].flops_per_sec,
    "TPU v5 lite": CHIPS["v5e"].flops_per_sec,
    "TPU v5e": CHIPS["v5e"].flops_per_sec,
    "TPU v5": CHIPS["v5p"].flops_per_sec,
    "TPU v6": CHIPS["v6e"].flops_per_sec,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """The bfloat16 peak of a device, or None where it is not known, as of CPUs."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)
