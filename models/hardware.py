"""Peak rates and memory of accelerators, as published by their makers."""

import dataclasses
from collections.abc import Mapping

GIB = 2**30
#: Share of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
JAX_GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Properties of a GPU that XLA needs to compile for it when it is absent.

    Attributes:
        name: NVIDIA's name for it.
        compute_capability: such as 9.0.
        cores: streaming multiprocessors.
        fpus: float32 units per multiprocessor.
        clock_ghz: highest clock rate.
        memory_bytes: all of its memory.
        l2_bytes: size of its second-level cache.
        shared_bytes: shared memory of a multiprocessor.
    """

    name: str
    compute_capability: tuple[int, int]
    cores: int
    fpus: int
    clock_ghz: float
    memory_bytes: int
    l2_bytes: int
    shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates and memory of one JAX device: a TPU of some generation, or a GPU.

    Google publishes peak rates per chip; they are halved if a chip is two devices. NVIDIA's are
    without sparsity.

    Attributes:
        largest: the largest slice sold, in chips along each dimension of the torus; or the GPUs
            of a host.
        devices: JAX devices of a chip.
        hbm_bytes: memory that a program may take. For TPUs, the limit that libtpu 0.0.42 reports
            if a program exceeds it, a little below the nominal size. For GPUs, JAX's share.
        flops_per_sec: bfloat16 peak.
        hbm_bytes_per_sec: memory bandwidth.
        link_bytes_per_sec: rate at which a device sends to all its neighbours together, over a
            torus or NVLink.
        network_bytes_per_sec: rate at which a GPU sends to other hosts.
        passes: by an operand's precision, the time of a product of float32 values relative to
            bfloat16's.
        gpu: the GPU; None for a TPU.
    """

    largest: tuple[int, ...]
    devices: int
    hbm_bytes: int
    flops_per_sec: float
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float
    network_bytes_per_sec: float | None = None
    # Passes of a product by precision: a TPU splits float32 values into bfloat16 parts, multiplies
    # the parts, and adds up the products.
    passes: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"default": 1, "high": 3, "highest": 6}
    )
    gpu: Gpu | None = None


def _describe_chip(
    gpu: Gpu, flops: float, hbm: float, link: float, *, network: float, float32_flops: float
) -> Chip:
    """Describe a GPU by its peak rates; float32 products run as TF32, at half of `flops`."""
    passes = {"default": 2, "high": 2, "highest": round(flops / float32_flops)}
    memory = int(JAX_GPU_SHARE * gpu.memory_bytes)
    return Chip((8,), 1, memory, flops, hbm, link, network, passes, gpu)


_A100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 85_100_068_864, 40 << 20, 164 << 10)
_H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 84_942_979_072, 50 << 20, 228 << 10)
_H200 = dataclasses.replace(_H100, name="NVIDIA H200", memory_bytes=151_397_597_184)
_B200 = Gpu("NVIDIA B200", (10, 0), 148, 128, 1.965, 191_514_411_008, 132_644_864, 228 << 10)

#: The two cores of a v4 chip are one device (megacore), as in a real v4 slice. A host of GPUs is
#: NVIDIA's DGX or HGX, with eight GPUs and a network card for each. NVLink's rate is for one
#: direction.
CHIPS = {
    "v3": Chip((32, 32), 2, int(15.48 * GIB), 61.5e12, 450e9, 164e9),
    "v4": Chip((16, 16, 16), 1, int(30.75 * GIB), 275e12, 1228e9, 300e9),
    "v5p": Chip((16, 16, 24), 1, int(95.74 * GIB), 459e12, 2765e9, 600e9),
    "v5e": Chip((16, 16), 1, int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v6e": Chip((16, 16), 1, int(31.25 * GIB), 918e12, 1640e9, 448e9),
    "a100": _describe_chip(_A100, 312e12, 2039e9, 300e9, network=25e9, float32_flops=19.5e12),
    "h100": _describe_chip(_H100, 989e12, 3352e9, 450e9, network=50e9, float32_flops=67e12),
    "h200": _describe_chip(_H200, 989e12, 4800e9, 450e9, network=50e9, float32_flops=67e12),
    "b200": _describe_chip(_B200, 2250e12, 7672e9, 900e9, network=50e9, float32_flops=75e12),
}


#: Published bfloat16 peak of a device, in FLOPs per second (NVIDIA's without sparsity). Keys are
#: prefixes of JAX's names for devices.
PEAKS = {
    "TPU v3": CHIPS["v3"].flops_per_sec,
    "TPU v4": CHIPS["v4"].flops_per_sec,
    "TPU v5 lite": CHIPS["v5e"].flops_per_sec,
    "TPU v5e": CHIPS["v5e"].flops_per_sec,
    "TPU v5": CHIPS["v5p"].flops_per_sec,
    "TPU v6": CHIPS["v6e"].flops_per_sec,
    "NVIDIA A100": CHIPS["a100"].flops_per_sec,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": CHIPS["h100"].flops_per_sec,
    "NVIDIA H200": CHIPS["h200"].flops_per_sec,
    "NVIDIA B200": CHIPS["b200"].flops_per_sec,
}


def find_peak_flops(device_kind: str) -> float | None:
    """Return the bfloat16 peak of a device, or None if it is unknown, as for CPUs."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)
