"""Finds or cancels jobs of Dataflow, which outlive the command that submits them.

Dataflow runs only one job of a name at a time. A job's name has a hash of the directory that it
writes to. Its label has this hash and a hash of the build, so that only its own build waits for it.

A build's working files note what Dataflow meters, so that a continued build knows its whole cost.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mswitch.pipelines import storage
from mswitch.pipelines.dataflow_prices import MODES, Cost, read_prices
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import in_background, say

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
    from apache_beam.runners.runner import PipelineResult

_LABEL = "mswitch-build"
#: For each metric of Dataflow: the price's name, and units of the metric per unit of the price.
_METERS = {
    "TotalVcpuTime": ("vcpu_hours", 3600),
    "TotalMemoryUsage": ("memory_gb_hours", 3600 * 1000),
    "TotalPdUsage": ("disk_gb_hours", 3600),
    "TotalSsdUsage": ("ssd_gb_hours", 3600),
    "TotalShuffleDataProcessed": ("shuffle_gb", 1),
}
#: Interval of reading the meters of a running job, if the cost of its build has a limit.
_METER_SECS = 30.0


class OverLimitError(UserError):
    """The jobs of a build have cost as much as its limit allows."""


def job_name(title: str, directory: str) -> str:
    """Return the name of a job that writes to `directory`."""
    return f"{title}-{_hash(directory)}"


def make_job_label(title: str, directory: str, identity: str) -> str:
    """Return the label of a job, for Beam's option --labels.

    `title` names the job within its build, `identity` the build; the job writes to `directory`.
    """
    return f"{_LABEL}={_hash(directory)}-{_hash(f'{title} {identity}')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.rstrip("/").encode()).hexdigest()[:8]


def run_job(
    submit: Callable[[], Any], options: "PipelineOptions", cost: Cost, meters: str
) -> "PipelineResult":
    """Submit a job, or find the job that an earlier start of the build submitted; wait for it.

    Args:
        submit: submits the job.
        options: the job's name, label, project and region.
        cost: limit of the cost of all jobs of the build.
        meters: directory for the readings of meters; "" if they are not read.

    Raises:
        OverLimitError: the build has cost its limit.
        UserError: the job failed.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from apache_beam.runners.runner import PipelineState
    from google.api_core.exceptions import Conflict

    service = _Service(options)
    meter = _Meter(service, cost, meters)
    meter.read()
    result = service.find()
    if result is None:
        try:
            result = submit()
        except (Conflict, DataflowJobAlreadyExistsError):
            # Another command submitted this job first; the job may have ended meanwhile.
            result = service.find() or submit()
    link = service.link(result.job_id())
    say("dataflow", f"job {service.name} keeps running if this command ends: {link}")
    if service.cloud.flexrs_goal:
        say("dataflow", "with --flexrs_goal each job may wait up to six hours before it starts")
    meter.read(result.job_id())
    stopped: list[OverLimitError] = []
    try:
        with meter.watch(result.job_id(), stopped):
            result.wait_until_finish()
    except DataflowRuntimeException as error:
        meter.read(result.job_id(), ended=True)
        if stopped:
            raise stopped[0] from error
        if error.result.state == PipelineState.CANCELLED:
            end = "was cancelled"
        else:
            # As in tracebacks, the last line of Dataflow's error names the cause.
            readable = as_user_error(RuntimeError(str(error)))
            end = f"failed ({readable or str(error).strip().splitlines()[-1].strip()})"
        raise UserError(
            f"job {service.name} {end}; the same command starts it again: {link}"
        ) from error
    meter.read(result.job_id(), ended=True)
    return result


def cancel_jobs(directory: str, options: "PipelineOptions") -> list[str]:
    """Cancel the jobs that write to a directory, without waiting for their end; return their names.

    `directory` is the URL of a corpus or examples; `options` have the build's project and region.
    """
    service = _Service(options)
    cancelled = []
    for job in service.active():
        if job.name not in (service.name, job_name(job.name.rpartition("-")[0], directory)):
            continue
        if service.label(job.id).startswith(f"{_hash(directory)}-"):
            service.client.modify_job_state(job.id, "JOB_STATE_CANCELLED")
            cancelled.append(job.name)
    return cancelled


