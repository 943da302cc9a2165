"""What is Kubernetes' own: a control plane that is gone, pods that wait or are evicted, people."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_world import World, is_alive
from local_kubernetes import SUBMITTER

from mswitch.flows.jobs.controller import ask
from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.record import read_record
from mswitch.flows.jobs.summary import summarise
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def world(kubernetes_cluster, kubernetes, tmp_path):
    world = World(kubernetes, tmp_path / "out", hosts=2, secs=120)
    yield world
    world.clean()
    kubernetes_cluster.wait_until_idle()


def test_a_control_plane_that_is_gone_for_a_while_is_not_a_restart(world, kubernetes_cluster):
    job = world.job("steady")
    follower = world.follow(job)
    world.wait_for_beat()
    kubernetes_cluster.stop_api()
    try:
        with pytest.raises(Unreachable, match="was refused"):
            world.launcher.poll(job, 1)
        with pytest.raises(Unreachable):
            world.launcher.submit(job, 2)
        assert summarise(read_record(world.out)).state == "unreachable"
        time.sleep(15)
        assert follower.poll() is None
        world.wait_for_beat()
    finally:
        kubernetes_cluster.start_api()
    (world.out / "go").touch()
    result, errors = follower.communicate(timeout=world.secs)
    assert result == "done\n", errors
    assert len(world.pids()) == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"limits": {"google.com/tpu": 8}},
            "0/2 nodes are available: 2 Insufficient google.com/tpu",
        ),
        ({"node_selector": {"gpu": "h100"}}, "0/2 nodes are available: 2 node(s) didn't match"),
        ({"service_account": "nobody"}, 'serviceaccount "nobody" not found'),
    ],
)
def test_a_job_that_waits_says_why_and_can_be_cancelled(world, settings, reason):
    launcher = dataclasses.replace(world.launcher, **settings)
    job = world.job("finish")
    job.directory.mkdir()
    launcher.submit(job, 1)
    world.wait_for(lambda: reason in launcher.poll(job, 1).reason)
    assert launcher.poll(job, 1).phase == "pending"
    launcher.stop(job, 1)
    launcher.stop(job, 1)
    world.wait_for(lambda: launcher.poll(job, 1).phase == "ended")
    assert world.pids() == []


def test_a_slice_of_tpus_is_found_by_its_labels(world):
    tpu = {"accelerator": "tpu-v5-lite-podslice", "topology": "2x4", "chips": 4}
    world.launcher = dataclasses.replace(world.launcher, **tpu)
    world.launcher.check(world.job("finish"))
    assert world.run(world.job("finish")).outcome == "done"
    record = read_record(world.out)
    # A host has four chips, so each process is on another.
    assert record.attempts[0].where.endswith("on node-0, node-1")
    assert record.attempts[0].started is not None


def test_a_job_that_a_person_deletes_stays_cancelled(world, kubernetes_cluster):
    job = world.job("steady")
    follower = world.follow(job)
    world.wait_for_beat()
    kubernetes_cluster.ask("delete", "job", job.name(1))
    result, errors = follower.communicate(timeout=world.secs)
    assert result == "cancelled\n", errors
    assert (world.out / "saved").exists()
    assert not any(is_alive(pid) for pid in world.pids())
    assert world.run(job).message == "cancelled in the scheduler (CANCELLED: the Job was deleted)"


def test_a_pod_that_is_evicted_saves_and_the_job_goes_on(world, kubernetes_cluster):
    job = world.job("steady")
    follower = world.follow(job)
    world.wait_for_beat()
    [pod, _] = kubernetes_cluster.ask("get", "pods", "--output=name").split()
    name = pod.removeprefix("pod/")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    kubernetes_cluster.ask("create", f"--raw={path}", "--filename=-", given=json.dumps(eviction))
    world.wait_for_beat(starts=2)
    (world.out / "go").touch()
    assert follower.communicate(timeout=world.secs)[0] == "done\n"
    first, second = read_record(world.out).attempts
    assert first.outcome == "resume"
    # It is chance by which of its pods a Job is judged: the evicted one, or one that saved with it.
    assert re.search("DisruptionTarget|code 75", first.message)
    assert second.outcome == "done"


def test_a_job_that_its_queue_suspends_saves_and_goes_on(world, kubernetes_cluster):
    job = world.job("steady")
    follower = world.follow(job)
    world.wait_for_beat()
    for suspend in ("true", "false"):
        patch = f'{{"spec": {{"suspend": {suspend}}}}}'
        kubernetes_cluster.ask("patch", "job", job.name(1), f"--patch={patch}")
        world.wait_for((world.out / "saved").exists)
    world.wait_for_beat(starts=2)
    (world.out / "go").touch()
    result, errors = follower.communicate(timeout=world.secs)
    assert result == "done\n", errors
    assert len(world.pids()) == 4
    # Where the pods have saved before the Job counts as suspended, it failed, and another follows.
    outcomes = [one.outcome for one in read_record(world.out).attempts]
    assert outcomes in (["done"], ["resume", "done"])
    assert read_record(world.out).last.codes == (0, 0)


def test_the_rights_that_the_documentation_names_suffice(world, kubernetes_cluster):
    page = Path(__file__).parents[3] / "docs/how-to/kubernetes.md"
    rows = re.findall(
        r"^\| `([a-z]+)`(?: \(([a-z0-9.-]+)\))? \| ([a-z, ]+) \|$", page.read_text(), re.M
    )
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs.split(", ")}
        for resource, group, verbs in rows
    ]
    role = {"kind": "Role", "metadata": {"name": SUBMITTER}, "rules": rules}
    role |= {"apiVersion": "rbac.authorization.k8s.io/v1"}
    kubernetes_cluster.ask("create", "--filename=-", given=json.dumps(role))
    kubernetes_cluster.ask(
        *("create", "rolebinding", SUBMITTER), f"--role={SUBMITTER}", f"--user={SUBMITTER}"
    )
    world.launcher = dataclasses.replace(
        world.launcher, context=SUBMITTER, service_account="default"
    )
    job = world.job("steady")
    world.launcher.check(job)
    follower = world.follow(job)
    world.wait_for_beat()
    ask(job, world.launcher, "pause")
    world.launcher.stop(job, 1, kill=True)
    assert follower.communicate(timeout=world.secs)[0] == "paused\n"
    nobody = dataclasses.replace(world.launcher, service_account="nobody")
    with pytest.raises(UserError, match='serviceaccounts "nobody" not found'):
        nobody.check(job)


def test_arguments_reach_the_command_as_they_are(world):
    words = ("$(touch hacked)", "$(JOB_COMPLETION_INDEX)", "; rm -rf x", "a b", "*", "$$", "é")
    program = (
        *(sys.executable, "-c"),
        "import json, pathlib, sys; out = pathlib.Path(sys.argv[1]); out.mkdir(exist_ok=True); "
        "(out / 'argv').write_text(json.dumps(sys.argv[2:])); (out / '_COMPLETED').touch()",
    )
    out = world.out.with_name("$5 of it")
    job = Job((str(out), *words), out, program=program)
    assert World(world.launcher, out).run(job).outcome == "done"
    assert json.loads((out / "argv").read_text()) == list(words)


def test_what_the_cluster_refuses_is_said_in_a_line(world):
    world.launcher = dataclasses.replace(world.launcher, namespace="nowhere")
    with pytest.raises(UserError, match=r'refuses the job: .*namespaces "nowhere" not found'):
        world.launcher.check(world.job("finish"))
    with pytest.raises(UserError, match=r'refuses the job: .*namespaces "nowhere" not found'):
        world.run(world.job("finish"))
    claim = {str(world.out.parent): "no-claim"}
    launcher = dataclasses.replace(world.launcher, namespace="default", volumes=claim)
    with pytest.raises(UserError, match=r'persistentvolumeclaims "no-claim" not found'):
        launcher.check(world.job("finish"))
    launcher = dataclasses.replace(world.launcher, context="nothing")
    with pytest.raises(Unreachable, match='context "nothing" does not exist'):
        launcher.find(world.job("finish"))


#: There is no DNS of a cluster here: what names process 0 stands for this machine.
MEMBER = """
import re, sys
from mswitch.flows.cli.main import main
sys.argv = [re.sub(r"(--coordinator-address=)mswitch-.*-0\\.mswitch:", r"\\g<1>127.0.0.1:", word)
            for word in sys.argv]
