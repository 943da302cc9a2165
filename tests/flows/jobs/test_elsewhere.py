"""What a job leaves running elsewhere is cancelled with it: jobs of Dataflow."""

import contextlib
import dataclasses
import subprocess
import time

import pytest
from job_world import World, ask, write_record

from mswitch.flows.jobs import doors
from mswitch.flows.jobs.command import make_end_command
from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Attempt, Record

BUILD = ("corpus", "build", "--input=x", "--out=a", "--runner=dataflow", "--", "--project=p")


@pytest.fixture
def world(tmp_path):
    return World(Local(), tmp_path / "out")


def on_dataflow(world, mode):
    job = world.job(mode)
    return dataclasses.replace(job, argv=(*job.argv, "--runner=dataflow"))


@pytest.fixture
def cancelled(monkeypatch):
    """Give what is called, and the codes that the calls end with, before they succeed."""
    words: list[tuple[str, ...]] = []
    codes: list[int] = []

    def call(*called: str, where: str) -> subprocess.CompletedProcess[str]:
        words.append(called)
        code = codes.pop() if codes else 0
        return subprocess.CompletedProcess(called, code, "a cancelled\n", "Traceback\nno network\n")

    monkeypatch.setattr(doors, "call", call)
    return words, codes


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (BUILD, (*BUILD[:-2], "--cancel", "--", "--project=p")),
        (("examples", "build", "--runner", "dataflow"),) * 2,
        (("corpus", "build", "--runner=local", "--", "--runner=dataflow"), None),
        (("train", "--out=dataflow"), None),
    ],
)
def test_only_builds_on_dataflow_leave_something(argv, command, tmp_path):
    if argv is command:
        command = (*argv, "--cancel")
    assert make_end_command(Job(argv, tmp_path / "a")) == command


@pytest.mark.parametrize("intent", ["pause", "cancel"])
def test_it_is_cancelled_until_that_succeeds(intent, cancelled, world):
    words, codes = cancelled
    codes += [1, 1]
    job = on_dataflow(world, "steady")
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if world.pids() and not words:
            with contextlib.suppress(Unreachable):
                ask(job, world.launcher, intent)

    outcome = {"pause": "paused", "cancel": "cancelled"}[intent]
    assert world.run(job, on_poll=tell).outcome == outcome
    assert words == [(*job.program, *job.argv, "--cancel")] * 3
    assert any("no network" in line for line in told)


def test_it_is_cancelled_though_no_attempt_lives(cancelled, world):
    words, _ = cancelled
    job = on_dataflow(world, "stall")

    def leave(text: str) -> None:
        if "continues at" in text:
            raise Unreachable(text)

    ask(job, world.launcher, "run")
    with pytest.raises(Unreachable):
        doors.follow(job, world.launcher, on_poll=leave, sleep=lambda _: time.sleep(0.05))
    ask(job, world.launcher, "cancel")
    assert len(words) == 1
    assert world.run(job).outcome == "cancelled"
    assert words == [(*job.program, *job.argv, "--cancel")] * 2


@pytest.mark.parametrize(("mode", "outcome"), [("finish", "done"), ("refuse", "refused")])
def test_of_a_job_that_ended_by_itself_nothing_is(mode, outcome, cancelled, world):
    words, codes = cancelled
    job = on_dataflow(world, mode)
    assert world.run(job).outcome == outcome
    assert words == []
    if mode == "refuse":  # it has started nothing, whatever the cancellation says
        codes.append(2)
        ask(job, world.launcher, "cancel")
        assert len(words) == 1


@pytest.mark.parametrize("earlier", [True, False])
def test_where_only_the_cancellation_is_refused_it_is_not_over(earlier, cancelled, tmp_path):
    """Such as where Beam is not installed, or the key file cannot be read."""
    words, codes = cancelled
    codes += [2, 2]
    job = Job(BUILD, tmp_path / "a")
    ends = ["resume", "refused"] if earlier else ["resume"]
    attempts = [Attempt(n, 1.0, 0, ended=1.0, outcome=end) for n, end in enumerate(ends, 1)]
    write_record(Record(job, Local().profile, attempts=attempts))
    told: list[str] = []
    with pytest.raises(Unreachable, match="its Dataflow jobs are not cancelled: no network"):
        ask(job, Local(), "cancel")
    result = doors.follow(job, Local(), on_poll=told.append, sleep=lambda _: None)
    assert result.name == "cancelled"
    assert len(words) == 3
    assert any("not cancelled: no network" in line for line in told)
