"""So many trainings at a time on a machine, whoever asks for them."""

import dataclasses
import json
import os
import signal
import sys

import child_jobs
import job_child
import pytest
from job_world import World

from mswitch.flows.cli.commands import jobs
from mswitch.flows.cli.main import main
from mswitch.flows.jobs import places, record
from mswitch.flows.jobs.doors import leave, look, want
from mswitch.flows.jobs.job import Job, NoPlace, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.places import describe_wait, take_place
from mswitch.flows.jobs.record import read_record
from mswitch.pipelines.directory_lock import is_held


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(record, "MSWITCH", (sys.executable, job_child.__file__))
    monkeypatch.setattr(jobs, "MSWITCH", (sys.executable, child_jobs.__file__))


@pytest.fixture
def worlds(tmp_path):
    made = [World(Local(), tmp_path / name / "out") for name in "abc"]
    for world in made:
        world.out.parent.mkdir()
    yield made
    for world in made:
        world.clean()


def training(world: World) -> Job:
    return world.job("train")


def test_the_training_that_is_killed_gives_its_place_to_one_of_those_that_wait(worlds, capfd):
    """Two are asked for by flows, and one by a command; nobody starts the killed one again."""
    first, second, third = worlds
    flow = first.follow(training(first))
    first.wait_for_beat()
    other = second.follow(training(second))
    want(training(third), third.launcher)
    assert main(["jobs", "adopt", str(third.out)]) == 0
    waits = f"waiting for a place, taken by {first.out}"
    assert f"{third.out}: {waits}" in capfd.readouterr().out
    second.wait_for(lambda: read_record(second.out))
    for world in (second, third):
        world.wait_for(lambda world=world: look(world.record).message == waits)
        assert look(world.record).state == "waiting"
        assert world.pids() == []

    flow.kill()
    flow.communicate()
    first.wait_for_beat()
    assert second.pids() == third.pids() == []
    host = json.loads(training(first).file(1, ".lock").read_text())["pid"]
    for pid in (host, *first.pids()):
        os.kill(pid, signal.SIGKILL)
    second.wait_for(lambda: second.pids() or third.pids())
    one, last = (second, third) if second.pids() else (third, second)
    one.wait_for_beat()
    assert not first.lives()
    assert last.pids() == []
    (one.out / "go").touch()
    last.wait_for_beat()
    assert not one.lives()
    (last.out / "go").touch()
    second.end(other)
    third.wait_for(lambda: third.outcomes == ["done"])
    assert second.outcomes == ["done"]


def test_a_machine_has_as_many_places_as_who_starts_a_training_says(worlds):
    first, second, third = worlds
    first.submit(training(first))
    second.launcher = Local(trainings=2)
    second.submit(training(second))
    for limit in (1, 2):
        third.launcher = Local(trainings=limit)
        with pytest.raises(NoPlace, match=f"taken by {first.out}, {second.out}"):
            third.submit(training(third))
        assert third.launcher.find(training(third)) == []
    # What does not train needs none, and the same attempt is started once.
    third.launcher = Local()
    third.submit(third.job("steady"))
    first.submit(training(first))
    for world in worlds:
        world.wait_for_beat()
        assert len(world.pids()) == 1
        (world.out / "go").touch()
    for world in (first, second):
        world.wait_for_end(training(world))
    third.out = third.out.with_name("again")
    third.submit(training(third))
    third.wait_for_beat()
    (third.out / "go").touch()
    third.wait_for_end(training(third))


def test_the_number_of_places_is_no_part_of_a_record(worlds):
    assert dataclasses.replace(Local(), trainings=3).profile == Local().profile


def test_who_waits_for_a_place_may_leave_while_it_is_told_so(worlds):
    first, second, _ = worlds
    flow = first.follow(training(first))
    first.wait_for_beat()
    job, said = training(second), []

    def cancel(text: str) -> None:
        said.append(text)
        leave(job, second.launcher, "cancel")

    assert second.run(job, on_poll=cancel)[0] == "cancelled"
    assert said == [f"waiting for a place, taken by {first.out}"]
    (first.out / "go").touch()
    first.end(flow)


def test_who_waits_for_a_place_looks_once_how_far_the_job_is_and_keeps_nobody_waiting(
    worlds, monkeypatch
):
    """In a bucket that takes a while."""
    first, second, _ = worlds
    flow = first.follow(training(first))
    first.wait_for_beat()
    locked, said = [], []

    def progress(job: Job) -> int:
        locked.append(is_held(job.directory / "record.lock"))
        return 0

    monkeypatch.setattr(Job, "progress", progress)

    def leave_third(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            leave(training(second), second.launcher, "cancel")

    assert second.run(training(second), on_poll=leave_third)[0] == "cancelled"
    assert locked == [False]
    (first.out / "go").touch()
    first.end(flow)


@pytest.mark.parametrize("text", ["null", "3", "[1]", '["/dev/null/a"]', "\0\0"])
def test_what_no_training_holds_takes_no_place(worlds, tmp_path, text):
    file = places._locate_places_file()
    assert str(tmp_path) in str(file)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert describe_wait(training(worlds[0])) == ""
    take_place(training(worlds[0]), tmp_path / "lock", 1)
    assert json.loads(file.read_text()) == [str(tmp_path / "lock")]


def test_a_list_of_places_that_cannot_be_kept_is_named(worlds, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    with pytest.raises(Unreachable, match=r"/dev/null/mswitch .*set XDG_STATE_HOME"):
        take_place(training(worlds[0]), worlds[0].out, 1)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert places._locate_places_file().is_absolute()
