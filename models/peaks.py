"""Peak rates of accelerators, to say which share of one a training step uses (MFU)."""

from models.planning.topology import CHIPS

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
