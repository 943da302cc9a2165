"""What holds for every launcher, with real processes that are killed at every step."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from job_world import World, ask
from processes import free_port

from mswitch.flows.jobs.doors import look
from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Record, edit_record
from mswitch.flows.jobs.slurm import Slurm
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import LAUNCH_POINTS


def test_a_job_that_is_submitted_twice_runs_once(world: World):
    job = world.job("steady")
    world.submit(job)
    world.launcher.submit(job, 1)
    world.wait_for_beat()
    world.launcher.submit(job, 1)
    assert list(world.launcher.find(job)) == [1]
    (world.out / "go").touch()
    world.wait_for_end(job)
    world.launcher.submit(job, 1)
    assert world.launcher.poll(job, 1).codes == (0,) * world.hosts
    assert len(world.pids()) == world.hosts


@pytest.mark.parametrize("point", LAUNCH_POINTS)
def test_a_follower_killed_at_any_step_doubles_no_job_and_no_line(world: World, point: str):
    job = world.job("resume-once")
    killed = world.follow(job, MSWITCH_FAULT=point)
    _, errors = killed.communicate(timeout=world.secs)
    assert killed.returncode == -signal.SIGKILL, errors
    world.end(world.follow(job))
    assert len(world.pids()) == 2 * world.hosts
    wanted = [f"process {n}: start {start}" for n in range(world.hosts) for start in (1, 2)]
    lines = [x for x in world.lines_file.read_text().splitlines() if x.startswith("process")]
    assert sorted(lines) == wanted


def test_a_job_outlives_its_follower_and_the_next_one_adopts_it(world: World):
    job, follower = world.begin()
    follower.kill()
    follower.communicate()
    world.wait_for_beat()
    second = world.follow(job)
    third = world.follow(job)  # waits for the second
    (world.out / "go").touch()
    for one in (second, third):
        world.end(one)
    assert len(world.pids()) == world.hosts
    assert world.outcomes == ["done"]


def test_input_that_is_refused_is_not_tried_again(world: World):
    job = world.job("refuse")
    for _ in range(2):
        result = world.run(job)
        assert (result.outcome, result.message) == ("refused", "--steps is 0: give at least 1")
    assert len(world.pids()) == world.hosts
    ask(job, world.launcher, "run")
    assert world.run(job).outcome == "refused"
    assert len(world.pids()) == 2 * world.hosts


def test_a_failure_is_not_repeated_and_interruptions_without_progress_only_so_often(world: World):
    assert world.run(world.job("fail")).message.startswith("failed (code 1)")
    assert len(world.pids()) == world.hosts
    (world.out / "starts").unlink()
    ask(world.job("stall"), world.launcher, "run")
    result = world.run(world.job("stall"))
    assert result.outcome == "failed"
    assert result.message.startswith("started again 3 times in a row without progress: interrupted")
    # The first one makes a file: that is progress.
    assert len(world.pids()) == 5 * world.hosts


def test_a_command_that_leaves_no_marker_is_done_with_code_0_and_run_when_asked(world: World):
    job = world.job("unmarked", marked=False)
    for times in (1, 2):
        ask(job, world.launcher, "run")
        for _ in ("a follower", "another, later"):
            assert world.run(job).outcome == "done"
            assert len(world.pids()) == times * world.hosts
    assert world.run(world.job("unmarked")).message == "ended with code 0 but wrote no _COMPLETED"


def test_a_marker_that_was_there_before_does_not_speak_for_a_job(world: World):
    world.out.mkdir()
    (world.out / "_COMPLETED").touch()
    refused = world.job("refuse")
    for _ in range(2):
        ask(refused, world.launcher, "run")
        assert world.run(refused).outcome == "refused"
    ask(world.job("finish"), world.launcher, "run")
    assert world.run(world.job("finish")).outcome == "done"
    assert len(world.pids()) == 3 * world.hosts


def test_a_job_that_comes_back_after_another_of_its_output_is_run_again(world: World):
    first, other = world.job("finish"), world.job("refuse")
    for job, outcome in ((first, "done"), (other, "refused"), (first, "done")):
        ask(job, world.launcher, "run")
        assert world.run(job).outcome == outcome
    assert len(world.pids()) == 3 * world.hosts
    # Hours of the first attempt are among the earlier ones, and count once.
    assert [one.started is None for one in world.record.attempts] == [True, False]


def test_a_member_that_is_killed_is_started_again(world: World):
    _, follower = world.begin()
    os.kill(world.pids()[-1], signal.SIGKILL)
    (world.out / "saved").touch()
    world.wait_for_beat(starts=2)
    world.finish(follower)
    assert 137 in world.record.attempts[0].codes
    assert len(world.pids()) == 2 * world.hosts


@pytest.mark.parametrize("mode", ["steady", "stubborn"])
def test_a_cancelled_job_saves_or_is_killed_and_leaves_no_process(world: World, mode: str):
    job, follower = world.begin(mode, grace_secs=5.0 if mode == "steady" else 0.3)
    ask(job, world.launcher, "cancel")
    world.end(follower, "cancelled")
    assert (world.out / "saved").exists() == (mode == "steady")
    assert not world.lives()
    assert world.run(job).outcome == "cancelled"
    assert len(world.pids()) == world.hosts


def test_a_paused_job_goes_on_when_asked(world: World):
    job, follower = world.begin()
    ask(job, world.launcher, "pause")
    world.end(follower, "paused")
    assert world.run(job).outcome == "paused"
    (world.out / "go").touch()
    ask(job, world.launcher, "run")
    assert world.run(job).outcome == "done"
    assert len(world.pids()) == 2 * world.hosts


def test_a_job_is_cancelled_though_nobody_follows_it_nor_wrote_it_down(world: World):
    job = world.job("steady")
    killed = world.follow(job, MSWITCH_FAULT="launch.after_submit")
    killed.communicate(timeout=world.secs)
    assert world.record.attempts == []
    world.wait_for_beat()
    ask(job, world.launcher, "cancel")
    assert world.run(job).outcome == "cancelled"
    assert not world.lives()


def test_another_job_cannot_have_the_output_while_one_lives(world: World):
    job, follower = world.begin()
    follower.kill()
    follower.communicate()
    with pytest.raises(UserError, match=rf"another job, {job.name(1)}, with another command: wait"):
        ask(world.job("finish"), world.launcher, "run")
    (world.out / "go").touch()
    assert world.run(job).outcome == "done"
    ask(world.job("finish"), world.launcher, "run")
    assert world.run(world.job("finish")).outcome == "done"
    assert world.record.job.argv[0] == "finish"


def test_what_is_asked_while_a_job_is_submitted_is_heard(world: World):
    job = world.job("steady")
    with edit_record(world.out, lambda before: before or Record(job, world.launcher.profile)):
        asking = threading.Thread(target=ask, args=(job, world.launcher, "cancel"))
        asking.start()
        world.launcher.submit(job, 1)
        assert asking.is_alive()
    asking.join(world.secs)
    assert world.run(job).outcome == "cancelled"
    assert not world.lives()


def test_arguments_reach_the_command_as_they_are(world: World):
    words = ("$(touch hacked)", "$(JOB_COMPLETION_INDEX)", "; rm -rf x", "a b", "*", "-", "$$")
    words += ("--x=`id`", "%j", "né")
    program = (
        *(sys.executable, "-c"),
        "import json, pathlib, sys; out = pathlib.Path(sys.argv[1]); out.mkdir(exist_ok=True); "
        "(out / 'argv').write_text(json.dumps(sys.argv[2:])); (out / '_COMPLETED').touch()",
    )
    out = world.out.with_name("50%j $5 of it")
    job = Job((str(out), *words), out, program=program)
    assert World(world.launcher, out).run(job).outcome == "done"
    assert json.loads((out / "argv").read_text()) == list(words)


def test_a_scheduler_that_is_gone_for_a_while_is_not_a_restart(world: World):
    if world.cluster is None:
        pytest.skip("this machine is its own scheduler")
    job, follower = world.begin()
    world.cluster.stop_scheduler()
    try:
        with pytest.raises(Unreachable, match=r"Unable to contact slurm|was refused"):
            world.launcher.poll(job, 1)
        with pytest.raises(Unreachable):
            world.launcher.submit(job, 2)
        assert look(world.record).state == "unreachable"
        time.sleep(15)
        assert follower.poll() is None
        world.wait_for_beat()
    finally:
        world.cluster.start_scheduler()
    world.finish(follower)
    assert len(world.pids()) == 2


#: Nodes are this machine, which neither Slurm's environment nor a DNS names.
MEMBER = """
import os, re, sys
from mswitch.flows.cli.main import main
if "SLURM_PROCID" in os.environ:
    sys.argv += ["--process-id", os.environ["SLURM_PROCID"]]
