"""Report jobs that run but make no progress, by an event."""

from prefect.events import emit_event
from prefect.settings import PREFECT_UI_URL

from mswitch.flows.jobs.command import make_end_command
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.record import Record
from mswitch.flows.prefect.owners import parse_flow_run_id
from mswitch.pipelines.progress import say

STALLED = "mswitch.job.stalled"
STALL_SECS = 30 * 60.0


def report_stall(record: Record, now: float) -> None:
    """Report once that a running job has written nothing, in log or output, for half an hour.

    Exempt are evaluations that watch a training, because they wait for it, and jobs that work on
    Dataflow.

    Raises:
        Unreachable: the scheduler does not answer.
    """
    alive = record.alive
    if alive is None or "--watch" in record.job.argv or make_end_command(record.job) is not None:
        return
    last = record.job.find_last_sign(alive.number, now - STALL_SECS)
    if now - last < STALL_SECS:
        return
    status = make_launcher(record.launcher).poll(record.job, alive.number)
    said = record.job.directory / "stalled"
    if status.phase != "running" or now - (status.started or now) < STALL_SECS:
        return
    if said.exists() and said.read_text() == str(last):
        return
    message = f"{record.job.out}: no progress for {(now - last) / 60:.0f} minutes"
    say("reconcile", message)
    emit_job_event(STALLED, record, message)
    said.write_text(str(last))


def emit_job_event(event: str, record: Record, message: str = "") -> None:
    """Emit an event of a job."""
    resource = {"prefect.resource.id": f"mswitch.job.{record.job.key}"}
    if run := parse_flow_run_id(record.owner):
        message += f"\n{PREFECT_UI_URL.value()}/runs/flow-run/{run}"
    emit_event(event, resource, payload={"message": message})
