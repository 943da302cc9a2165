"""A job that two flow runs follow: what ends one of them leaves the other its job."""

import contextlib
import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from job_world import World
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, Pause

from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import follower, read_record
from mswitch.flows.prefect import steps
from mswitch.flows.prefect.parameters import JobCancelledError
from mswitch.flows.prefect.profile import Operators
from mswitch.flows.prefect.steps import cancel_jobs, follow, owner_of


@dataclasses.dataclass
class FlowRuns:
    """Flow runs that follow the job of a world, each in a thread."""

    world: World
    job: Job
    states: dict[UUID, StateType]
    this: threading.local
    threads: ThreadPoolExecutor

    def start(self) -> tuple[UUID, Future[None]]:
        run = uuid4()
        self.states[run] = StateType.RUNNING

        def work() -> None:
            self.this.id = str(run)
            follow(self.job, self.world.launcher)

        return run, self.threads.submit(work)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    world, states, this = World(Local(), tmp_path / "out"), {}, threading.local()
    client = SimpleNamespace(
        read_flow_run=lambda run: SimpleNamespace(state=State(type=states[run], name="Any"))
    )
    monkeypatch.setattr(steps, "get_client", lambda **_: contextlib.nullcontext(client))
    monkeypatch.setattr(steps, "this_flow_run", this)
    monkeypatch.setattr(steps, "STATE_SECS", 0.0)
    monkeypatch.setattr(Local, "poll_secs", 0.1)
    with ThreadPoolExecutor(2) as threads:
        yield FlowRuns(world, world.job("steady"), states, this, threads)
        world.clean()


def follow_twice(runs: FlowRuns):
    """The first follows, the second waits; it has asked for the job last."""
    first = runs.start()
    runs.world.wait_for_beat()
    second = runs.start()
    runs.world.wait_for(lambda: read_record(runs.world.out).owner == owner_of(second[0]))
    return first, second


@pytest.mark.parametrize(
    ("state", "end"),
    [("CANCELLING", JobCancelledError), ("PAUSED", Pause), ("FAILED", Abort)],
)
def test_the_one_that_waited_takes_over(runs, state, end):
    (first, one), (second, other) = follow_twice(runs)
    runs.states[first] = StateType(state)
    with pytest.raises(end):
        one.result(20)
    runs.world.wait_for(lambda: follower(runs.world.out))
    runs.world.wait_for_beat()
    assert len(runs.world.pids()) == 1
    # Nobody else shares it now.
    runs.states[second] = StateType.CANCELLING
    with pytest.raises(JobCancelledError):
        other.result(20)
    assert (runs.world.out / "saved").exists()
    assert not runs.world.lives()


@pytest.mark.parametrize(("state", "end"), [("CANCELLING", JobCancelledError), ("PAUSED", Pause)])
def test_the_one_that_follows_keeps_it(runs, state, end):
    (_, one), (second, other) = follow_twice(runs)
    runs.states[second] = StateType(state)
    with pytest.raises(end):
        other.result(20)
    cancel_jobs(Operators(storage=runs.world.out.parent), second)
    (runs.world.out / "go").touch()
    one.result(20)
    assert len(runs.world.pids()) == 1
    assert not (runs.world.out / "saved").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_what_prefect_does_when_one_is_cancelled_leaves_the_other_its_job(runs, number):
    """The process of a cancelled flow run may be gone before it can see that."""
    both = follow_twice(runs)
    cancel_jobs(Operators(storage=runs.world.out.parent), both[number][0])
    assert read_record(runs.world.out).intent == "run"
    (runs.world.out / "go").touch()
    for _, work in both:
        work.result(20)
    assert len(runs.world.pids()) == 1
    assert not (runs.world.out / "saved").exists()
