"""A launcher and a Prefect server in place of real ones."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from mswitch.flows.jobs.job import Job, Status

# By name, for Prefect keeps the standard error that is there when it is imported, which while
# conftest.py is read is one of pytest's that it closes.
FOLLOW, OWNERS = "mswitch.flows.prefect.follow", "mswitch.flows.prefect.owners"
RECONCILE = "mswitch.flows.prefect.flows.reconcile"


@dataclasses.dataclass
class Launched:
    """A launcher whose attempts live until they are asked to stop."""

    profile: dict[str, Any] = dataclasses.field(default_factory=lambda: {"launcher": "here"})
    stopped: int = 0
    poll_secs: float = 0.1

    def poll(self, job: Job, attempt: int) -> Status:
        return Status("ended", codes=(75,)) if self.stopped else Status("running")

    def find(self, job: Job) -> list[int]:
        return [1]

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        return [], start

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        self.stopped += 1


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """A launcher, and told events and flow runs that were started again."""
    launcher = Launched()
    monkeypatch.setattr("mswitch.flows.jobs.launchers.LAUNCHERS", {"here": lambda: launcher})
    events: list[str] = []
    monkeypatch.setattr(
        "mswitch.flows.prefect.stalled_jobs.emit_event",
        lambda event, *_, **__: events.append(event),
    )
    return launcher, events


@pytest.fixture
def server(monkeypatch):
    """Lets a client with these methods stand in for that of a server, and this be a flow run."""

    def answers(run: UUID | None = None, **methods: Callable[..., Any]) -> None:
        client = SimpleNamespace(**methods)
        for module in (FOLLOW, OWNERS, RECONCILE):
            monkeypatch.setattr(f"{module}.get_client", lambda **_: contextlib.nullcontext(client))
        monkeypatch.setattr(f"{FOLLOW}.this_flow_run", SimpleNamespace(id=str(run or uuid4())))
        monkeypatch.setattr(f"{FOLLOW}.STATE_SECS", 0.0)

    return answers
