"""Jobs that flow runs follow, alone or two of them: what ends one leaves the other its job."""

import contextlib
import dataclasses
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest
from flow_runs import flow_run, record
from job_world import World
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, Pause
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from mswitch.flows.jobs import doors
from mswitch.flows.jobs.job import Job, Status, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import read_follower, read_record
from mswitch.flows.prefect import follow as following
from mswitch.flows.prefect.follow import Follower
from mswitch.flows.prefect.form_fields import JobCancelledError
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.owners import name_owner, withdraw_jobs
from mswitch.pipelines.progress import lines_to


@dataclasses.dataclass
class FlowRuns:
    """Flow runs that follow the job of a world, each in a thread."""

    world: World
    job: Job
    states: dict[UUID, StateType]
    this: threading.local
    threads: ThreadPoolExecutor
    said: list[str]

    def start(self) -> tuple[UUID, Future[None]]:
        run = uuid4()
        self.states[run] = StateType.RUNNING

        def work() -> None:
            self.this.id = str(run)
            with lines_to(self.said.extend):
                Follower(self.job, self.world.launcher).follow()

        return run, self.threads.submit(work)


@pytest.fixture
def runs(tmp_path, monkeypatch, server):
    world, states, this = World(Local(), tmp_path / "out"), {}, threading.local()
    server(read_flow_run=lambda run: SimpleNamespace(state=State(type=states[run], name="Any")))
    monkeypatch.setattr(following, "this_flow_run", this)
    monkeypatch.setattr(Local, "poll_secs", 0.1)
    with ThreadPoolExecutor(2) as threads:
        yield FlowRuns(world, world.job("steady"), states, this, threads, [])
        world.clean()


def follow_twice(runs: FlowRuns):
    """The first follows, the second waits; it has asked for the job last."""
    first = runs.start()
    runs.world.wait_for_beat()
    second = runs.start()
    runs.world.wait_for(lambda: read_record(runs.world.out).owner == name_owner(second[0]))
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
    runs.world.wait_for(lambda: read_follower(runs.world.out))
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
    withdraw_jobs(Operators(storage=runs.world.out.parent), second)
    (runs.world.out / "go").touch()
    one.result(20)
    assert len(runs.world.pids()) == 1
    assert not (runs.world.out / "saved").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_what_prefect_does_when_one_is_cancelled_leaves_the_other_its_job(runs, number):
    """The process of a cancelled flow run may be gone before it can see that."""
    both = follow_twice(runs)
    withdraw_jobs(Operators(storage=runs.world.out.parent), both[number][0])
    assert read_record(runs.world.out).intent == "run"
    (runs.world.out / "go").touch()
    for _, work in both:
        work.result(20)
    assert len(runs.world.pids()) == 1
    assert not (runs.world.out / "saved").exists()


@pytest.mark.parametrize("cancelled", [True, False])
def test_another_job_of_an_output_waits_and_says_for_whom(runs, cancelled):
    first, one = runs.start()
    runs.world.wait_for_beat()
    name = runs.job.name(1)
    runs.job = runs.world.job("finish")
    second, other = runs.start()
    whom = f"another job, {name}, with another command: wait for it"
    line = f"[finish] waiting, because {runs.world.out} is being made by {whom}"
    runs.world.wait_for(lambda: any(line in said for said in runs.said))
    if cancelled:
        runs.states[second] = StateType.CANCELLING
        with pytest.raises(JobCancelledError):
            other.result(20)
    assert runs.world.record.owner == name_owner(first)
    (runs.world.out / "go").touch()
    one.result(20)
    if not cancelled:
        other.result(20)
    assert len(runs.world.pids()) == (1 if cancelled else 2)


def test_a_flow_run_asks_again_if_another_job_got_the_output_before_it_followed(runs, monkeypatch):
    other, follow_job = runs.world.job("finish"), doors.follow
    taken: list[str] = []

    def follow_late(*arguments, **named):
        if not taken:
            doors.want(other, runs.world.launcher, "other")
            taken.append(runs.world.record.owner)
        return follow_job(*arguments, **named)

    monkeypatch.setattr(doors, "follow", follow_late)
    run, work = runs.start()
    runs.world.wait_for_beat()
    (runs.world.out / "go").touch()
    work.result(20)
    assert taken == ["other"]
    assert runs.world.record.wanted_by == [name_owner(run)]


@pytest.mark.parametrize("slow", [True, False])
def test_a_flow_run_that_is_resumed_while_it_is_suspended_stays_resumed(
    slow, launched, tmp_path, monkeypatch, server
):
    """Another process may run it by then, also before the job has ended."""
    launcher, _ = launched
    run = flow_run(StateType.RUNNING)
    made = record(tmp_path, run)
    if slow:
        monkeypatch.setattr(launcher, "poll", lambda *_: Status("running"))
    states = [State(type=StateType.PAUSED, name="Suspended"), State(type=StateType.RUNNING)]
    server(
        run.id,
        read_flow_run=lambda _: SimpleNamespace(state=states.pop(0)),
        set_flow_run_state=lambda *_, **__: pytest.fail("the state was replaced"),
    )

    with pytest.raises(Abort, match="Running again: another process continues it"):
        Follower(made.job, launcher).follow()

    assert launcher.stopped
    assert not states
    assert read_record(tmp_path / "run").intent == "pause"


def test_a_server_that_does_not_answer_is_told_once_and_so_is_its_return(
    launched, tmp_path, monkeypatch, server
):
    """Its client would try again for a minute, in which nobody looked at the job."""
    launcher, _ = launched
    answers = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), StateType.RUNNING]
    retries: list[int] = []

    def read(_: UUID) -> SimpleNamespace:
        retries.append(PREFECT_CLIENT_MAX_RETRIES.value())
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(state=State(type=answer))

    server(read_flow_run=read)
    monkeypatch.setattr(
        launcher, "poll", lambda *_: Status("running") if answers else Status("ended", codes=(0,))
    )
    said: list[str] = []
    with lines_to(said.extend):
        Follower(Job(("evaluate",), tmp_path / "eval", marked=False), launcher).follow()

    told = [line for line in said if "server" in line]
    assert (
        told[0] == "[evaluate] the Prefect server does not answer (ConnectError); the job continues"
    )
    assert re.fullmatch(
        r"\[evaluate\] the Prefect server answers again, .* \d\d:\d\d:\d\d", told[1]
    )
    assert len(told) == 2
    assert retries == [0, 0, 0]


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_job_is_asked_for_once_its_scheduler_answers(
    cancelled, launched, tmp_path, monkeypatch, server
):
    launcher, _ = launched
    silent = [Unreachable("no route")] * 2

    def find(_: Job) -> list[int]:
        if silent:
            raise silent.pop()
        return []

    monkeypatch.setattr(launcher, "find", find)
    monkeypatch.setattr(launcher, "submit", lambda *_: None, raising=False)
    monkeypatch.setattr(launcher, "poll", lambda *_: Status("ended", codes=(0,)))
    state = State(type=StateType.CANCELLING if cancelled else StateType.RUNNING)
    server(read_flow_run=lambda _: SimpleNamespace(state=state))
    job = Job(("evaluate",), tmp_path / "eval", marked=False)
    with pytest.raises(JobCancelledError) if cancelled else contextlib.nullcontext():
        Follower(job, launcher).follow()
    assert not silent
    assert read_record(job.path).intent == ("cancel" if cancelled else "run")
