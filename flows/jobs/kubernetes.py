"""Run jobs in Kubernetes, such as on GKE's TPUs: an attempt is an Indexed Job, a process is a pod.

Beside the output each pod writes its log and exit code (`mswitch.flows.jobs.pod_command`), because
Kubernetes removes a pod that was told to stop once it ends. Kubernetes replaces no pod: all
processes of a training start again together, in the next attempt, a new Job. A Job is stopped by
deleting it, so its pods get SIGTERM; `suspend` is not used, because Kueue sets it.
"""

import dataclasses
import fcntl
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from annotated_types import Ge

from mswitch.flows.jobs.job import (
    READ_BYTES,
    Job,
    Status,
    Unreachable,
    reaching,
    read_log,
    split_lines,
)
from mswitch.flows.jobs.kubernetes_status import JOB_NAME, Json, read_status
from mswitch.flows.jobs.pod_command import TASK
from mswitch.flows.jobs.programs import call
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import write_atomically
from mswitch.pipelines.storage import is_remote

KEY = "mswitch-key"
#: Name and label of a namespace's headless service, by which pods find each other.
SERVICE = "mswitch"
#: Port on which process 0 listens for the other processes.
PORT = 8476
STOP = ".stop"
#: Seconds for which an ended Job stays in the cluster.
_KEEP_SECS = 7 * 24 * 3600
#: Messages of kubectl if the cluster will never accept a Job, or if its context is unknown.
_REFUSED = re.compile(
    r"server \((Forbidden|Invalid|BadRequest|NotFound)\)|ValidationError\(|"
    r"context was not found|context .* does not exist"
)


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Kubernetes:
    """Launcher that runs jobs with kubectl; see `mswitch.flows.jobs.job.Launcher`.

    Attributes:
        context: kubectl's name of the cluster, from `kubectl config get-contexts`; empty in a pod
            of the cluster itself.
        image: the container image, with mswitch and its extras train and flows.
        volumes: for each mount path, the name of a PersistentVolumeClaim, or a directory of the
            nodes, which starts with `/`. Outputs that are not in a bucket must be on one of them,
            at the same path as on the machine that submits.
        namespace: the Jobs' namespace.
        service_account: the pods' account; by default the namespace's default.
        queue: Kueue's LocalQueue.
        priority_class: the pods' priority class.
        accelerator: GKE's name of the TPU, such as `tpu-v5-lite-podslice`.
        topology: the TPU slice's topology, such as `2x4`.
        chips: TPU chips of each host.
        reservation: the Google Cloud reservation whose nodes are used.
        node_selector: further labels that a node must have.
        limits: further resources of each pod, such as `{"nvidia.com/gpu" = 8, memory = "64Gi"}`.
        python: the Python interpreter in the image.
    """

    poll_secs = 10.0
    context: str
    image: str
    volumes: dict[str, str] = dataclasses.field(default_factory=dict)
    namespace: str = "default"
    service_account: str = ""
    queue: str = ""
    priority_class: str = ""
    accelerator: str = ""
    topology: Annotated[str, pydantic.Field(pattern=r"^(\d+(x\d+)*)?$")] = ""
    chips: Annotated[int, Ge(0)] = 0
    reservation: str = ""
    node_selector: dict[str, str] = dataclasses.field(default_factory=dict)
    limits: dict[str, int | str] = dataclasses.field(default_factory=dict)
    python: str = "python"

    def __post_init__(self):
        for path in self.volumes:
            if not path.startswith("/"):
                raise UserError(f"volumes: {path!r} is not a mount path: begin it with '/'")
        if len({bool(self.accelerator), bool(self.topology), bool(self.chips)}) > 1:
            raise UserError("accelerator, topology and chips: give all three, or none")

    @property
    def profile(self) -> dict[str, Any]:
        """Name and settings of the launcher."""
        return {"launcher": "kubernetes", **dataclasses.asdict(self)}

    def check(self, job: Job) -> None:
        """Check that a job fits the slice and writes to a volume or bucket; submit it in a dry run.

        Raises:
            Unreachable: the cluster does not answer.
        """
        self._check_shape(job)
        named = [f"persistentvolumeclaim/{at}" for at in self.volumes.values() if at[0] != "/"]
        named += [f"serviceaccount/{self.service_account}"] if self.service_account else []
        named += [f"localqueue.kueue.x-k8s.io/{self.queue}"] if self.queue else []
        if named:
            _accept(self._kubectl("get", *named, "--output=name"))
        self._create(job, 1, "--dry-run=server")

    def _check_shape(self, job: Job) -> None:
        chips = math.prod(map(int, self.topology.split("x"))) if self.topology else 0
        if chips != job.hosts * self.chips:
            raise UserError(
                f"a slice {self.topology} has {chips} chips: with {self.chips} on each host, give "
                f"--hosts {chips // self.chips}"
            )
        on_volume = any(Path(job.out).is_relative_to(path) for path in self.volumes)
        if not is_remote(job.out) and not on_volume:
            places = ", ".join([*self.volumes, "gs://", "s3://"])
            raise UserError(
                f"no volume of the launcher has {job.out}: choose an output below one of {places}"
            )

    def submit(self, job: Job, attempt: int) -> None:
        """Create the Job, unless the attempt is in the cluster or has run."""
        self._check_shape(job)
        if attempt in self.find(job):
            return
        fault_point("launch.before_host")
        self._create(job, attempt)

    def _create(self, job: Job, attempt: int, *options: str) -> None:
        items = [_SERVICE_MANIFEST, self.manifest(job, attempt)]
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        _accept(self._kubectl("create", "--filename=-", *options, given=given))

    def manifest(self, job: Job, attempt: int) -> Json:
        """Return the Job of an attempt, which runs one pod per host."""
        labels = {KEY: job.key, SERVICE: "job"}
        queue = {"kueue.x-k8s.io/queue-name": self.queue} if self.queue else {}
        # With `FailJob`, the first failed pod ends the Job. Then the status of the Job names the
        # matching rule, even after the pod is deleted.
        disrupted = {"type": "DisruptionTarget", "status": "True"}
        rules = [
            {"action": "FailJob", "onPodConditions": [disrupted]},
            {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
        ]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.name(attempt), "labels": labels | queue},
            "spec": {
                "completionMode": "Indexed",
                "completions": job.hosts,
                "parallelism": job.hosts,
                "backoffLimit": 0,
                "podFailurePolicy": {"rules": rules},
                "ttlSecondsAfterFinished": _KEEP_SECS,
                "template": {
                    "metadata": {"labels": labels},
                    "spec": self._describe_pod(job, attempt),
                },
            },
        }

    def _describe_pod(self, job: Job, attempt: int) -> Json:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": self.accelerator,
            "cloud.google.com/gke-tpu-topology": self.topology,
            "cloud.google.com/reservation-name": self.reservation,
            "cloud.google.com/reservation-affinity": "specific" if self.reservation else "",
        }
        limits = {"google.com/tpu": self.chips} if self.chips else {}
        names = [f"volume-{i}" for i in range(len(self.volumes))]
        container = {
            "name": "mswitch",
            "image": self.image,
            "command": self._make_command(job, attempt),
            "workingDir": str(job.cwd),
            "resources": {"limits": {**limits, **self.limits}},
            "volumeMounts": [
                {"name": name, "mountPath": path}
                for name, path in zip(names, self.volumes, strict=True)
            ],
        }
        pod = {
            "subdomain": SERVICE,
            "restartPolicy": "Never",
            "serviceAccountName": self.service_account,
            "priorityClassName": self.priority_class,
            "terminationGracePeriodSeconds": math.ceil(job.grace_secs),
            "nodeSelector": {name: v for name, v in selector.items() if v} | self.node_selector,
            "containers": [container],
            "volumes": [
                {"name": name, "hostPath": {"path": source}}
                if source.startswith("/")
                else {"name": name, "persistentVolumeClaim": {"claimName": source}}
                for name, source in zip(names, self.volumes.values(), strict=True)
            ],
        }
        return {name: value for name, value in pod.items() if value}

    def _make_command(self, job: Job, attempt: int) -> list[str]:
        program = [self.python if word == sys.executable else word for word in job.program]
        words = [self.python, "-P", "-m", "mswitch.flows.jobs.pod_command", job.left(attempt, "")]
        # Kubernetes would expand `$` in a user's text.
        escaped = [word.replace("$", "$$") for word in (*words, *program, *job.argv)]
        # On TPUs, JAX reads coordinator and process ids from GKE's environment variables.
        if "--distributed" not in job.argv or self.topology:
            return escaped
        return [
            *escaped,
            f"--coordinator-address={job.name(attempt)}-0.{SERVICE}:{PORT}",
            f"--num-processes={job.hosts}",
            "--process-id=$(JOB_COMPLETION_INDEX)",
        ]

    def find(self, job: Job) -> Sequence[int]:
        """List the attempts that are in the cluster or have written a file."""
        names = [item["metadata"]["name"] for item in self._get(job) if item["kind"] == "Job"]
        names += [name.partition(".")[0] for name in _list_files(job) if TASK in name]
        return sorted({n for name in names if (n := job.parse_attempt(name)) is not None})

    def poll(self, job: Job, attempt: int) -> Status:
        """Return a status from Kubernetes' API; exit codes in the pods' files take precedence."""
        name, items = job.name(attempt), self._get(job)
        own_job = next(
            (x for x in items if x["kind"] == "Job" and x["metadata"]["name"] == name), None
        )
        pods = [item for item in items if item["metadata"]["labels"].get(JOB_NAME) == name]
        codes, there = enumerate(self._list_code_files(job, attempt)), _list_files(job)
        with reaching(str(job.out)):
            left = {
                i: storage.read_json(code) for i, code in codes if storage.get_name(code) in there
            }
        status = read_status(own_job, pods, left, stopped=job.file(attempt, STOP).exists())
        if status.phase == "pending" and not status.reason:
            status = dataclasses.replace(status, reason=self._read_warning(name))
        where = f"Job {self.namespace}/{name} {status.where}".strip()
        return dataclasses.replace(status, where=where)

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        """Append the new lines of all processes' logs to one log, and read from this log.

        The `.read` file then records how much of each it has. Lines beyond that record are cut off
        and appended again. Without such files, the log is another launcher's, and is only read.
        """
        log, state = job.file(attempt, ".log"), job.file(attempt, ".read")
        codes = self._list_code_files(job, attempt)
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # List files before reading logs: an exit code is written after its log.
            there = _list_files(job)
            own = any(f"{storage.get_name(code)}.log" in there for code in codes)
            if not own and not state.exists():
                return read_log(log, start, over=True)
            read, size = json.loads(state.read_bytes()) if state.exists() else ([0] * len(codes), 0)
            file.truncate(size)
            read += [0] * (len(codes) - len(read))  # an attempt may have had fewer hosts
            ends = []
            for code, start_of_new in zip(codes, read, strict=False):
                over = storage.get_name(code) in there
                size_there = there.get(f"{storage.get_name(code)}.log", 0)
                lines, end = _read_log(f"{code}.log", start_of_new, size_there, over=over)
                file.write("".join(f"{line}\n" for line in lines).encode())
                ends.append(end)
            file.flush()
            if ends != read:
                write_atomically(state, json.dumps([ends, log.stat().st_size]))
            return read_log(log, start)

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        """Delete the Job. It exists until its pods end; with `kill`, the pods have one second."""
        job.file(attempt, STOP).touch()
        name = job.name(attempt)
        words = ("--wait=false", "--ignore-not-found")
        self._ask("delete", "jobs.batch", name, "--cascade=foreground", *words)
        if kill:
            self._ask("delete", "pods", f"--selector={JOB_NAME}={name}", "--now", *words)

    def _list_code_files(self, job: Job, attempt: int) -> list[str]:
        return [job.left(attempt, f"{TASK}{index}") for index in range(job.hosts)]

    def _get(self, job: Job) -> list[Json]:
        """Return the Jobs and pods of all attempts."""
        selector = f"--selector={KEY}={job.key}"
        return json.loads(self._ask("get", "jobs.batch,pods", selector, "--output=json"))["items"]

    def _read_warning(self, name: str) -> str:
        chosen = f"--field-selector=involvedObject.name={name},type=Warning"
        events = json.loads(self._ask("get", "events", chosen, "--output=json"))["items"]
        return events[-1]["message"] if events else ""

    def _ask(self, *words: str) -> str:
        done = self._kubectl(*words)
        if done.returncode:
            raise Unreachable(_format_errors(done))
        return done.stdout

    def _kubectl(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        cluster = [f"--context={self.context}"] if self.context else []
        words = ("kubectl", *cluster, f"--namespace={self.namespace}", *words)
        return call(*words, given=given, where="where kubectl reaches the cluster")


def _list_files(job: Job) -> dict[str, int]:
    directory = job.left(1, "").rpartition("/")[0]
    with reaching(directory):
        return storage.file_sizes(directory)


def _read_log(log: str, start: int, size: int, *, over: bool) -> tuple[list[str], int]:
    """Read a log as `read_log` does; a log in a bucket only up to byte `size`."""
    if not is_remote(log):
        return read_log(Path(log), start, over=over)
    with reaching(log):
        stop = min(size, start + READ_BYTES)
        return split_lines(storage.read_range(log, start, stop), start, over=over)


def _accept(done: subprocess.CompletedProcess[str]) -> None:
    """Raise UserError or Unreachable if kubectl failed, except for objects that already exist."""
    reason = _format_errors(done)
    if done.returncode and _REFUSED.search(reason):
        raise UserError(f"Kubernetes refuses the job: {reason}")
    if done.returncode and (reason or "(AlreadyExists)" not in done.stderr):
        raise Unreachable(reason or f"kubectl ended with code {done.returncode}")


def _format_errors(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "(AlreadyExists)" not in line]
    return " ".join(dict.fromkeys(lines))


_SERVICE_MANIFEST = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": SERVICE},
    "spec": {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {SERVICE: "job"},
    },
}