class _Meter:
    """The resource use that Dataflow meters for a build's jobs, stored in a file for each job."""

    def __init__(self, service: "_Service", cost: Cost, directory: str):
        self.service, self.limit, self.directory = service, cost.max_cost_usd, directory
        self.prices = read_prices(cost.prices)
        self.mode = MODES[bool(service.cloud.flexrs_goal)]

    def watch(
        self, job_id: str, stopped: list[OverLimitError]
    ) -> contextlib.AbstractContextManager[None]:
        """Read a job's metered use during a `with` block, if the cost of the build has a limit.

        `stopped` gets the error for which the job was cancelled.
        """

        def look(ended: threading.Event) -> None:
            while not ended.wait(_METER_SECS):
                try:
                    self.read(job_id)
                except OverLimitError as error:
                    stopped.append(error)
                    return
                except Exception as error:  # A network error: the next reading may succeed.
                    say("dataflow", f"the meters of {job_id} cannot be read now: {error}")

        return contextlib.nullcontext() if self.limit is None else in_background(look)

    def read(self, job_id: str = "", *, ended: bool = False) -> None:
        """Read and store the metered resource use of a job, and of all unfinished jobs.

        Cancel the job `job_id` if it has not `ended` and the build has cost its limit.

        Raises:
            OverLimitError: the build has cost its limit, and has more to do.
        """
        from google.api_core.exceptions import GoogleAPICallError

        if not (directory := self.directory):
            return
        storage.make_directory(directory)
        names = sorted(storage.list_names(directory))
        jobs = {name: storage.read_json(storage.join(directory, name)) for name in names}
        for name in {*(name for name in names if not jobs[name]["ended"]), job_id} - {""}:
            try:
                used = self.service.read_meters(name)
            except GoogleAPICallError as error:
                reason = f"cannot read the meters of {self.service.link(name)}: {error.message}"
                if self.limit is not None:
                    fix = "ask for the role Dataflow Developer, or leave out the limit"
                    raise UserError(f"--max-cost-usd: {reason}: {fix}") from error
                say("dataflow", reason)
                return
            usd = self.prices.usd(used, self.mode)
            jobs[name] = {"used": used, "usd": usd, "ended": ended and name == job_id}
            storage.write_json(storage.join(directory, name), jobs[name], scratch=True)
        usd, limit = sum(job["usd"] for job in jobs.values()), self.limit
        if ended:
            used = [f"{amount:.3g} {name}" for name, amount in jobs[job_id]["used"].items()]
            words = ", ".join(used).replace("_", " ")
            say("dataflow", f"{self.service.name}: {words}; all jobs so far: {usd:,.2f} USD")
        elif limit is not None and usd >= limit:
            if job_id:
                self.service.client.modify_job_state(job_id, "JOB_STATE_CANCELLED")
            raise OverLimitError(
                f"saved and stopped: {usd:,.2f} USD are metered, and {limit:,.2f} is the limit: "
                "to continue, give the same command with a higher --max-cost-usd"
            )


class _Service:
    def __init__(self, options: "PipelineOptions"):
        from apache_beam.options.pipeline_options import GoogleCloudOptions
        from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

        self.options = options
        self.cloud = options.view_as(GoogleCloudOptions)
        self.client = DataflowApplicationClient(options)
        self.name: str = self.cloud.job_name
        self._place = {"project_id": self.cloud.project, "location": self.cloud.region}

    def link(self, job_id: str) -> str:
        place = f"{self.cloud.region}/{job_id}?project={self.cloud.project}"
        return f"https://console.cloud.google.com/dataflow/jobs/{place}"

    def active(self) -> Iterator[Any]:
        """List the unfinished Dataflow jobs in the project and region, without their labels."""
        from google.cloud import dataflow

        active = dataflow.ListJobsRequest.Filter.ACTIVE
        request = dataflow.ListJobsRequest(**self._place, filter=active)
        return iter(self.client._jobs_client.list_jobs(request))

    def label(self, job_id: str) -> str:
        """Return the label by which mswitch marks its jobs, or "" for another job."""
        from google.cloud import dataflow

        view = dataflow.JobView.JOB_VIEW_DESCRIPTION
        request = dataflow.GetJobRequest(**self._place, job_id=job_id, view=view)
        return self.client._jobs_client.get_job(request).labels.get(_LABEL, "")

    def read_meters(self, job_id: str) -> dict[str, float]:
        """Return a job's resource use so far, by names of unit prices such as `vcpu_hours`."""
        used: dict[str, float] = {}
        found: Any = self.client.get_job_metrics(job_id)
        for metric in found.metrics:
            if metric.name.name in _METERS and "tentative" not in metric.name.context:
                price, units = _METERS[metric.name.name]
                used[price] = float(metric.scalar) / units
        return used

    def find(self) -> "DataflowPipelineResult | None":
        from apache_beam.runners.dataflow.dataflow_metrics import DataflowMetrics
        from apache_beam.runners.dataflow.dataflow_runner import (
            DataflowPipelineResult,
            DataflowRunner,
        )

        for job in self.active():
            if job.name != self.name:
                continue
            if f"{_LABEL}={self.label(job.id)}" not in self.cloud.labels:
                raise UserError(
                    f"a job {self.name} of another build is running: wait for its end "
                    f"or cancel it: {self.link(job.id)}"
                )
            say("dataflow", f"job {self.name} of this build is already running")
            runner = DataflowRunner()
            runner.dataflow_client = self.client
            result = DataflowPipelineResult(job, runner, self.options)
            metrics = DataflowMetrics(self.client, result)
            result.metric_results = metrics  # pyright: ignore[reportAttributeAccessIssue]
            return result
        return None
