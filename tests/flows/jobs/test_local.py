import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from job_world import World, ask, write_record
from processes import is_alive, run_python

from mswitch.flows.jobs.doors import leave, want
from mswitch.flows.jobs.job import BusyError, Job, read_all_logs, resolve_output
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Record, find_records, read_record
from mswitch.pipelines.errors import UserError


@pytest.fixture
def world(tmp_path):
    world = World(Local(), tmp_path / "out")
    yield world
    world.clean()


def test_a_host_process_that_is_killed_takes_the_command_along_and_another_starts(world):
    job, follower = world.begin()
    os.kill(json.loads(job.file(1, ".lock").read_text())["pid"], signal.SIGKILL)
    world.wait_for_beat(starts=2)
    assert not is_alive(world.pids()[0])
    world.finish(follower)
    assert world.record.attempts[0].codes == ()


GRANDCHILD = """
import pathlib, subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).mkdir()
pathlib.Path(sys.argv[1], "left").write_text(str(left.pid))
pathlib.Path(sys.argv[1], "_COMPLETED").touch()
"""


def test_what_a_command_left_running_ends_with_it(world):
    program = (sys.executable, "-c", GRANDCHILD)
    job = Job((str(world.out),), world.out, program=program)
    assert world.run(job).outcome == "done"
    left = int((world.out / "left").read_text())
    world.wait_for(lambda: not is_alive(left))


def test_a_job_on_another_machine_is_stopped_there(world):
    job, follower = world.begin()
    lock = job.file(1, ".lock")
    about = json.loads(lock.read_text())
    lock.write_text(json.dumps({**about, "node": "elsewhere"}))
    with pytest.raises(UserError, match="is made on elsewhere: give the command there"):
        world.launcher.end(job, 1)
    world.finish(follower)


def test_the_record_holds_no_secret_and_lies_on_this_machine(tmp_path):
    for word in (
        "--s3_secret_access_key=hush",
        "--api-key",
        "--password",
        "https://me:hush@example.org/x",
        "--auth_token=hush",
    ):
        with pytest.raises(UserError, match="pass secrets in the environment") as caught:
            Job(("corpus", "build", word, "hush"), tmp_path / "out")
        assert "hush" not in str(caught.value)
    Job(("train", "--max-tokens", "3", "--keep", "gs://bucket/a:b@c"), tmp_path / "out")
    with pytest.raises(UserError, match="give --record too"):
        Job(("train",), "gs://bucket/out")
    with pytest.raises(UserError, match=r"'a\\udcff' is not UTF-8"):
        Job(("train", "a\udcff"), tmp_path / "out")


def test_a_record_that_is_damaged_is_named(world):
    job = world.job("finish")
    write_record(Record(job, Local().profile))
    (job.directory / "record.json").write_text('{"key": "x"}')
    with pytest.raises(UserError, match=r"record.json is not the record of a job"):
        world.run(job)
    (job.directory / "record.json").unlink()
    assert world.run(job).outcome == "done"


@pytest.mark.parametrize(
    "part",
    [
        {"launcher": "x"},
        {"launcher": {"launcher": "pbs"}},
        {"launcher": {"launcher": "local", "queue": "a"}},
        {"intent": "stop"},
        {"counted_after": "x"},
        {"attempts": [{"number": "x", "submitted": 0, "progress": 0}]},
        {"job": {"argv": [1], "out": "a"}},
    ],
)
def test_a_record_with_a_damaged_part_is_named_and_hides_no_other(tmp_path, capfd, part):
    job = Job(("x",), tmp_path / "out")
    write_record(Record(job, Local().profile))
    directory = tmp_path / ".damaged.job"
    directory.mkdir()
    before = json.loads((job.directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**before, **part}))
    with pytest.raises(UserError, match=r"record.json is not the record of a job"):
        read_record(tmp_path / "damaged")
    assert [record.job.out for record in find_records(tmp_path)] == [job.out]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"[jobs] left out: {directory}/record.json is not the record")


def test_the_record_of_a_job_that_was_copied_is_not_the_copy_s(tmp_path):
    job = Job(("x",), tmp_path / "out")
    write_record(Record(job, Local().profile))
    shutil.copytree(job.directory, tmp_path / "copy" / job.directory.name)
    with pytest.raises(UserError, match=f"was moved or copied; .* makes {job.out}: move it back"):
        read_record(tmp_path / "copy" / "out")


def test_a_lock_file_that_a_loss_of_power_has_filled_with_zeros(world):
    job = world.job("finish")
    job.directory.mkdir()
    job.file(1, ".lock").write_bytes(bytes(40))
    assert list(world.launcher.find(job)) == []
    assert world.run(job).outcome == "done"
    assert world.launcher.poll(job, 1).where.startswith("process ")


def test_files_of_the_directory_a_job_is_started_in_are_not_imported(world, tmp_path):
    for name in ("json.py", "flows.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')")
    job = Job(("--version",), world.out, marked=False, cwd=tmp_path)
    assert world.run(job).outcome == "done"


