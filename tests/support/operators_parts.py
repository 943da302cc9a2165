"""A Prefect server and a worker that a test kills and starts again, each alone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from operators_server import (
    START_SECS,
    Served,
    environment_of,
    kill_all_of,
    processes_of,
    until,
)
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import MSWITCH, free_port

_WATCH_SECS = 0.2


class Parts:
    """The two, as processes that lead their groups.

    Args:
        directory: where their home and logs are.
    """

    def __init__(self, directory: Path):
        self.directory, self.port = directory, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {**environment_of(directory), "PREFECT_API_URL": self.api}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_server(self) -> None:
        """Start the server, and wait until it answers."""
        self._start("server", "--host=127.0.0.1", f"--port={self.port}")
        until(self._answers, START_SECS, lambda: self.log("server"))

    def start_worker(self) -> None:
        self._start("worker", "--pool=mswitch", "--name=w")

    def deploy(self) -> None:
        """Give the server what it needs, by the command."""
        words = [*MSWITCH, "deploy", "--operators=operators.toml"]
        subprocess.run(words, cwd=self.directory, env=self.environment, check=True)

    def kill(self, name: str) -> None:
        """Kill -9 one of them."""
        os.killpg(self._running[name].pid, signal.SIGKILL)
        self._running.pop(name).wait()

    def engines(self) -> list[int]:
        found = processes_of(self.directory).items()
        return [pid for pid, words in found if "prefect.engine" in words]

    def jobs(self) -> dict[str, set[int]]:
        """The process groups that train or evaluate, by what they make."""
        found: dict[str, set[int]] = defaultdict(set)
        for pid, words in processes_of(self.directory).items():
            for stage, option in (("train", "--out="), ("evaluate", "--run=")):
                if stage in words:
                    [out] = [word for word in words if word.startswith(option)]
                    with contextlib.suppress(ProcessLookupError):
                        found[f"{stage} {out}"].add(os.getpgid(pid))
        return found

    def log(self, name: str) -> str:
        """What one of them wrote."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def end(self) -> list[list[str]]:
        """End both; return the arguments of processes that are left, which are killed."""
        for name in ("worker", "server"):
            if (process := self._running.get(name)) is not None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    # Prefect's worker may go on after a SIGTERM that comes while it starts a run.
                    process.kill()
                    process.wait()
        return kill_all_of(self.directory)

    def _start(self, name: str, *words: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", name, "start", *words],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.api}/health", timeout=5).status_code == 200
        return False


@contextlib.contextmanager
def parts(directory: Path, operators: str) -> Iterator[tuple[Parts, Served]]:
    """Run a server; give it, and what to ask it. At the end nothing of it is left.

    Args:
        directory: its home.
        operators: operators.toml, with `{port}` where that of the server goes.
    """
    made = Parts(directory)
    (directory / "operators.toml").write_text(operators.format(port=made.port))
    try:
        made.start_server()
        with (
            temporary_settings({PREFECT_API_URL: made.api}),
            get_client(sync_client=True) as client,
        ):
            yield made, Served(directory, client, made.api)
    finally:
        left = made.end()
    assert not left, left


class JobsWatched:
    """Looks at every process all the time, and notes outputs that two living jobs make."""

    def __init__(self, made: Parts) -> None:
        self.doubled: set[str] = set()
        self._made, self._over = made, threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "JobsWatched":
        self._watching = self._thread.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.result()

    def _watch(self) -> None:
        while not self._over.wait(_WATCH_SECS):
            for out, groups in self._made.jobs().items():
                if len(groups) > 1:
                    self.doubled.add(f"{out}: process groups {sorted(groups)}")