sys.exit(main())
"""


@pytest.mark.timeout(900)
def test_two_processes_train_one_is_killed_and_losses_are_those_of_an_undisturbed_run(world):
    import example_files

    top = world.out.parent
    examples = example_files.write_examples(top / "examples", {"de": [40]}, 16, 512, 9)
    program = (sys.executable, "-c", MEMBER)
    shape = ["--batch-size", "4", "--data-parallel", "2", "--checkpoint-every", "10"]
    shape += ["--distributed", "--steps", "30", "--evaluations", "2"]

    def run(out: Path) -> Job:
        argv = ["train", "--preset", "mt5-tiny", "--examples", str(examples), "--out", str(out)]
        return Job((*argv, *shape), out, hosts=2, program=program)

    world.secs = 400
    killed, quiet = run(top / "killed"), run(top / "quiet")
    world.out = killed.out
    follower = world.follow(killed)
    world.wait_for(lambda: list(killed.out.glob("checkpoints/10/_CHECKPOINT_METADATA")))
    member = rf"^\S+ -c .*--out {killed.out} .*--process-id=1$"
    victim = subprocess.check_output(["pgrep", "-f", member], text=True)
    os.kill(int(victim), signal.SIGKILL)
    assert follower.communicate(timeout=world.secs)[0] == "done\n"
    record = read_record(killed.out)
    assert [one.outcome for one in record.attempts] == ["resume", "done"]
    assert 137 in record.attempts[0].codes
    assert world.run(quiet).outcome == "done"
    losses = [
        [json.loads(line)["train/loss"] for line in (out / "metrics.jsonl").open()]
        for out in (killed.out, quiet.out)
    ]
    assert len(losses[0]) == 30
    assert losses[0] == losses[1]
