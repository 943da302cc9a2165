"""`mswitch deploy --serve` with a home of its own, and what tests ask its server.

Its database is SQLite, or where $MSWITCH_TEST_POSTGRES is set, a PostgreSQL server for the tests.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import example_files
import httpx
from local_postgres import postgres
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import MSWITCH, free_port, wait_for

from mswitch.flows.prefect.operators_toml import make_deployment_path

POSTGRES = "MSWITCH_TEST_POSTGRES" in os.environ
START_SECS = 400
ENDS = {"Completed", "Failed", "Crashed"}
#: Looks seldom: the server answers the flow runs too.
until = functools.partial(wait_for, every=0.5)
#: Runs a command as a script's `&` does.
_IGNORING_SIGINT = 'trap \'\' INT; exec "$0" "$@"'
TOML = """
server = "http://127.0.0.1:{port}/api"
storage = "storage"

[schedules."reconcile-all"]
cron = "*/2 * * * *"
active = false

[schedules."report-pair"]
cron = "* * * * *"
active = true
"""


def with_examples(directory: Path) -> Path:
    """Put examples of two languages into the storage of a directory."""
    examples = directory / "storage" / "examples" / "sample"
    example_files.write_examples(examples, {"sw": (40,), "yo": (9,)}, 64, 500, 8)
    return directory


@dataclasses.dataclass(frozen=True)
class Served:
    """The server and where it keeps things."""

    directory: Path
    client: SyncPrefectClient
    api: str

    @property
    def storage(self) -> Path:
        return self.directory / "storage"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def deploy(self, *options: str, **environment: str) -> tuple[int, str]:
        """What `mswitch deploy` ends with, and says."""
        done = subprocess.run(
            [*MSWITCH, "deploy", *options],
            cwd=self.directory,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, deployment: str, **parameters: Any) -> UUID:
        found = self.client.read_deployment_by_name(make_deployment_path(deployment))
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.api}/{path}", json=body, timeout=60)

    def set_state(self, run: UUID, force: bool = False, **state: Any) -> None:
        """Put a flow run into a state, as the UI does; again where the server's SQLite was busy."""

        def taken() -> bool:
            answer = self.post(f"flow_runs/{run}/set_state", state=state, force=force)
            return answer.is_success and answer.json()["status"] == "ACCEPT"

        until(taken, 60, lambda: f"{run} did not become {state}\n{self.log}")

    def refusal(self, deployment: str, **parameters: Any) -> str:
        """What the API answers to parameters that it does not take."""
        found = self.client.read_deployment_by_name(make_deployment_path(deployment))
        answer = self.post(f"deployments/{found.id}/create_flow_run", parameters=parameters)
        assert answer.status_code == 409, answer.text
        return answer.json()["detail"]

    def wait(self, run: UUID, states: set[str], secs: float = 300) -> FlowRun:
        """Wait until a flow run is in one of these states."""

        def look() -> FlowRun | None:
            found = self.client.read_flow_run(run)
            return found if found.state_name in states else None

        return until(look, secs, lambda: f"{self.client.read_flow_run(run).state}\n{self.log}")

    def finish(self, deployment: str, secs: float = 900, **parameters: Any) -> FlowRun:
        """Run a deployment to its end, which has to be a good one."""
        ended = self.wait(self.start(deployment, **parameters), ENDS, secs)
        assert ended.state_name == "Completed", (ended.state, self.log)
        return ended

    def lines(self, run: UUID) -> list[str]:
        """What was logged of a flow run and its tasks."""
        answer = self.post(
            "logs/filter",
            logs={"flow_run_id": {"any_": [str(run)]}},
            sort="TIMESTAMP_ASC",
        )
        return [line for one in answer.json() for line in one["message"].splitlines()]

    def artifacts(self, kind: str) -> dict[str, Any]:
        """The newest artifacts of a kind by key."""
        answer = self.post("artifacts/latest/filter", artifacts={"type": {"any_": [kind]}})
        return {one["key"]: one for one in answer.json()}


def processes() -> dict[int, tuple[list[str], list[str]]]:
    """Arguments and environment of every process of this user."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments, environment = (
                (path / name).read_text(errors="replace").split("\0")
                for name in ("cmdline", "environ")
            )
            found[int(path.name)] = arguments, environment
    return found


def engines(run: UUID) -> list[int]:
    """The processes of a flow run."""
    return [
        pid
        for pid, (words, environment) in processes().items()
        if "prefect.engine" in words and f"PREFECT__FLOW_RUN_ID={run}" in environment
    ]


def environment_of(directory: Path) -> dict[str, str]:
    """The environment of a server and its worker with their home in a directory."""
    return {
        **os.environ,
        "PREFECT_HOME": str(directory / "prefect"),
        # No blocks are used, and looking for them takes long.
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }


@contextlib.contextmanager
def served(directory: Path, toml: str = "", head: str = "", **more: str) -> Iterator[Served]:
    """Run server and worker; end them, and see that nothing of them is left.

    Args:
        directory: where, with operators.toml.
        toml: what is added to this at its end.
        head: and at its beginning.
        more: further variables of their environment.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    (directory / "operators.toml").write_text(head + TOML.format(port=port) + toml)
    with contextlib.ExitStack() as stack:
        if POSTGRES:
            more["PREFECT_API_DATABASE_CONNECTION_URL"] = stack.enter_context(postgres())
        log = stack.enter_context(open(directory / "log", "wb"))
        process = subprocess.Popen(
            ["sh", "-c", _IGNORING_SIGINT, *MSWITCH, "deploy", "--serve"],
            cwd=directory,
            env={**environment_of(directory), **more},
            stdout=log,
            stderr=log,
        )
        settings = temporary_settings({PREFECT_API_URL: address})
        try:
            with settings, get_client(sync_client=True) as client:
                made = Served(directory, client, address)
                until(
                    lambda: "the forms are at" in made.log or process.poll() is not None,
                    START_SECS,
                    lambda: made.log,
                )
                assert process.poll() is None, made.log
                # On SQLite the tests would pass too.
                assert (directory / "prefect" / "prefect.db").exists() != POSTGRES
                yield made
        finally:
            process.terminate()
            process.wait(60)
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{address}/health", timeout=5)
            raise AssertionError("the server answers after its command ended")
        # Jobs go on.
        jobs = {"mswitch.flows.cli.main", "mswitch.flows.jobs.host"}
        others = [words for words in kill_all_of(directory) if not jobs & set(words)]
        assert not others, others


def processes_of(directory: Path) -> dict[int, list[str]]:
    """Arguments of the processes that have their Prefect home in a directory."""
    home = f"PREFECT_HOME={directory / 'prefect'}"
    return {pid: words for pid, (words, known) in processes().items() if home in known}


def kill_all_of(directory: Path) -> list[list[str]]:
    """Kill them; return their arguments."""
    left = processes_of(directory)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())
