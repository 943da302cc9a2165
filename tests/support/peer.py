"""A peer for the Dataflow protocol: takes jobs over HTTP and runs what was staged for them.

A job runs in a process of its own, in an environment that has only what its image has (a directory
of packages, by the image's name) and what was staged for it; its pipeline is executed by Beam's
FnApiRunner (worker.py). States, messages and counters are reported as the service does: a listing
has summaries, in pages; of two jobs with one name the second is refused.

A job is metered as if it ran on a machine of one vCPU that is never idle: its time is the CPU time
of the process, and it has so much memory and disk for it. What it shuffles is written and read.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api
from flask import Flask, request
from werkzeug.serving import make_server

from mswitch.pipelines import storage

DEFAULT_IMAGE = "beam"
WORKER = Path(__file__).with_name("worker.py")
#: A request for a job's state is answered when the job ends, or after this time.
PATIENCE_SECS = 20.0
TIME = "2026-01-01T00:00:00Z"
#: `ListJobsRequest.Filter.ACTIVE`, `JobView.JOB_VIEW_DESCRIPTION` and `JOB_STATE_CANCELLED`.
ACTIVE, DESCRIPTION, CANCELLED = "3", "3", 5
JOBS_PER_PAGE = 2
#: Memory and disk of a machine of one vCPU.
MEMORY_MB, DISK_GB = 4000, 6.25


class FailedJobError(Exception):
    """A job cannot run, or did not succeed."""


@dataclasses.dataclass
class Job:
    """A job as it was received, and what became of it."""

    spec: dict[str, Any]
    request_bytes: int
    directory: Path
    state: str = "JOB_STATE_RUNNING"
    error: str = ""
    process: subprocess.Popen[str] | None = None
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    cpu_secs: float = 0.0
    further_secs: float = 0.0
    finished: threading.Event = dataclasses.field(default_factory=threading.Event)

    def summary(self) -> dict[str, Any]:
        """What `JOB_VIEW_SUMMARY` has."""
        return {"id": self.spec["id"], "name": self.spec["name"], "currentState": self.state}

    def meters(self) -> dict[str, float]:
        """What the service says a job has used so far."""
        if "cpu_secs" in self.result:
            self.cpu_secs = self.result["cpu_secs"]
        elif self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.cpu_secs = sum(psutil.Process(self.process.pid).cpu_times()[:2])
        secs = self.cpu_secs + self.further_secs
        return {
            "TotalVcpuTime": secs,
            "TotalMemoryUsage": secs * MEMORY_MB,
            "TotalPdUsage": secs * DISK_GB,
            "TotalShuffleDataProcessed": 2 * self.result.get("shuffled_bytes", 0) / 1e9,
        }

    def cancel(self) -> None:
        self.meters()
        self.state = "JOB_STATE_CANCELLED"
        if self.process is not None:
            self.process.kill()
        self.finished.set()

    @property
    def options(self) -> dict[str, Any]:
        return self.spec["environment"]["sdkPipelineOptions"]["options"]

    @property
    def pipeline(self) -> beam_api.Pipeline:
        return beam_api.Pipeline.FromString((self.directory / "pipeline.pb").read_bytes())


class Peer:
    """Runs jobs.

    Attributes:
        images: a directory of packages for each container image.
        jobs: all jobs so far.
        worker_environment: further variables for the worker of the next job that has a certain
            word in its name.
        machines: jobs with a certain word in their name have machines once the event is set.
        further_secs: the time of jobs with a certain word in their name grows by so much at each
            reading of their meters but the first.
        refuses_meters: whether meters and counters may not be read.
        unlisted: for so many listings, what is new does not show.
        answers_conflict: whether a job is refused by code 409, or by the job that has its name;
            the service does both.
    """

    def __init__(self, python: Path, uv: Path, images: Mapping[str, Path], directory: Path):
        self.python, self.uv = python, uv
        self.images = dict(images)
        self.directory = directory
        self.jobs: list[Job] = []
        self.worker_environment: dict[str, dict[str, str]] = {}
        self.machines: dict[str, threading.Event] = {}
        self.further_secs: dict[str, float] = {}
        self.refuses_meters = False
        self.unlisted = 0
        self.answers_conflict = False

    def active(self) -> list[Job]:
        """What a listing has."""
        self.unlisted -= 1
        running = [job for job in self.jobs if not job.finished.is_set()]
        return running if self.unlisted < 0 else []

    def submit(self, body: bytes) -> Job:
        directory = Path(tempfile.mkdtemp(prefix="job-", dir=self.directory))
        job = Job(json.loads(body), len(body), directory)
        job.spec["id"] = directory.name
        for other in self.jobs:
            if other.spec["name"] == job.spec["name"] and not other.finished.is_set():
                return other
        self.jobs.append(job)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return job

    def _run(self, job: Job) -> None:
        for word, event in list(self.machines.items()):
            if word in job.spec["name"]:
                event.wait()
        if job.finished.is_set():
            return
        try:
            self._execute(job)
            state = "JOB_STATE_DONE"
        except Exception as error:
            job.error = str(error)
            state = "JOB_STATE_FAILED"
        if not job.finished.is_set():
            job.state = state
            job.finished.set()

    def _execute(self, job: Job) -> None:
        staged = storage.read_bytes(job.options["pipelineUrl"])
        if hashlib.sha256(staged).hexdigest() != job.options["pipelineProtoHash"]:
            raise FailedJobError("pipeline.pb is not what the job names")
        (job.directory / "pipeline.pb").write_bytes(staged)
        (job.directory / "options.json").write_text(json.dumps(job.options))
        packages = [self._image(job), *self._install_artifacts(job)]
        environment = {
            name: os.environ[name]
            for name in ("PATH", "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS")
        }
        environment["PYTHONPATH"] = os.pathsep.join(map(str, packages))
        for name in [name for name in self.worker_environment if name in job.spec["name"]]:
            environment.update(self.worker_environment.pop(name))
        job.process = subprocess.Popen(
            [self.python, "-P", WORKER, job.directory],
            env=environment,
            cwd=job.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said = job.process.communicate()
        if code := job.process.returncode:
            raise FailedJobError(f"the worker ended with exit code {code}: {said[-4000:]}")
        job.result = json.loads((job.directory / "result.json").read_text())

    def _image(self, job: Job) -> Path:
        [pool] = job.spec["environment"]["workerPools"]
        image = pool["workerHarnessContainerImage"]
        if "/beam_python" in image:
            image = DEFAULT_IMAGE
        if image not in self.images:
            raise FailedJobError(f"the image {image} cannot be pulled: it does not exist")
        return self.images[image]

    def _install_artifacts(self, job: Job) -> Iterator[Path]:
        """Fetch what was staged; install workflow.tar.gz, as a worker's start script does."""
        folder = job.directory / "staged"
        folder.mkdir()
        [environment] = job.pipeline.components.environments.values()
        for artifact in environment.dependencies:
            payload = beam_api.ArtifactUrlPayload.FromString(artifact.type_payload)
            role = beam_api.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
            data = storage.read_bytes(payload.url)
            if hashlib.sha256(data).hexdigest() != payload.sha256:
                raise FailedJobError(f"{payload.url} is damaged")
            (folder / role.staged_name).write_bytes(data)
        if (folder / "workflow.tar.gz").exists():
            install(self.uv, folder / "workflow.tar.gz", job.directory / "packages")
            yield job.directory / "packages"


