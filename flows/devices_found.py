"""Find JAX's devices in a separate process."""

import dataclasses
import json
import subprocess
import sys

from mswitch.pipelines.errors import UserError

_USER_ERROR = f"{UserError.__module__}.{UserError.__qualname__}"
_SCRIPT = """
import json, jax
from mswitch.models.device_errors import check_devices
check_devices()
device = jax.devices()[0]
memory = (device.memory_stats() or {}).get("bytes_limit", 0)
print(json.dumps([jax.default_backend(), device.device_kind, jax.device_count(), memory]))
"""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of one process.

    Attributes:
        platform: `cpu`, `gpu` or `tpu`.
        kind: JAX's name of a device.
        count: number of devices; a CPU is one.
        memory_bytes: memory of a device that JAX may use; 0 if JAX does not say, as for a CPU.
    """

    platform: str
    kind: str
    count: int
    memory_bytes: int = 0


def find_devices() -> Devices:
    """Find devices in a separate process: a bad driver may hang, and JAX takes a GPU's memory."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _SCRIPT],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError("no answer in 120 s; try JAX_PLATFORMS=cpu") from error
    if done.returncode:
        silent = f"JAX ended silently with code {done.returncode}; try JAX_PLATFORMS=cpu"
        reason = (done.stderr.strip().splitlines() or [silent])[-1]
        raise UserError(reason.removeprefix(f"{_USER_ERROR}: "))
    return Devices(*json.loads(done.stdout.splitlines()[-1]))
