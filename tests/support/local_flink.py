"""A standalone Flink cluster on this machine: job manager, task managers, job server, workers.

It is the real thing in small: separate JVMs that talk over sockets, from Flink's own distribution.
`make setup-flink` fetches what it needs into `.flink`, and `make flink` runs this file: a cluster
until Ctrl-C or SIGTERM. All of it listens on loopback but Beam's job server, which has no such
setting and takes jobs from any interface: run it behind a firewall.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import LocalCluster, free_port

from mswitch.pipelines.errors import UserError

#: Where `make setup-flink` puts the job server and Flink's distribution.
INSTALLATION = Path(__file__).parents[2] / ".flink"

SLOTS_PER_TASK_MANAGER = 2
_START_SECS = 120
_HEAP = "-Xmx384m"

# Flink's serialisers reflect on the JDK's own classes, which Java 17 has to be told of.
_OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.lang.reflect",
        "java.net",
        "java.io",
        "java.nio",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "java.util.concurrent.locks",
        "sun.nio.ch",
    )
]


class LocalFlinkCluster(LocalCluster):
    """Context manager that runs a cluster and ends all of its processes.

    Attributes:
        rest_url: Flink's REST interface and web page.
        job_endpoint: where Beam submits jobs.
        task_managers: their processes, in the order they were started.
    """

    def __init__(self, top: Path, *, task_managers: int = 2):
        """Plan a cluster.

        Args:
            top: for configuration, logs and temporary files.
            task_managers: how many to start, each with SLOTS_PER_TASK_MANAGER slots.
        """
        if missing := what_is_missing():
            raise UserError(missing)
        super().__init__(top, os.environ["PATH"], {})
        self._count = task_managers
        self.task_managers: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        rpc, rest, jobs, workers = (free_port() for _ in range(4))
        self.rest_url = f"http://127.0.0.1:{rest}"
        self.job_endpoint = f"127.0.0.1:{jobs}"
        self._worker_endpoint = f"127.0.0.1:{workers}"
        self._write_configuration(rpc, rest)
        entrypoint = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self._flink("jobmanager", entrypoint, "--executionMode", "cluster")
        for _ in range(self._count):
            self.start_task_manager()
        pool = ("-m", "mswitch.pipelines.flink.worker_pool", str(workers))
        self.start(f"{sys.executable} workers", *pool)
        options = {
            "flink-master": f"127.0.0.1:{rest}",
            "job-host": "127.0.0.1",
            "job-port": jobs,
            "artifact-port": 0,
            "expansion-port": 0,
            "artifacts-dir": self.top / "artifacts",
        }
        jar = str(INSTALLATION / "flink-job-server.jar")
        flags = [f"--{name}={value}" for name, value in options.items()]
        self.start("java jobserver", _HEAP, "-jar", jar, *flags)
        self._wait("task managers", lambda: self._registered() >= self._count)
        self._wait("job server", lambda: _listens(jobs))
        self._wait("worker pool", lambda: _listens(workers))

    @property
    def beam_options(self) -> list[str]:
        """What to give after `--` to run a pipeline here, with `--runner flink`."""
        return [
            f"--job_endpoint={self.job_endpoint}",
            "--environment_type=EXTERNAL",
            f"--environment_config={self._worker_endpoint}",
            f"--parallelism={self._count}",
        ]

    def start_task_manager(self) -> subprocess.Popen[bytes]:
        """Start one more task manager; it is ready when the cluster has registered it."""
        name = f"taskmanager-{len(self.task_managers)}"
        entrypoint = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self.task_managers.append(self._flink(name, entrypoint))
        return self.task_managers[-1]

    def rest(self, path: str) -> Any:
        """Return an answer of Flink's REST interface, such as `jobs/overview`."""
        with urllib.request.urlopen(f"{self.rest_url}/{path}", timeout=10) as answer:
            return json.load(answer)

    def _registered(self) -> int:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return len(self.rest("taskmanagers")["taskmanagers"])
        return 0

    def _flink(self, name: str, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        configuration = self.top / "conf"
        logging = f"-Dlog4j.configurationFile={configuration / 'log4j.properties'}"
        libraries = str(INSTALLATION / "dist" / "pyflink" / "lib" / "*")
        words = [_HEAP, "-XX:+UseSerialGC", logging, *_OPENS, "-cp", libraries, main]
        words += ["--configDir", str(configuration)]
        return self.start(f"java {name}", *words, *arguments)

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECS
        while not ready():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = [self.log(name) for name in dead or self.processes]
                ends = [f"{log.name}: ...{log.read_text()[-2000:]}" for log in logs]
                raise RuntimeError("\n".join([f"Flink's {what} did not start", *ends]))
            time.sleep(0.2)

    def _write_configuration(self, rpc: int, rest: int) -> None:
        """Write Flink's configuration: small memory, loopback only, quick to notice a death."""
        temporary = self.top / "tmp"
        configuration = self.top / "conf"
        for made in (temporary, configuration):
            made.mkdir(parents=True, exist_ok=True)
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.rpc.port": rpc,
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": SLOTS_PER_TASK_MANAGER,
            "taskmanager.cpu.cores": SLOTS_PER_TASK_MANAGER,
            # Flink's start scripts would derive these, and the distribution lacks them.
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.task.heap.size": "256m",
            "taskmanager.memory.task.off-heap.size": "64m",
            "taskmanager.memory.managed.size": "128m",
            "taskmanager.memory.network.min": "64m",
            "taskmanager.memory.network.max": "64m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "128m",
            "taskmanager.memory.jvm-overhead.max": "128m",
            # Tasks go to all task managers, and one that is left has room for all.
            "cluster.evenly-spread-out-slots": "true",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "1 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 20_000,
            "io.tmp.dirs": temporary,
        }
        lines = [f"{name}: {value}\n" for name, value in settings.items()]
        (configuration / "config.yaml").write_text("".join(lines))
        logging = [
            "rootLogger.level = INFO",
            "rootLogger.appenderRef.console.ref = Console",
            "appender.console.name = Console",
            "appender.console.type = CONSOLE",
            "appender.console.layout.type = PatternLayout",
            "appender.console.layout.pattern = %d %-5p %c{1} %m%n",
        ]
        (configuration / "log4j.properties").write_text("\n".join(logging))


def what_is_missing() -> str:
    """Return one line on what keeps a cluster from starting, or nothing."""
    if not shutil.which("java"):
        return "a Flink cluster needs Java 17: install it and put java on PATH"
    for part in ("flink-job-server.jar", "dist/pyflink/lib"):
        if not (INSTALLATION / part).exists():
            return f"a Flink cluster needs {INSTALLATION / part}: run make setup-flink"
    return ""


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mswitch-flink-") as top,
            LocalFlinkCluster(Path(top)) as cluster,
        ):
            options = " ".join(cluster.beam_options)
            print(f"Flink runs ({cluster.rest_url}) until Ctrl-C. To build on it:")
            print(f"mswitch corpus build ... --runner flink -- {options}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except UserError as error:
        print(f"mswitch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
