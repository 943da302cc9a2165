"""Finds or cancels jobs of Dataflow, which outlive the command that submits them.

Dataflow runs only one job of a name at a time. A job's name has a hash of the directory that it
writes to. Its label has this hash and a hash of the build, so that only its own build waits for it.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import say

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
    from apache_beam.runners.runner import PipelineResult

_LABEL = "mswitch-build"


def job_name(title: str, directory: str) -> str:
    """Return the name of a job that writes to `directory`."""
    return f"{title}-{_hash(directory)}"


def make_job_label(title: str, directory: str, identity: str) -> str:
    """Return the label of a job, for Beam's option --labels.

    Args:
        title: name of the job within its build.
        directory: directory that the job writes to.
        identity: identity of the build.
    """
    return f"{_LABEL}={_hash(directory)}-{_hash(f'{title} {identity}')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.rstrip("/").encode()).hexdigest()[:8]


def run_job(submit: Callable[[], Any], options: "PipelineOptions") -> "PipelineResult":
    """Submit a job, or find the one that an earlier start of the build submitted; wait for it.

    Args:
        submit: submits the job.
        options: the job's name, label, project and region.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from apache_beam.runners.runner import PipelineState
    from google.api_core.exceptions import Conflict

    service = _Service(options)
    result = service.find()
    if result is None:
        try:
            result = submit()
        except (Conflict, DataflowJobAlreadyExistsError):
            # Another command submitted first; its job may have ended meanwhile.
            result = service.find() or submit()
    link = service.link(result.job_id())
    say("dataflow", f"job {service.name} keeps running if this command ends: {link}")
    if service.cloud.flexrs_goal:
        say("dataflow", "with --flexrs_goal each job may wait up to six hours before it starts")
    try:
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        if error.result.state == PipelineState.CANCELLED:
            end = "was cancelled"
        else:
            end = f"failed ({_find_reason(str(error))})"
        raise UserError(
            f"job {service.name} {end}; the same command starts it again: {link}"
        ) from error
    return result


def _find_reason(text: str) -> str:
    """Return the line of Dataflow's error that names the cause: the last, as in tracebacks."""
    readable = as_user_error(RuntimeError(text))
    return str(readable) if readable else text.strip().splitlines()[-1].strip()


def cancel_jobs(directory: str, options: "PipelineOptions") -> list[str]:
    """Cancel the jobs that write to a directory, without waiting for their end; return their names.

    Args:
        directory: the URL of a corpus or of examples.
        options: options with the project and region of the build.
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


class _Service:
    """The jobs of a project in a region."""

    def __init__(self, options: "PipelineOptions"):
        from apache_beam.options.pipeline_options import GoogleCloudOptions
        from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

        self.options = options
        self.cloud = options.view_as(GoogleCloudOptions)
        self.client = DataflowApplicationClient(options)
        self.name: str = self.cloud.job_name
        self._place = {"project_id": self.cloud.project, "location": self.cloud.region}

    def link(self, job_id: str) -> str:
        """Return the address at which a person can see a job."""
        place = f"{self.cloud.region}/{job_id}?project={self.cloud.project}"
        return f"https://console.cloud.google.com/dataflow/jobs/{place}"

    def active(self) -> Iterator[Any]:
        """Return the jobs that have not ended; they lack labels."""
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

    def find(self) -> "DataflowPipelineResult | None":
        """Return the running job of this name, or None."""
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
