"""What is Slurm's own: a controller that is gone, limits, people who cancel, two real processes."""

import subprocess

import pytest
from job_world import World

from mswitch.flows.jobs import slurm
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.programs import call
from mswitch.flows.jobs.slurm import Slurm
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.slurm


@pytest.fixture
def world(cluster, tmp_path):
    world = World(Slurm(), tmp_path / "out", hosts=2, secs=90)
    yield world
    world.clean()
    cluster.wait_until_idle()


def test_a_job_that_waits_says_why_and_can_be_cancelled(world, tmp_path):
    _, follower = world.begin()
    second = World(Slurm(), tmp_path / "second", hosts=2)
    waiting = second.job("finish")
    second.submit(waiting)
    second.wait_for(lambda: second.launcher.poll(waiting, 1).reason == "Resources")
    assert second.launcher.poll(waiting, 1).phase == "pending"
    second.launcher.end(waiting, 1)
    second.wait_for_end(waiting)
    assert second.launcher.poll(waiting, 1).reason == "CANCELLED"
    world.finish(follower)
    assert second.pids() == []


def test_a_job_that_a_person_cancels_in_slurm_stays_cancelled(world):
    job, follower = world.begin()
    subprocess.run(["scancel", job.file(1, ".claim").read_text()], check=True)
    world.end(follower, "cancelled")
    assert not world.lives()


def test_of_two_jobs_for_one_attempt_one_does_nothing(world, monkeypatch):
    job = world.job("steady")
    world.submit(job)
    world.wait_for_beat()
    with (
        monkeypatch.context() as blind
    ):  # the reply of the first sbatch was lost, and the queue lags
        blind.setattr(Slurm, "find", lambda *_: [])
        world.launcher.submit(job, 1)
    (world.out / "go").touch()
    world.wait_for_end(job)
    assert world.launcher.poll(job, 1).codes == (0, 0)
    assert len(world.pids()) == 2


def test_a_time_limit_ends_no_training(world):
    """Slurm sends SIGTERM two minutes before the limit of three, give or take half a minute."""
    world.launcher = Slurm(time_limit="3")
    _, follower = world.begin()
    world.secs = 150
    world.wait_for_beat(starts=2)
    world.finish(follower)
    first, second = world.record.attempts
    assert first.codes == (75, 75)
    assert (world.out / "saved").exists()
    assert second.outcome == "done"


def test_what_sbatch_refuses_is_said_in_a_line(world, monkeypatch):
    world.launcher = Slurm(partition="nowhere")
    with pytest.raises(UserError, match=r"sbatch refuses the job: invalid partition specified"):
        world.run(world.job("finish"))
    with pytest.raises(UserError, match=r"'evil.sh' is not an option of sbatch"):
        Slurm(options=("evil.sh",))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="is not installed: give the command on a machine"):
        world.run(world.job("finish"))


def test_a_hidden_partition_and_its_jobs_are_seen(world, monkeypatch):
    world.launcher = Slurm("hidden")
    job = world.job("steady")
    world.submit(job)
    world.wait_for_beat()
    # Root sees them anyway.
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    user += ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    with monkeypatch.context() as patched:
        patched.setattr(slurm, "_call", lambda *words: call(*user, *words, where="here"))
        world.launcher.check(job)
        assert world.launcher.poll(job, 1).phase == "running"
    (world.out / "go").touch()
    world.wait_for_end(job)


def test_what_slurm_says_when_it_does_not_answer_is_known():
    for words in (
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Munge encode failed: Failed to access /run/munge/munge.socket.2",
    ):
        assert slurm._NO_ANSWER.search(words)


def test_what_no_partition_could_run_is_refused_at_once(world, tmp_path):
    Slurm().check(world.job("steady"))
    Slurm("all").check(world.job("steady"))
    with pytest.raises(UserError, match=r"no partition 'none': choose among all, hidden"):
        Slurm("none").check(world.job("steady"))
    with pytest.raises(UserError, match=r"--hosts 3: Slurm's partition all has 2 nodes"):
        Slurm().check(Job(("train",), tmp_path / "big", hosts=3))