sys.argv = [re.sub(r"(--coordinator-address=)mswitch-.*-0\\.mswitch:", r"\\g<1>127.0.0.1:", word)
            for word in sys.argv]
sys.exit(main())
"""


@pytest.mark.timeout(900)
def test_two_processes_train_one_is_killed_and_losses_are_those_of_an_undisturbed_run(world: World):
    if isinstance(world.launcher, Local):
        pytest.skip("it has one process")
    import example_files

    top = world.out.parent
    examples = example_files.write_examples(top / "examples", {"de": [40]}, 16, 512, 9)
    shape = ["--batch-size", "4", "--data-parallel", "2", "--checkpoint-every", "10"]
    shape += ["--steps", "60", "--evaluations", "2", "--heartbeat-timeout-secs", "30"]
    if isinstance(world.launcher, Slurm):
        address = f"127.0.0.1:{free_port()}"
        shape += ["--coordinator-address", address, "--num-processes", "2"]
    else:
        shape += ["--distributed"]

    def run(out: Path) -> Job:
        argv = ["train", "--preset", "mt5-tiny", "--examples", str(examples), "--out", str(out)]
        return Job((*argv, *shape), out, hosts=2, program=(sys.executable, "-c", MEMBER))

    world.secs = 400
    killed, quiet = run(top / "killed"), run(top / "quiet")
    world.out = top / "killed"
    follower = world.follow(killed)
    world.wait_for(lambda: list(world.out.glob("checkpoints/10/_CHECKPOINT_METADATA")))
    victim = subprocess.check_output(["pgrep", "-f", rf"^\S+ -c .*--out {world.out}"], text=True)
    os.kill(int(victim.split()[-1]), signal.SIGKILL)
    world.end(follower)
    assert world.outcomes == ["resume", "done"]
    assert World(world.launcher, top / "quiet").run(quiet).outcome == "done"
    losses = [
        [json.loads(line)["train/loss"] for line in (top / out / "metrics.jsonl").open()]
        for out in ("killed", "quiet")
    ]
    assert len(losses[0]) == 60
    assert losses[0] == losses[1]
