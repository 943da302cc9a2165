"""What the launcher makes of a job, and of what Kubernetes' API says of it."""

import dataclasses
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.kubernetes import Kubernetes
from mswitch.flows.jobs.kubernetes_status import read_status
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import classify
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.pipelines.errors import UserError

TPU = Kubernetes(
    context="gke_project_zone_cluster",
    image="europe-docker.pkg.dev/project/images/mswitch:1",
    volumes={"/srv/mswitch": "mswitch-runs", "/data": "/mnt/disks/data"},
    namespace="nlp",
    service_account="trainer",
    queue="tpus",
    priority_class="high",
    accelerator="tpu-v5-lite-podslice",
    topology="2x4",
    chips=4,
    reservation="ours",
    limits={"memory": "64Gi"},
)
JOB = Job(
    ("train", "--preset=mt5-base", "--out=/srv/mswitch/a", "--distributed"),
    Path("/srv/mswitch/a"),
    hosts=2,
    cwd=Path("/srv/mswitch"),
)
NAME = JOB.name(3)


def test_the_manifest_of_a_training_on_a_tpu_slice():
    golden = Path(__file__).with_name("kubernetes_job.json")
    made = TPU.manifest(JOB, 3)
    assert made == json.loads(golden.read_text())


def test_without_tpus_processes_are_given_where_they_meet():
    plain = Kubernetes("here", "image", {"/srv": "runs"})
    spec = plain.manifest(JOB, 3)["spec"]["template"]["spec"]
    command = spec["containers"][0]["command"]
    assert command[-4:] == [
        "--distributed",
        f"--coordinator-address={NAME}-0.mswitch:8476",
        "--num-processes=2",
        "--process-id=$(JOB_COMPLETION_INDEX)",
    ]
    assert spec["subdomain"] == "mswitch"
    assert "nodeSelector" not in spec
    assert "serviceAccountName" not in spec


def test_of_what_a_user_gives_kubernetes_expands_nothing():
    job = Job(("train", "--out=/srv/a", "$(JOB_COMPLETION_INDEX)", "$5"), Path("/srv/a"))
    pod = Kubernetes("here", "image", {"/srv": "runs"}).manifest(job, 1)["spec"]["template"]
    command = pod["spec"]["containers"][0]["command"]
    assert command[-2:] == ["$$(JOB_COMPLETION_INDEX)", "$$5"]


def test_the_example_of_the_documentation_shows_every_field(tmp_path):
    page = Path(__file__).parents[3] / "docs/how-to/kubernetes.md"
    example = re.findall(r"```toml\n(.*?)```", page.read_text(), re.S)[0]
    (tmp_path / "operators.toml").write_text(example)
    launcher = read_operators(tmp_path / "operators.toml").find_launcher("v5e")
    shown = tomllib.loads(example)["launchers"]["v5e"]
    assert shown == launcher.profile


