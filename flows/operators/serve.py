"""A Prefect server, one worker and the UI on this machine, started and ended together."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from flows.operators.deploy import deploy, server
from flows.operators.profile import Operators
from pipelines.errors import UserError
from pipelines.progress import say

#: The first start makes the database, which takes most of a minute on a slow machine.
START_SECS = 300.0
STOP_SECS = 20.0


def serve(operators: Operators, operators_file: Path | None) -> NoReturn:
    """Run until a signal comes or one of them ends. Jobs that run then go on.

    Raises:
        UserError: the address is taken, or server or worker ended.
    """
    if _answers(operators):
        raise UserError(
            f"a server answers at {operators.server}: leave out --serve, or name another address "
            "as server in operators.toml"
        )
    host, port = operators.server.host or "127.0.0.1", operators.server.port
    say("deploy", "starting a server; the first start takes a minute")
    running = {"server": _prefect(operators, "server", "start", f"--host={host}", f"--port={port}")}
    try:
        deadline = time.monotonic() + START_SECS
        while not _answers(operators):
            _check(running)
            if time.monotonic() > deadline:
                raise UserError(f"the Prefect server does not start within {START_SECS:.0f} s")
            time.sleep(1)
        for line in deploy(operators, operators_file, write=True):
            say("deploy", line)
        running["worker"] = _prefect(operators, "worker", "start", f"--pool={operators.pool}")
        say("deploy", f"the forms are at http://{host}:{port}; Ctrl-C ends server and worker")
        while True:
            _check(running)
            time.sleep(1)
    finally:
        for process in reversed(running.values()):
            process.terminate()
            try:
                process.wait(STOP_SECS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(operators: Operators) -> bool:
    try:
        with server(operators):
            return True
    except UserError:
        return False


def _check(running: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        if (code := process.poll()) is not None:
            raise UserError(f"the Prefect {name} ended with code {code}: see the lines above")


def _prefect(operators: Operators, *words: str) -> subprocess.Popen[bytes]:
    environment = {
        "PREFECT_API_URL": str(operators.server),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", *words], env={**environment, **os.environ}
    )