def test_nothing_is_left_running_where_the_exit_code_cannot_be_written(world, tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_WRONLY)
    words = [str(lock), str(tmp_path / "none" / "codes"), sys.executable, "-c", GRANDCHILD]
    host = subprocess.run(
        [sys.executable, "-m", "mswitch.flows.jobs.host", *words, str(world.out)],
        pass_fds=[lock],
        start_new_session=True,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(lock)
    assert host.returncode == -signal.SIGKILL
    assert b"FileNotFoundError" in host.stderr
    left = int((world.out / "left").read_text())
    world.wait_for(lambda: not is_alive(left))


@pytest.mark.parametrize("name", ["run", "[run]"])
def test_progress_counts_what_is_staged_beside_the_output(tmp_path, name):
    place = tmp_path / "disk"
    (place / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(place / name)
    (place / f".{name}.partial-1").mkdir()
    (place / f".{name}.partial-1" / "file").touch()
    for out in (place / name, tmp_path / "link"):
        job = Job(("x",), out)
        assert (job.progress(), job.directory) == (1, place / f".{name}.job")


def test_a_log_is_read_in_pieces(tmp_path, world):
    job = world.job("finish")
    job.directory.mkdir()
    short = [f"line {number}" for number in range(300_000)]
    text = "\n".join([*short, "x" * 3_000_000, "end", "not complete"])
    job.file(1, ".log").write_text(text)
    pieces = [lines for lines, _ in read_all_logs(world.launcher, job, 1)]
    assert len(pieces) > 4
    lines = [line for piece in pieces for line in piece]
    assert (lines[: len(short)], lines[-2:]) == (short, ["end", "not complete"])
    assert sum(map(len, lines[len(short) : -1])) == 3_000_003


def all_lines(world, job):
    return [line for lines, _ in read_all_logs(world.launcher, job, 1) for line in lines]


def test_the_last_line_of_a_log_is_read_once_it_is_complete_or_the_attempt_is_over(world):
    job, follower = world.begin()
    log = job.file(1, ".log")
    before = all_lines(world, job)
    with log.open("a") as file:
        file.write("no newline")
    assert all_lines(world, job) == before
    world.finish(follower)
    assert all_lines(world, job) == [*before, "no newline"]
    assert world.lines_file.read_text().endswith("no newline\n")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "x" * 101]
)
def test_a_name_cannot_lead_out_of_the_storage(tmp_path, name):
    with pytest.raises(UserError, match="cannot be the name of a run"):
        resolve_output(tmp_path, name)
    assert resolve_output(tmp_path, "mt5-base.seed_0") == tmp_path / "mt5-base.seed_0"


def test_records_are_found_below_a_directory(tmp_path):
    names = ["a", "data/run", "data/run/eval/again"]
    for name in names:
        world = World(Local(), tmp_path / name)
        assert world.run(world.job("finish")).outcome == "done"
    assert [record.job.out for record in find_records(tmp_path)] == [
        tmp_path / name for name in names
    ]
    # Outputs have too many files to look below all of them.
    (tmp_path / "_COMPLETED").touch()
    assert [record.job.out for record in find_records(tmp_path)] == [tmp_path / "a"]


def test_a_start_that_the_scheduler_forgets_is_kept(world, monkeypatch):
    """Of a job whose pods are gone it says no longer when they began."""
    job, poll, polls = world.job("steady"), Local.poll, []

    def forgets(self, job, attempt):
        status = poll(self, job, attempt)
        polls.append(status.started)
        if len(polls) == 3:
            world.wait_for_beat()
            (world.out / "go").touch()
        return status if len(polls) == 1 else dataclasses.replace(status, started=None)

    monkeypatch.setattr(Local, "poll", forgets)
    assert world.run(job).outcome == "done"
    assert read_record(job.path).last.started == polls[0]


def test_attempts_that_left_nothing_are_counted_where_the_record_was_removed(world):
    job = world.job("finish")
    job.directory.mkdir()
    for attempt in (1, 3):
        job.file(attempt, ".lock").write_text('{"pid": 1, "node": "a", "started": 1.0}')
    ask(job, world.launcher, "run")
    assert world.run(job).outcome == "done"
    assert [one.number for one in world.record.attempts] == [1, 2, 3, 4]


@pytest.mark.parametrize("asker", ["new", "before", "first"])
def test_a_job_is_not_ended_for_one_if_anybody_asks_for_it_meanwhile(world, asker):
    job = world.job("steady")
    for owner in ("before", "first"):
        want(job, world.launcher, owner)
    asked: list[str] = []

    def still_wants(owner: str) -> bool:
        asked.append(owner)
        want(job, world.launcher, asker)
        return False

    assert not leave(job, world.launcher, "cancel", "first", still_wants)
    assert asked == ["before"]
    assert (world.record.intent, world.record.owner) == ("run", asker)
    assert world.record.wanted_by == [asker]
    for seen in (2, world.record.wants):  # it has asked since; it has not
        assert leave(job, world.launcher, None, asker, lambda owner: False, seen) == (seen > 2)
    assert world.record.intent == "run"
    assert leave(job, world.launcher, "pause", asker, lambda owner: False)
    assert world.run(job).outcome == "paused"


def test_a_job_whose_output_another_one_got_is_followed_no_more(world):
    """Nobody followed either of them yet."""
    first, second = world.job("steady"), world.job("finish")
    want(first, world.launcher, "first")
    want(second, world.launcher, "second")
    with pytest.raises(BusyError, match=f"another job, {second.name(1)}, with another command"):
        world.run(first)
    assert (world.record.job.key, world.record.wanted_by) == (second.key, ["second"])
    assert world.pids() == []
    assert world.run(second).outcome == "done"


def test_launching_loads_neither_prefect_nor_jax():
    script = (
        "import sys; import mswitch.flows.jobs.doors, mswitch.flows.jobs.host\n"
        "assert not {'prefect', 'jax', 'apache_beam', 'cyclopts'} & set(sys.modules)"
    )
    assert run_python("-c", script).returncode == 0
