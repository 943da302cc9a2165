"""What is Kubernetes' own: a control plane that is gone, pods that wait or are evicted, people."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from job_world import World, ask
from local_kubernetes import SUBMITTER

from mswitch.flows.jobs.job import Unreachable
from mswitch.flows.jobs.record import read_record
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def world(kubernetes_cluster, kubernetes, tmp_path):
    world = World(kubernetes, tmp_path / "out", hosts=2, secs=120)
    yield world
    world.clean()
    kubernetes_cluster.wait_until_idle()


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
    launcher.end(job, 1)
    launcher.end(job, 1)
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
    job, follower = world.begin()
    kubernetes_cluster.kubectl("delete", "job", job.name(1))
    world.end(follower, "cancelled")
    assert (world.out / "saved").exists()
    assert not world.lives()
    assert world.run(job).message == "cancelled in the scheduler (CANCELLED: the Job was deleted)"


def test_a_pod_that_is_evicted_saves_and_the_job_goes_on(world, kubernetes_cluster):
    _, follower = world.begin()
    [pod, _] = kubernetes_cluster.kubectl("get", "pods", "--output=name").split()
    name = pod.removeprefix("pod/")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    kubernetes_cluster.kubectl(
        "create", f"--raw={path}", "--filename=-", given=json.dumps(eviction)
    )
    world.wait_for_beat(starts=2)
    world.finish(follower)
    first, second = world.record.attempts
    assert first.outcome == "resume"
    # It is chance by which of its pods a Job is judged: the evicted one, or one that saved with it.
    assert re.search("DisruptionTarget|code 75", first.message)
    assert second.outcome == "done"


def test_a_job_that_its_queue_suspends_saves_and_goes_on(world, kubernetes_cluster):
    job, follower = world.begin()
    for suspend in ("true", "false"):
        patch = f'{{"spec": {{"suspend": {suspend}}}}}'
        kubernetes_cluster.kubectl("patch", "job", job.name(1), f"--patch={patch}")
        world.wait_for((world.out / "saved").exists)
    world.wait_for_beat(starts=2)
    world.finish(follower)
    assert len(world.pids()) == 4
    # Where the pods have saved before the Job counts as suspended, it failed, and another follows.
    outcomes = world.outcomes
    assert outcomes in (["done"], ["resume", "done"])
    assert world.record.last.codes == (0, 0)


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
    kubernetes_cluster.kubectl("create", "--filename=-", given=json.dumps(role))
    kubernetes_cluster.kubectl(
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
    world.launcher.end(job, 1, kill=True)
    world.end(follower, "paused")
    nobody = dataclasses.replace(world.launcher, service_account="nobody")
    with pytest.raises(UserError, match='serviceaccounts "nobody" not found'):
        nobody.check(job)


def test_what_the_cluster_refuses_is_said_in_a_line(world):
    world.launcher = dataclasses.replace(world.launcher, namespace="nowhere")
    for submit in (world.launcher.check, world.run):
        with pytest.raises(UserError, match=r'refuses the job: .*namespaces "nowhere" not found'):
            submit(world.job("finish"))
    claim = {str(world.out.parent): "no-claim"}
    launcher = dataclasses.replace(world.launcher, namespace="default", volumes=claim)
    with pytest.raises(UserError, match=r'persistentvolumeclaims "no-claim" not found'):
        launcher.check(world.job("finish"))
    launcher = dataclasses.replace(world.launcher, context="nothing")
    with pytest.raises(Unreachable, match='context "nothing" does not exist'):
        launcher.find(world.job("finish"))