def install(uv: Path, package: Path, target: Path) -> None:
    """Build a package with this environment's setuptools; install it alone into a directory."""
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--python", sys.executable, "--target", target, package],
        check=True, capture_output=True,
    )  # fmt: skip


@contextlib.contextmanager
def serve(peer: Peer) -> Iterator[str]:
    """Serve the jobs API of Dataflow on loopback; give its address."""
    app, jobs = Flask("dataflow"), "/v1b3/projects/<project>/locations/<region>/jobs"

    def job_of(name: str) -> Job:
        [job] = [job for job in peer.jobs if job.spec["id"] == name]
        return job

    @app.post(jobs)
    def submit(**_: str):
        job = peer.submit(request.data)
        is_other = job.spec["clientRequestId"] != request.json["clientRequestId"]
        if is_other and peer.answers_conflict:
            text = f"There is already an active job named {job.spec['name']}."
            return {"error": {"code": 409, "message": text, "status": "ALREADY_EXISTS"}}, 409
        return {**job.spec, "currentState": "JOB_STATE_PENDING"}

    @app.get(jobs)
    def find(**_: str):
        assert request.args["filter"] == ACTIVE
        start = int(request.args.get("pageToken", "0"))
        end = start + JOBS_PER_PAGE
        listed = [job.summary() for job in peer.active()]
        more = {"nextPageToken": str(end)} if end < len(listed) else {}
        return {"jobs": listed[start:end], **more}

    @app.put(f"{jobs}/<name>")
    def cancel(name: str, **_: str):
        assert request.json == {"requestedState": CANCELLED}
        job = job_of(name)
        job.cancel()
        return job.summary()

    @app.get(f"{jobs}/<name>")
    def look(name: str, **_: str):
        job = job_of(name)
        if request.args.get("view") == DESCRIPTION:
            return {**job.spec, "currentState": job.state}
        job.finished.wait(PATIENCE_SECS)
        return job.summary()

    @app.get(f"{jobs}/<name>/messages")
    def say(name: str, **_: str):
        error = job_of(name).error
        kind = f"JOB_MESSAGE_{'ERROR' if error else 'BASIC'}"
        text = error or "Worker configuration: loopback."
        message = {"id": "1", "time": TIME, "messageText": text, "messageImportance": kind}
        return {"jobMessages": [message]}

    @app.get(f"{jobs}/<name>/metrics")
    def count(name: str, **_: str):
        if peer.refuses_meters:
            text = "dataflow.metrics.get denied"
            return {"error": {"code": 403, "message": text, "status": "PERMISSION_DENIED"}}, 403
        job = job_of(name)
        counters = job.result.get("counters", [])
        own = [_metric(counter, one) for counter in counters for one in (True, False)]
        service = [_service_metric(meter, value) for meter, value in job.meters().items()]
        further = (n for word, n in peer.further_secs.items() if word in job.spec["name"])
        job.further_secs += sum(further)
        return {"metrics": [*own, *service]}

    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # By the word localhost the client knows that it is to speak REST.
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def _service_metric(name: str, value: float) -> dict[str, Any]:
    context = {"original_name": f"Service-{name}"}
    return {
        "name": {"origin": "dataflow/v1b3", "name": name, "context": context},
        "scalar": value,
        "updateTime": TIME,
    }


def _metric(counter: dict[str, Any], tentative: bool) -> dict[str, Any]:
    """Describe a counter; the service gives each twice, tentative and committed."""
    context = {"namespace": counter["namespace"], "step": counter["step"]}
    if tentative:
        context["tentative"] = "true"
    return {
        "name": {"origin": "user", "name": counter["name"], "context": context},
        "scalar": counter["value"],
        "updateTime": TIME,
    }
