"""Jobs whose output is in a bucket: the record here, marker and progress there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import child_jobs
import job_child
import local_kubernetes
import pytest
from example_files import write_examples
from job_world import World, ask
from local_kubernetes import LocalKubernetesCluster
from processes import wait_for

from mswitch.flows.cli.commands import jobs
from mswitch.flows.cli.main import main
from mswitch.flows.jobs import pod_command, record
from mswitch.flows.jobs.doors import want
from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.kubernetes import Kubernetes
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import read_record
from mswitch.flows.stages.stage import make_command_job
from mswitch.pipelines import objects, storage
from mswitch.pipelines.errors import UserError


def no_network(*_):
    raise OSError("no network")


@pytest.fixture
def world(bucket, tmp_path):
    world = World(Local(), tmp_path / "out", secs=90, url=f"{bucket}/out")
    yield world
    world.clean()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["launch.after_submit", "launch.before_outcome"])
def test_a_follower_killed_at_any_step_doubles_no_job_and_no_line(world, bucket, point):
    job = world.job("resume-once")
    killed = world.follow(job, MSWITCH_FAULT=point)
    _, errors = killed.communicate(timeout=world.secs)
    assert killed.returncode == -signal.SIGKILL, errors
    world.end(world.follow(job))
    assert len(world.pids()) == 2
    assert world.lines_file.read_text().splitlines() == ["process 0: start 1", "process 0: start 2"]
    assert storage.file_sizes(bucket).keys() == {"out/half", "out/_COMPLETED"}
    assert world.outcomes == ["resume", "done"]


@pytest.mark.slow
def test_commands_know_a_job_by_the_place_of_its_record(either, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(record, "MSWITCH", (sys.executable, job_child.__file__))
    monkeypatch.setattr(jobs, "MSWITCH", (sys.executable, child_jobs.__file__))
    world = World(Local(), tmp_path / "out", secs=90, url=f"{either}/out")
    place, named = str(world.out), f"{world.out} ({world.url})"
    job = world.job("steady")
    want(job, Local())
    assert main(["jobs", "adopt", place]) == 0
    try:
        world.wait_for_beat()
        assert main(["jobs", "show", place]) == 0
        assert capfd.readouterr().out.splitlines()[1].startswith(f"{named}: running, process ")
        assert main(["jobs", "pause", place]) == 0
        assert f"{named}: paused" in capfd.readouterr().out
        assert main(["jobs", "resume", place]) == 0
        world.wait_for_beat(starts=2)
        assert main(["jobs", "cancel", place]) == 0
        assert f"{named}: cancelled" in capfd.readouterr().out
        assert not world.lives()
        (world.out / "go").touch()
        assert main(["jobs", "resume", "--wait", place]) == 0
        assert main(["jobs", "list", str(tmp_path)]) == 0
        said = capfd.readouterr().out.splitlines()
        assert said[-1].startswith("done                1        3 ")
        assert said[-1].endswith(f" {named}")
        assert main(["jobs", "logs", "-f", place]) == 0
        lines = [f"process 0: start {start}" for start in (1, 2, 3)]
        lines[1:1], lines[3:3] = ["saved"], ["saved"]
        assert capfd.readouterr().out.splitlines() == lines
    finally:
        world.clean()
    assert storage.exists(f"{world.url}/_COMPLETED")


def test_a_bucket_that_does_not_answer_neither_ends_nor_repeats_a_job(world, monkeypatch, capfd):
    exists, left = storage.exists, [no_network] * 3

    def sometimes(path):
        return (left.pop() if left else exists)(path)

    monkeypatch.setattr(storage, "exists", sometimes)
    told = []
    assert world.run(world.job("finish"), on_poll=told.append).outcome == "done"
    assert len(world.pids()) == 1
    assert any("cannot reach" in line and "no network" in line for line in told)
    monkeypatch.setattr(storage, "file_sizes", no_network)
    assert main(["jobs", "list", str(world.out.parent)]) == 0
    assert "\nunreachable         1        1 " in capfd.readouterr().out


def test_an_output_in_a_bucket_needs_a_place_for_the_record(bucket, tmp_path, capfd):
    command = ["--", "train", "--preset", "mt5-tiny", "--examples", "x", "--out"]
    assert main(["jobs", "submit", *command, f"{bucket}/run"]) == 2
    assert (
        f"{bucket}/run is in a bucket, but the record of a job must not be: give --record too"
        in capfd.readouterr().err
    )
    place = str(tmp_path / "run")
    assert main(["jobs", "submit", "--record", place, *command, "hdfs://name/run"]) == 2
    assert "hdfs://name/run is not a bucket that can be written to" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_which_output_a_command_makes_in_a_bucket(tmp_path):
    job = make_command_job(["train", "--out", "gs://b/run/"], record=tmp_path / "run")
    assert (job.out, job.path, job.directory) == (
        "gs://b/run", tmp_path / "run", tmp_path / ".run.job"
    )  # fmt: skip
    assert job.left(2, ".task0") == f"gs://b/.run.job/{job.name(2)}.task0"
    job = make_command_job(["evaluate", "--run=s3://b/run"], record=tmp_path / "run")
    assert (job.out, job.path) == ("s3://b/run/eval", tmp_path / "run" / "eval")
    job = make_command_job(["train", "--out", "run"], record=tmp_path / "other")
    assert job.path == job.out == Path.cwd() / "run"
    # With another record it is another one in a scheduler too.
    command = ["train", "--out", "gs://b/run"]
    one, other = (make_command_job(command, record=tmp_path / name) for name in ("a", "b"))
    assert one.parse_attempt(other.name(1)) is None
    assert one.parse_attempt(make_command_job(command, record=tmp_path / "a").name(1)) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_killed_and_paused_goes_on_from_the_bucket(
    bucket, tmp_path, monkeypatch, capfd
):
    examples = write_examples(tmp_path / "examples", {"de": [40]}, 16, 512, 9)
    run, place = f"{bucket}/run", tmp_path / "run"
    command = ["train", "--preset=mt5-tiny", f"--examples={examples}", f"--out={run}"]
    shape = ["--batch-size=4", "--steps=5000", "--checkpoint-every=50"]

    def saved() -> int:
        time.sleep(0.5)  # the store answers the training too
        names = storage.file_sizes(f"{run}/checkpoints")
        found = [name.partition("/")[0] for name in names if name.endswith("_CHECKPOINT_METADATA")]
        return max(map(int, found), default=0)

    assert main(["jobs", "submit", f"--record={place}", "--", *command, *shape]) == 0
    wait_for(lambda: saved() > 0, 300)
    job = read_record(place).job
    os.killpg(json.loads(job.file(1, ".lock").read_bytes())["pid"], signal.SIGKILL)
    before = saved()
    wait_for(lambda: saved() > before, 300)
    assert main(["jobs", "pause", str(place)]) == 0
    assert f"continuing after step {before}, from {run}" in job.file(2, ".log").read_text()
    capfd.readouterr()
    assert main(["jobs", "show", str(place), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["state"], shown["progress"], shown["out"]) == ("paused", saved(), run)
    attempts = shown["record"]["attempts"]
    assert [one["codes"] for one in attempts] == [[], [75]]
    assert attempts[1]["made"] == saved() - before


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Stands in for a cluster that has no objects any more."""
    script = tmp_path / "kubectl"
    script.write_text("#!/bin/sh\necho '{\"items\": []}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
def test_a_pod_without_a_volume_leaves_log_and_code_in_the_bucket(either, tmp_path, kubectl):
    job = Job(("train",), f"{either}/run", record=tmp_path / "run")
    job.directory.mkdir()
    launcher = Kubernetes("here", "image")
    assert launcher.find(job) == []
    said: list[str] = []
    for code in (75, 0):  # a queue may suspend the Job, and resume it
        program = f"import sys; print('é {code}'); sys.exit({code})"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mswitch.flows.jobs.pod_command", job.left(1, "")),
                *(sys.executable, "-c", program),
            ],
            env={**os.environ, "JOB_COMPLETION_INDEX": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, f"é {code}\n"), done.stderr
        said.append(f"é {code}")
        assert launcher.poll(job, 1).codes == (code,)
        assert launcher.logs(job, 1, 0)[0] == said
    assert launcher.find(job) == [1]
    _, end = launcher.logs(job, 1, 0)
    assert launcher.logs(job, 1, end) == ([], end)
    assert storage.list_names(f"{either}/run") == set()


