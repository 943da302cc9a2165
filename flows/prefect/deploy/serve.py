"""Run a Prefect server with its UI and one worker on this machine, which end together."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import httpx

from mswitch.flows.prefect.deploy.apply import deploy
from mswitch.flows.prefect.deploy.deployments import check_schedules
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

#: Longest start. The first start makes the database; on a slow machine this takes most of a minute.
START_SECS = 300.0
#: Seconds for the process of a flow run to report its end.
STOP_SECS = 10.0
#: The worker's limit on flow runs is `flow_runs` plus this number, for runs of the reconciler.
SPARE_RUNS = 2


def serve(operators: Operators, operators_file: Path | None) -> NoReturn:
    """Run server and worker until one of them ends or a signal comes.

    The supervisor then kills this whole process group. Active flow runs become Crashed, and a later
    `reconcile` restarts them. Their jobs continue.
    """
    check_schedules(operators)
    if _answers(operators):
        raise UserError(
            f"a server already answers at {operators.server}: leave out --serve, or give another "
            "address as server in operators.toml"
        )
    host, port = operators.server.host or "127.0.0.1", operators.server.port
    # Set signal handlers before the worker starts. Commands that a shell starts with `&` ignore
    # SIGINT. A worker that inherits this ignores SIGTERM too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    say("deploy", "starting a server; the first start takes a minute")
    running = {
        "server": _start_prefect(operators, "server", "start", f"--host={host}", f"--port={port}")
    }
    deadline = time.monotonic() + START_SECS
    while not _answers(operators):
        _check_running(running)
        if time.monotonic() > deadline:
            raise UserError(f"the Prefect server does not start within {START_SECS:.0f} s")
        time.sleep(1)
    for line in deploy(operators, operators_file, write=True):
        say("deploy", line)
    # Without a limit, all late runs of the reconciler would start at once after an outage.
    words = (f"--pool={operators.pool}", f"--limit={operators.flow_runs + SPARE_RUNS}")
    running["worker"] = _start_prefect(operators, "worker", "start", *words)
    say("deploy", f"the forms are at http://{host}:{port}; Ctrl-C ends server and worker")
    try:
        while True:
            _check_running(running)
            time.sleep(1)
    finally:
        _end_flow_runs(running["worker"].pid)


def _end_flow_runs(worker: int) -> None:
    """End the processes of flow runs, and their sessions, before the server ends."""
    tasks = Path(f"/proc/{worker}/task").glob("*/children")
    engines = [int(pid) for task in tasks for pid in task.read_text().split()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in engines:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        deadline = time.monotonic() + STOP_SECS
        while time.monotonic() < deadline and any(map(_is_alive, engines)):
            time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def _answers(operators: Operators) -> bool:
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{operators.server}/health")
        return True
    return False


def _check_running(running: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        if (code := process.poll()) is not None:
            raise UserError(f"the Prefect {name} ended with code {code}: see the lines above")


def _start_prefect(operators: Operators, *words: str) -> subprocess.Popen[bytes]:
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    environment = {**quiet, **os.environ, "PREFECT_API_URL": str(operators.server)}
    return subprocess.Popen([sys.executable, "-m", "prefect", *words], env=environment)