def test_a_profile_makes_the_same_launcher_again():
    assert make_launcher(json.loads(json.dumps(TPU.profile))) == TPU


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"volumes": {"runs": "claim"}}, UserError, "volumes: 'runs' is not a mount path"),
        ({"accelerator": "tpu-v5"}, UserError, "accelerator, topology and chips: give all"),
        ({"chips": -1}, ValidationError, "chips"),
        ({"topology": "2 x 4"}, ValidationError, "topology"),
        ({"nodes": 3}, ValidationError, "nodes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Kubernetes(**{"context": "a", "image": "b", "volumes": {"/srv": "runs"}, **settings})


def test_a_job_that_cannot_run_is_refused_before_the_cluster_is_asked():
    for ask in (TPU.check, lambda job: TPU.submit(job, 1)):
        with pytest.raises(UserError, match=r"a slice 2x4 has 8 chips: .* give --hosts 2"):
            ask(dataclasses.replace(JOB, hosts=4))
        with pytest.raises(UserError, match=r"no volume of the launcher has /home/a: .*/srv/mswi"):
            ask(dataclasses.replace(JOB, out=Path("/home/a")))


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Lets a program stand in for kubectl that says something on stderr and fails."""

    def says(text: str) -> None:
        script = tmp_path / "kubectl"
        script.write_text(
            f"#!{sys.executable}\nimport sys\n"
            "if 'get' in sys.argv: sys.exit(print('{\"items\": []}'))\n"
            f"sys.exit({text!r})\n"
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return says


def test_what_kubectl_says_is_a_refusal_or_no_answer(kubectl):
    kubectl('Error from server (AlreadyExists): jobs.batch "x" already exists')
    TPU.submit(JOB, 1)
    kubectl("Error from server (Forbidden): jobs.batch is forbidden: no")
    for ask in (lambda: TPU.submit(JOB, 1), lambda: TPU.check(JOB)):
        with pytest.raises(UserError, match=r"refuses the job: Error from server \(Forbidden\)"):
            ask()
    kubectl("Error in configuration: context was not found for specified context: gke_project")
    with pytest.raises(UserError, match=r"refuses the job: .* for specified context: gke_project"):
        TPU.check(JOB)
    kubectl('error: context "gke_project" does not exist')
    with pytest.raises(
        UserError, match=r"refuses the job: error: context \"gke_project\" does not"
    ):
        TPU.check(JOB)
    for words in (
        "The connection to the server 10.0.0.1 was refused - did you specify the right host?",
        "Unable to connect to the server: net/http: TLS handshake timeout",
        "Error from server (InternalError): etcdserver: leader changed",
        "error: You must be logged in to the server (Unauthorized)",
    ):
        kubectl(words)
        with pytest.raises(Unreachable, match=r"connection|connect|etcdserver|logged in"):
            TPU.submit(JOB, 1)
    kubectl("")
    with pytest.raises(Unreachable, match="kubectl ended with code 1"):
        TPU.submit(JOB, 1)


def test_without_kubectl_the_launcher_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"kubectl is not installed: give the command on a machine"):
        TPU.find(JOB)


def pod(index, phase="Running", state=None, node="a", **status):
    states = [{"state": state}] if state else []
    return {
        "metadata": {
            "creationTimestamp": "2026-11-27T10:00:00Z",
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "containerStatuses": states, **status},
    }


def job(**conditions):
    found = [{"type": kind, "status": "True", **said} for kind, said in conditions.items()]
    return {"status": {"conditions": found}}


RUNS = {"running": {"startedAt": "2026-11-27T10:00:05Z"}}
FAILED = job(
    FailureTarget={"reason": "PodFailurePolicy", "message": "code 75"},
    Failed={"reason": "PodFailurePolicy", "message": "code 75"},
)


def ended(index, code, reason="Error", **status):
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return pod(index, "Failed" if code else "Succeeded", state, **status)


NO_NODE = "0/1 nodes are available"
FULL = {"type": "PodScheduled", "status": "False", "message": NO_NODE}
PULLS = {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}
SUSPENDED = job(Suspended={"reason": "JobSuspended", "message": "Job suspended"})
SAVING = job(FailureTarget={"reason": "PodFailurePolicy"})


def test_a_job_that_runs_says_where_and_since_when():
    pods = [pod(0, state=RUNS), pod(1, state=RUNS, node="b")]
    status = read_status(job(), pods, {}, stopped=False)
    assert (status.phase, status.where, status.started) == ("running", "on a, b", 1795773605.0)


@pytest.mark.parametrize(
    ("its", "pods", "stopped", "phase", "reason"),
    [
        (job(), [pod(0, state=RUNS), pod(1, "Pending", node=None)], False, "pending", None),
        (job(), [], False, "pending", None),
        (job(), [pod(0, "Pending", node=None, conditions=[FULL])], False, "pending", NO_NODE),
        (job(), [pod(0, "Pending", PULLS)], False, "pending", "ImagePullBackOff: no image"),
        (SUSPENDED, [], False, "pending", "JobSuspended: Job suspended"),
        (SAVING, [pod(0, state=RUNS), ended(1, 75)], False, "running", None),
        # It lives as long as a pod does, though it is deleted.
        (None, [pod(0, state=RUNS)], True, "running", None),
        (FAILED, [pod(0, state=RUNS)], False, "running", None),
    ],
)
def test_a_job_runs_when_all_of_its_pods_do_and_one_that_waits_says_why(
    its, pods, stopped, phase, reason
):
    status = read_status(its, pods, {}, stopped=stopped)
    assert status.phase == phase
    assert reason is None or status.reason == reason


DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}


@pytest.mark.parametrize(
    ("its", "pods", "left", "stopped", "outcome"),
    [
        (job(Complete={}), [ended(0, 0, "Completed"), ended(1, 0, "Completed")], {}, False, "done"),
        (FAILED, [ended(0, 75)], {1: 75}, False, "resume"),
        (FAILED, [ended(0, 2), ended(1, 75)], {}, False, "refused"),
        (FAILED, [ended(0, 1)], {1: 75}, False, "failed"),
        (FAILED, [ended(0, 137)], {1: 75}, False, "resume"),
        (FAILED, [ended(0, 137, "OOMKilled")], {1: 75}, False, "failed"),
        (FAILED, [ended(0, 1, conditions=[DISRUPTED])], {}, False, "resume"),
        (FAILED, [ended(0, 1, reason="Evicted")], {}, False, "resume"),
        (
            job(Failed={"reason": "PodFailurePolicy", "message": "has condition DisruptionTarget"}),
            [],
            {0: 1},
            False,
            "resume",
        ),
        (FAILED, [], {}, False, "resume"),
        (None, [], {0: 75, 1: 75}, True, "resume"),
        (None, [], {0: 75, 1: 75}, False, "cancelled"),
        (None, [], {}, False, "cancelled"),
        (None, [], {0: 2}, False, "refused"),
    ],
)
def test_what_an_end_amounts_to(its, pods, left, stopped, outcome):
    files = {index: {"code": code, "ended": 7.0} for index, code in left.items()}
    status = read_status(its, pods, files, stopped=stopped)
    assert status.phase == "ended"
    assert classify(status.codes, status.reason, None)[0] == outcome


def test_codes_that_processes_left_count_before_those_of_pods_and_are_in_order():
    left = {0: {"code": 75, "ended": 7.0}}
    status = read_status(FAILED, [ended(1, 137), ended(0, 143)], left, stopped=False)
    assert status.codes == (75, 137)
    assert status.ended == 7.0


def test_lines_of_all_processes_come_once_whatever_was_cut_off(tmp_path):
    job = Job(("train", f"--out={tmp_path}/out"), tmp_path / "out", hosts=2)
    job.directory.mkdir()
    first, second = (job.file(1, f".task{i}.log") for i in range(2))
    first.write_text("a\nb\nhal")
    assert TPU.logs(job, 1, 0) == (["a", "b"], 4)
    assert TPU.logs(job, 1, 4) == ([], 4)
    with job.file(1, ".log").open("a") as log:
        log.write("c\n")  # somebody was killed before it wrote down that this is there
    first.write_text("a\nb\nhalf\n")
    second.write_text("é\n")
    lines, end = TPU.logs(job, 1, 4)
    assert lines == ["half", "é"]
    assert TPU.logs(job, 1, end) == ([], end)
    first.write_text("a\nb\nhalf\nlast, without an end")
    assert TPU.logs(job, 1, end) == ([], end)
    job.file(1, ".task0").touch()
    assert TPU.logs(job, 1, end)[0] == ["last, without an end"]
    whole = ["a", "b", "half", "é", "last, without an end"]
    for hosts in (2, 4, 1):  # submitted again with more or fewer
        assert TPU.logs(dataclasses.replace(job, hosts=hosts), 1, 0)[0] == whole


def test_the_log_of_an_attempt_on_another_launcher_is_only_read(tmp_path):
    job = Job(("train", f"--out={tmp_path}/out"), tmp_path / "out", hosts=2)
    job.directory.mkdir()
    job.file(1, ".log").write_text("a\nlast")
    for _ in range(2):
        assert TPU.logs(job, 1, 0) == (["a", "last"], 6)
