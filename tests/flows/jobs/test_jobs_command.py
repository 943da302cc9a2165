"""`mswitch jobs`, on this machine, without a server of any kind."""

import getpass
import json
import subprocess
import sys
import time

import child_jobs
import job_child
import pytest
from job_world import World, ask, write_record

from mswitch.flows.cli.commands import jobs
from mswitch.flows.cli.commands.jobs import HAND
from mswitch.flows.cli.main import main
from mswitch.flows.jobs import record
from mswitch.flows.jobs.command import describe_differences
from mswitch.flows.jobs.doors import want
from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import (
    Attempt,
    Record,
    edit_record,
    follow_alone,
    read_follower,
    read_record,
)
from mswitch.flows.jobs.slurm import Slurm
from mswitch.flows.stages.stage import make_command_job

TRAIN = ("--", "train", "--out", "x")
SBATCH = ("--launcher", "slurm", "--sbatch-option")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MSWITCH", (sys.executable, job_child.__file__))
    monkeypatch.setattr(jobs, "MSWITCH", (sys.executable, child_jobs.__file__))
    world = World(Local(), tmp_path / "out")
    yield world
    world.clean()


def test_a_command_that_refuses_its_input_ends_the_job_with_its_own_line(tmp_path, capfd):
    command = ["vocab", "train", "--corpus", "nowhere", "--out", str(tmp_path / "v")]
    assert main(["jobs", "submit", "--wait", "--", *command]) == 2
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert [line.startswith("mswitch: nowhere does not exist") for line in lines] == [True, False]
    assert lines[-1].startswith(f"{tmp_path / 'v'}: refused (nowhere does not exist: give a corpus")
    assert main(["jobs", "show", str(tmp_path / "v"), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["state"], shown["followed_by"]) == ("refused", None)
    assert shown["record"]["started_by"] == getpass.getuser()
    assert shown["record"]["job"]["argv"] == command
    assert [(one["codes"], one["hosts"]) for one in shown["record"]["attempts"]] == [([2], 1)]
    assert main(["jobs", "list", str(tmp_path)]) == 0
    assert "\nrefused             0        1       0.00         -  - " in capfd.readouterr().out


def test_a_job_is_followed_in_the_background_paused_resumed_and_cancelled(world, capfd):
    ask(world.job("steady"), world.launcher, "run")
    run = str(world.out)
    assert main(["jobs", "adopt", run]) == 0
    world.wait_for_beat()
    world.wait_for(lambda: read_follower(world.out))
    assert main(["jobs", "show", run]) == 0
    shown = capfd.readouterr().out
    assert f"{run}: running, process " in shown
    assert "followed by  process " in shown
    first = read_follower(world.out)
    with edit_record(world.out) as edited:
        assert edited.owner == HAND
        edited.owner = "flow run x"
    assert main(["jobs", "adopt", run]) == 0
    assert f"{run}: already followed by {first}" in capfd.readouterr().out
    assert read_record(world.out).owner == "flow run x"
    with edit_record(world.out) as edited:
        edited.owner = HAND
    assert main(["jobs", "pause", run]) == 0
    assert f"{run}: paused" in capfd.readouterr().out
    assert (world.out / "saved").exists()
    assert not world.lives()
    assert main(["jobs", "resume", run]) == 0
    world.wait_for_beat(starts=2)
    assert main(["jobs", "cancel", run]) == 0
    assert f"{run}: cancelled" in capfd.readouterr().out
    assert not world.lives()
    world.wait_for(lambda: read_follower(world.out) is None)
    assert main(["jobs", "logs", "--follow", run]) == 0
    assert capfd.readouterr().out.splitlines() == [
        *("process 0: start 1", "saved", "process 0: start 2", "saved"),
    ]
    assert main(["jobs", "adopt", "--wait", run]) == 130
    assert len(world.pids()) == 2


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["submit", "train"], "a job needs an output directory: give --out to 'train' too"),
        (["submit", "--", "evaluate", "--examples", "x"], "give --run to 'evaluate' too"),
        (["submit", "--", "trian", "--out", "x"], "'trian' is not a command of mswitch"),
        (["submit", "--", "jobs", "list"], "'jobs' is not a command of mswitch"),
        (["submit"], "nothing is not a command of mswitch"),
        (["submit", "--hosts=0", *TRAIN], "--hosts is 0: give at least 1"),
        (["submit", "--hosts=2", *TRAIN], "give --distributed to 'train'"),
        (
            ["submit", "--hosts=2", *TRAIN, "--distributed"],
            "the launcher local has only this machine; give --launcher slurm",
        ),
        (["submit", "--launcher=gke", *TRAIN], "unknown launcher 'gke': choose among local"),
        (["submit", "--partition", "a", *TRAIN], "give --launcher slurm"),
        (
            ["submit", *SBATCH, "x", *TRAIN],
            "'x' is not an option of sbatch: give it as --name=value",
        ),
        (["submit", *SBATCH, "--clusters=a", *TRAIN], "--sbatch-option --clusters=a: leave it out"),
        (["submit", "--", "train", "--out", "gs://bucket/run"], "give --record too"),
        (["list", "nowhere"], "nowhere is not a directory: give the directory of outputs"),
        (["submit", "--", "plan"], "run a command that has none without `mswitch jobs submit`"),
        (["show", "nowhere"], "no job makes nowhere: `mswitch jobs list` shows"),
        (["cancel", "nowhere"], "no job makes nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, monkeypatch, capfd, argv, complaint):
    monkeypatch.chdir(tmp_path)
    assert main(["jobs", *argv]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert complaint in said[0]


def test_a_directory_without_jobs_has_none(tmp_path, capfd):
    assert main(["jobs", "list", str(tmp_path)]) == 0
    assert capfd.readouterr().out == f"no jobs below {tmp_path}\n"


def test_which_output_a_command_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make_command_job(["evaluate", "--run", "run", "--json"])
    assert (job.out, job.marked) == (tmp_path / "run" / "eval", False)
    assert job.argv == ("evaluate", "--run", "run")
    assert job.directory == tmp_path / "run" / ".eval.job"
    job = make_command_job(["predict", "--run=s3://b/run", "--select"], record=tmp_path / "run")
    assert (job.out, job.marked) == ("s3://b/run/predictions", False)
    assert job.path == tmp_path / "run" / "predictions"


@pytest.mark.parametrize("command", ["resume", "adopt"])
def test_a_record_chooses_no_program(tmp_path, command):
    out, hacked = tmp_path / "out", tmp_path / "hacked"
    touch = ("touch", str(hacked))
    write_record(Record(Job(("train",), out), {"launcher": "local"}))
    file = out.with_name(".out.job") / "record.json"
    value = json.loads(file.read_text())
    assert "program" not in value["job"]
    file.write_text(json.dumps({**value, "job": {**value["job"], "program": touch}}))
    assert main(["jobs", command, "--wait", str(out)]) == 2
    assert not hacked.exists()


def test_a_terminal_gets_no_control_characters_of_a_job(tmp_path, monkeypatch, capfd):
    world = World(Local(), tmp_path / "o\x1b[31m\nut")
    job = world.job("refuse")
    assert world.run(job).outcome == "refused"
    with job.file(1, ".log").open("a") as log:
        log.write("\x1b]0;title\x07\tdone\n")
    for command in ("show", "logs"):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert main(["jobs", command, str(world.out)]) == 0
    assert main(["jobs", "list", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert not {"\x1b", "\x07"} & set(said)
    assert "\\u001b]0;title\\u0007\tdone\n" in said
    assert said.count("o\\u001b[31m\\nut") == 3
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert main(["jobs", "logs", str(world.out)]) == 0
    assert "\x1b]0;title\x07\tdone\n" in capfd.readouterr().out


def test_who_reads_along_a_job_that_nobody_follows_is_told(world, monkeypatch, capfd):
    job = world.job("fail")
    world.submit(job)
    ask(job, world.launcher, "run")
    world.wait_for_end(job)

    def interrupt(secs: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["jobs", "logs", "-f", str(world.out)])
    said = capfd.readouterr()
    assert said.out == "process 0: start 1\n"
    assert f"nobody follows this job: `mswitch jobs adopt {world.out}`" in said.err


def test_who_reads_along_outlasts_a_bucket_that_does_not_answer(world, monkeypatch, capfd):
    job = world.job("steady")
    world.submit(job)
    world.wait_for_beat()
    ask(job, world.launcher, "run")
    logs, tries = Local.logs, []

    def hiccup(self, *given):
        tries.append(given)
        if len(tries) in (2, 3):
            raise Unreachable("no network")
        if len(tries) == 4:
            (world.out / "go").touch()
            world.wait_for_end(job)
        return logs(self, *given)

    monkeypatch.setattr(Local, "logs", hiccup)
    monkeypatch.setattr("time.sleep", lambda secs: None)
    assert main(["jobs", "logs", "-f", str(world.out)]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("process 0: start 1\n")
    assert said.err.count("the log cannot be read now: no network") == 1
    tries[:] = [()]
    assert main(["jobs", "logs", str(world.out)]) == 2
    assert "the log cannot be read: no network" in capfd.readouterr().err


def test_a_scheduler_that_does_not_answer_is_said_in_a_line(tmp_path, monkeypatch, capfd):
    def no_answer(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "squeue: error: Unable to contact\n")

    monkeypatch.setattr("mswitch.flows.jobs.slurm._call", no_answer)
    command = ["--", "train", "--out", str(tmp_path / "out")]
    assert main(["jobs", "submit", "--launcher", "slurm", *command]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the scheduler does not answer, so nothing was submitted (squeue: error:" in said[0]


def test_a_job_of_a_scheduler_that_is_not_installed_here_is_listed(tmp_path, monkeypatch, capfd):
    job = Job(("train",), tmp_path / "out")
    write_record(Record(job, Slurm().profile, attempts=[Attempt(1, 0.0, 0)]))
    monkeypatch.setenv("PATH", "")
    assert main(["jobs", "list", str(tmp_path)]) == 0
    assert "\nunreachable" in capfd.readouterr().out


def test_a_job_that_nobody_follows_is_done_when_its_marker_says_so(world, capfd):
    job = world.job("steady")
    world.submit(job)
    world.wait_for_beat()
    ask(job, world.launcher, "run")
    (world.out / "go").touch()
    world.wait_for_end(job)
    assert main(["jobs", "list", str(world.out.parent)]) == 0
    assert "\ndone " in capfd.readouterr().out
    assert main(["jobs", "logs", "-f", str(world.out)]) == 0


def test_a_launcher_of_operators_toml_is_given_by_its_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "operators.toml").write_text(
        "[launchers.gke]\nlauncher = 'kubernetes'\ncontext = 'a'\nimage = 'b'\n"
        "volumes = {'/srv' = 'c'}"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    command = ["--", "train", "--preset", "mt5-tiny", "--examples", "x", "--out", "y"]
    assert main(["jobs", "submit", "--launcher", "gke", *command]) == 2
    assert "mswitch: kubectl is not installed" in capfd.readouterr().err
    assert main(["jobs", "submit", "--launcher", "gke", "--partition", "a", *command]) == 2
    assert "give --launcher slurm" in capfd.readouterr().err


def test_the_output_of_a_job_that_is_followed_between_attempts_is_no_other_s(world, capfd):
    job = world.job("resume-once")
    want(job, world.launcher, "by hand", "ada")
    with follow_alone(job.path, print, time.sleep):
        assert main(["jobs", "submit", "--", "train", "--out", str(world.out)]) == 2
    line = f"{world.out} is being made by another job, {job.name(1)} (ada), with another command, "
    assert line in capfd.readouterr().err
    assert world.record.job == job


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["train", "--seed", "1", "--steps=4", "--pack"], "--pack, --steps"),
        (["train", "--steps", "3", "--seed", "1", "--", "--region=here"], "--, --region"),
        (["finetune", "--steps=3", "--seed=1"], "command"),
        (["train", "--seed=1", "--steps=3"], ""),
    ],
)
def test_commands_differ_in_options(other, told):
    assert describe_differences(["train", "--steps=3", "--seed", "1"], other) == told
