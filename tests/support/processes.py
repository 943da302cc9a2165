"""Starting processes and waiting for them, and addresses for them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def on_devices(count: int, **variables: str) -> dict[str, str]:
    """The environment of a process that has so many CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **variables}


def start(*words: object, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Start Python with these words and environment variables; its errors can be read."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=on_devices(devices, **variables) if devices > 1 else {**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_mswitch(*words: object, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Start a command of mswitch."""
    return start("-m", "mswitch.flows.cli.main", *words, devices=devices, **variables)


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait until a process ends with a code; what it said."""
    _, errors = process.communicate()
    assert process.returncode == code, errors
    return errors


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Look until the condition holds; fail after these seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether a process runs: one that has ended may be there until somebody asks how."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_steps(metrics: Path, *processes: object) -> Callable[[], bool]:
    """Whether three steps are written down, while all these processes run."""

    def condition() -> bool:
        assert [process.poll() for process in processes] == [None] * len(processes)
        return metrics.exists() and metrics.read_text().count("\n") >= 3

    return condition
