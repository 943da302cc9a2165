"""Jobs that end with their process, as those of `mswitch demo`, and the signals of a terminal."""

import shutil
import signal
import subprocess
import sys

import job_child
import pytest
from job_world import World, ask
from processes import wait_for

from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.places import describe_wait
from mswitch.flows.jobs.record import read_record
from mswitch.flows.jobs.tied import run_tied
from mswitch.models import lifeline
from mswitch.pipelines.errors import UserError

#: Python that runs the job `MODE OUT` of a stand-in command, and leaves on Ctrl-C as `mswitch`
#: does, unless its first argument has it ignored, as a shell has by its background jobs.
PARENT = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, getattr(signal, sys.argv.pop(1)))
from mswitch.flows.cli.interrupts import end_on_interrupt
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.tied import run_tied
end_on_interrupt()
child, mode, out = sys.argv[1:]
run_tied([Job((mode, out), pathlib.Path(out), program=(sys.executable, child))], "a test")
"""


@pytest.fixture
def world(tmp_path):
    world = World(Local(tied=True), tmp_path / "out")
    yield world
    world.clean()


def start(world: World, mode: str, on_ctrl_c: str = "default_int_handler") -> subprocess.Popen[str]:
    words = ("-c", PARENT, on_ctrl_c, job_child.__file__, mode, str(world.out))
    parent = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    world.wait_for_beat()
    return parent


@pytest.mark.parametrize("mode", ["steady", "stubborn"])
def test_it_ends_with_a_process_that_is_killed(world, mode):
    parent = start(world, mode)
    parent.kill()
    parent.communicate()
    wait_for(lambda: not world.lives())
    assert world.record.alive  # nobody has judged it


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "mswitch: interrupted; the same command continues\n"),
        (signal.SIGTERM, -signal.SIGTERM, ""),
    ],
)
def test_the_first_signal_lets_it_save_and_the_same_command_continues(world, number, code, line):
    parent = start(world, "steady")
    parent.send_signal(number)
    assert parent.communicate(timeout=20)[1] == line
    assert parent.returncode == code
    assert (world.out / "saved").exists()
    assert not world.lives()
    assert world.record.intent == "pause"
    (world.out / "saved").unlink()
    again = start(world, "steady")
    (world.out / "go").touch()
    assert again.communicate(timeout=20)[1] == ""
    assert again.returncode == 0
    assert len(world.pids()) == 2
    assert not world.job("steady").directory.exists()


def test_a_second_ctrl_c_ends_both_at_once(world):
    parent = start(world, "stubborn")
    parent.send_signal(signal.SIGINT)
    wait_for(lambda: world.record.last.stopping)
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    assert parent.wait(10) == 130
    parent.communicate()
    wait_for(lambda: not world.lives())


def test_ctrl_c_stays_ignored_where_it_is(world):
    parent = start(world, "steady", "SIG_IGN")
    parent.send_signal(signal.SIGINT)
    world.wait_for_beat()
    assert world.record.intent == "run"
    parent.terminate()
    parent.communicate(timeout=20)
    assert parent.returncode == -signal.SIGTERM
    assert (world.out / "saved").exists()


def test_what_was_killed_continues_and_what_fails_or_is_refused_does_not(world, capfd):
    run_tied([world.job("resume-once")], "a test")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("[resume-once] interrupted (code 75); continues at ")
    (world.out / "starts").unlink()
    with pytest.raises(UserError, match="`mswitch refuse` cannot continue: see the line above"):
        run_tied([world.job("refuse")], "a test")
    assert capfd.readouterr().err == "mswitch: --steps is 0: give at least 1\n"
    (world.out / "_COMPLETED").unlink()
    with pytest.raises(RuntimeError, match=r"`mswitch fail .*/out`: failed \(code 1\)"):
        run_tied([world.job("fail")], "a test")
    assert len(world.pids()) == 2
    assert read_record(world.out).last.outcome == "failed"


def test_it_ends_if_a_person_pauses_it(world):
    parent = start(world, "steady")
    ask(world.record.job, Local(), "pause", "by hand")
    _, errors = parent.communicate(timeout=20)
    assert f"{world.out} was paused by another command: repeat this command" in errors
    assert (world.out / "saved").exists()


def test_it_neither_takes_nor_awaits_a_place(world, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(world.out.with_name("state")))
    other = World(Local(), world.out.with_name("other") / "out")
    other.out.parent.mkdir()
    other.submit(other.job("train"))
    other.wait_for_beat()
    parent = start(world, "train")
    assert describe_wait(world.job("train")) == f"waiting for a place, taken by {other.out}"
    for one in (world, other):
        (one.out / "go").touch()
    assert parent.wait(20) == 0
    parent.communicate()
    other.wait_for_end(other.job("train"))


def test_other_jobs_do_not_end_with_a_process_that_has_a_lifeline(world, monkeypatch):
    """As those of a worker that `mswitch deploy --serve` runs."""
    monkeypatch.setenv(lifeline.VARIABLE, "1")
    world.launcher = Local()
    assert world.run(world.job("finish")).outcome == "done"
    assert world.outcomes == ["done"]


def test_jobs_side_by_side_end_together(tmp_path):
    first, second = (World(Local(tied=True), tmp_path / name) for name in ("first", "second"))
    try:
        # The second job beats until it is told to stop, and the first one fails.
        with pytest.raises(RuntimeError, match=r"`mswitch fail .*/first`: failed \(code 1\)"):
            run_tied([second.job("steady"), first.job("fail")], "a test")
        assert not first.lives()
        assert not second.lives()
        assert second.record.intent == "pause"
        shutil.rmtree(first.out)
        (second.out / "go").touch()
        run_tied([first.job("resume-once"), second.job("steady")], "a test")
        assert len(first.pids()) == len(second.pids()) == 2
        assert not first.job("resume-once").directory.exists()
        assert not second.job("steady").directory.exists()
    finally:
        first.clean()
        second.clean()
