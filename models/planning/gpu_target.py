"""Describe a GPU to XLA, which then compiles for it while it is absent."""

from mswitch.models.hardware import Chip

#: Properties that are equal in all supported GPUs, and the cuDNN release that XLA may use.
_COMMON = """
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
"""
_CUDNN = "dnn_version_info { major: 9 minor: 10 }"
#: Bytes of a multiprocessor's shared memory that no block can use.
_RESERVED = 1024


def describe_gpu(chip: Chip) -> str:
    """Return XLA's description of a GPU, a GpuTargetConfigProto as text."""
    gpu = chip.gpu
    if gpu is None:
        raise ValueError("the chip is a TPU")
    major, minor = gpu.compute_capability
    return f"""gpu_device_info {{{_COMMON}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock_ghz}
  memory_bandwidth: {chip.hbm_bytes_per_sec:.0f}
  device_memory_size: {gpu.memory_bytes}
  l2_cache_size: {gpu.l2_bytes}
  shared_memory_per_core: {gpu.shared_bytes}
  shared_memory_per_block_optin: {gpu.shared_bytes - _RESERVED}
}}
platform_name: "CUDA"
device_description_str: "{gpu.name}"
{_CUDNN}
"""