def test_what_a_pod_cannot_send_keeps_nothing_else_back(bucket, monkeypatch):
    place, upload = f"{bucket}/.run.job/mswitch-key-1.task0", objects.upload

    def refuse_the_log(path, url):
        if url.endswith(".log"):
            raise objects.BucketError("no network")
        upload(path, url)

    monkeypatch.setattr(objects, "upload", refuse_the_log)
    with pod_command._upload_files(place) as file:
        file.with_suffix(".log").write_text("said")
        file.write_text("75")
    assert storage.read_bytes(place) == b"75"

    monkeypatch.setattr(objects, "upload", upload)

    def fail():
        with pod_command._upload_files(place) as file:
            file.with_suffix(".log").write_text("said")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert storage.read_bytes(f"{place}.log") == b"said"
    assert not storage.exists(place)


def test_a_launcher_asks_for_no_volume_where_the_output_is_in_a_bucket(tmp_path, monkeypatch):
    launcher = Kubernetes("here", "image")
    job = Job(("train", "--out=gs://b/run"), "gs://b/run", record=tmp_path / "run")
    command = launcher.manifest(job, 1)["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[4] == f"gs://b/.run.job/{job.name(1)}"
    launcher._check_shape(job)
    with pytest.raises(UserError, match=r"no volume of the launcher has /run: .* one of gs://, s3"):
        launcher._check_shape(Job(("train",), Path("/run")))

    monkeypatch.setattr(storage, "file_sizes", no_network)
    monkeypatch.setattr(Kubernetes, "_get", lambda *_: [])
    with pytest.raises(Unreachable, match="no network"):
        launcher.poll(job, 1)


@pytest.mark.kubernetes
@pytest.mark.timeout(900)
def test_pods_without_a_volume_are_killed_paused_and_finish(bucket, tmp_path, monkeypatch):
    if missing := local_kubernetes.what_is_missing():
        pytest.skip(missing)
    with LocalKubernetesCluster(tmp_path) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        launcher = Kubernetes(local_kubernetes.CONTEXT, "none", python=sys.executable)
        world = World(launcher, tmp_path / "out", secs=200, url=f"{bucket}/out")
        job = world.job("steady")
        launcher.check(job)
        follower = world.follow(job)
        world.wait_for_beat()
        os.kill(world.pids()[-1], signal.SIGKILL)
        world.wait_for_beat(starts=2)
        ask(job, launcher, "pause")
        world.end(follower, "paused")
        (world.out / "go").touch()
        ask(job, launcher, "run")
        world.end(world.follow(job))
    attempts = world.record.attempts
    assert [one.outcome for one in attempts] == ["resume", "resume", "done"]
    assert [one.codes for one in attempts] == [(137,), (75,), (0,)]
    lines = [f"process 0: start {start}" for start in (1, 2, 3)]
    lines.insert(2, "saved")
    assert world.lines_file.read_text().splitlines() == lines
    assert storage.file_sizes(f"{bucket}/out").keys() == {"_COMPLETED"}
