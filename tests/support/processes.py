"""Starting processes and waiting for them, and addresses for them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

MSWITCH = (sys.executable, "-m", "mswitch.flows.cli.main")


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
    return start(*MSWITCH[1:], *words, devices=devices, **variables)


def run_python(
    *words: object, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these words and environment variables to its end, whatever that is."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def output_of(*words: object, cwd: Path | None = None, **variables: str) -> str:
    """Run Python with these words to its end, which must be a good one; what it printed."""
    done = run_python(*words, cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_mswitch(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of mswitch."""
    return run_python("-m", "mswitch.flows.cli.main", *words, **variables)


def run_to_fault(fault: str, *words: object, **variables: str) -> int:
    """Run a command of mswitch whose process, or that of a job of it, is killed; return its code.

    It would start the job again, which would be killed again: so it is killed too.
    """
    process = start_mswitch(*words, MSWITCH_FAULT=fault, **variables)
    assert process.stderr
    for line in process.stderr:
        print(line, end="", file=sys.stderr)
        if " killed (signal 9); continues at " in line:
            process.kill()
    return process.wait()


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait until a process ends with a code; what it said."""
    _, errors = process.communicate()
    assert process.returncode == code, errors
    return errors


def wait_for(
    look: Callable[[], Any],
    seconds: float = 60,
    why: Callable[[], object] = lambda: "",
    every: float = 0.02,
) -> Any:
    """What `look` returns once it is true; fail after these seconds, and say why."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {why()}"
        time.sleep(every)
    return found


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


class LocalCluster:
    """Context manager that runs the programs of a cluster on this machine, and ends them all.

    Attributes:
        top: its folder.
        path: where its programs are.
        environment: what a client of the cluster needs in its environment.
    """

    def __init__(self, top: Path, path: str, environment: dict[str, str]):
        self.top, self.path, self.environment = top, path, environment
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self) -> None:
        """Start all programs, and wait until the cluster answers."""
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self.processes.values())):
            _signal_group(process, signal.SIGCONT)
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def log(self, name: str) -> Path:
        """What a program writes."""
        return self.top / f"{Path(name).name}.out"

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program, the first word of its name here."""
        with self.log(name).open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [name.partition(" ")[0], *words],
                env={**os.environ, **self.environment, "PATH": self.path},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self.processes[name]

    def ask(self, *words: str, given: str | None = None) -> str:
        """What a program of the cluster says; nothing where it fails."""
        done = subprocess.run(
            words,
            input=given,
            env={**os.environ, **self.environment, "PATH": self.path},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process that leads its group, and to what it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
