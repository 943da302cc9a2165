"""Waiting for processes, and addresses for them."""

import socket
import time
from collections.abc import Callable
from pathlib import Path


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
