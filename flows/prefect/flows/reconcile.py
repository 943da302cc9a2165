"""The flow that makes Prefect's server, the jobs' records and the launchers agree.

It acts on the present state, whatever caused it, and may run at any time. A job whose flow run is
gone keeps running: the job is reported, and `mswitch jobs` has commands for it.
"""

import contextlib
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed

from mswitch.flows.jobs.doors import StopFollowing, follow, follow_once, leave
from mswitch.flows.jobs.job import Unreachable
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.record import Record, find_records, need_record, read_follower
from mswitch.flows.prefect.follow import lift_time_limit
from mswitch.flows.prefect.operators_toml import TAGS, read_operators
from mswitch.flows.prefect.owners import (
    MAX_RUNS,
    name_owner,
    parse_flow_run_id,
    read_flow_run,
    still_wants,
    wants_jobs,
)
from mswitch.flows.prefect.stalled_jobs import emit_job_event, report_stall
from mswitch.flows.prefect.steps import step
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

#: Seconds in which a worker must start the process of a flow run.
START_SECS = 180


@flow(name="reconcile", flow_run_name="reconcile")
def reconcile() -> None:
    """Restart crashed flow runs, stop jobs of cancelled or suspended runs, report orphaned jobs."""
    look(read_operators().storage)


@step("look at jobs")
def look(storage: Path) -> None:
    """Stop jobs whose flow runs were cancelled or paused, then restart flow runs that died."""
    with get_client(sync_client=True) as client:
        for flow_run in _read_flow_runs(StateType.PAUSED):
            lift_time_limit(client, flow_run.id, flow_run.state)
    for record in find_records(storage):
        try:
            report_stall(record, time.time())
            if parse_flow_run_id(record.owner) is not None:
                settle(record, read_flow_run(record.owner))
        except (Unreachable, UserError) as error:
            say("reconcile", f"{record.job.out}: {error}")
    if lost := find_lost_flow_runs():
        records = find_records(storage)  # read again: a person may have paused a job
        for flow_run in lost:
            revive(flow_run, records)


def settle(record: Record, flow_run: FlowRun | None) -> None:
    """Stop the job of a paused or cancelled flow run; end a cancelled flow run after its job.

    Raises:
        Unreachable: the scheduler does not answer.
    """
    kind = flow_run.state.type if flow_run is not None and flow_run.state is not None else None
    cancelled = kind in (StateType.CANCELLING, StateType.CANCELLED)
    how = "cancel" if cancelled else "pause" if kind == StateType.PAUSED else None
    launcher = make_launcher(record.launcher)
    left = (record.job, launcher, how, record.owner, still_wants, record.wants)
    if kind == StateType.CRASHED:
        return  # `revive` handles crashed flow runs
    if record.alive is None:
        if flow_run is not None and kind == StateType.CANCELLING:
            if record.intent == "run" and read_follower(record.job.path) is None:
                leave(*left)
            end_flow_run(flow_run, need_record(record.job.path))
        return
    # If the job must pause or be cancelled and no process follows it, skip this block. The code
    # after the block tells the job again to stop.
    if record.intent == "run" or read_follower(record.job.path) is not None:
        if wants_jobs(flow_run) or not leave(*left):
            return
        if how is None:
            say("reconcile", f"{record.job.out}: the job lives, but no flow run follows it")
            emit_job_event("mswitch.job.orphaned", record)
            return
    with contextlib.suppress(StopFollowing):  # the job still lives: the next round follows it again
        follow(record.job, launcher, on_poll=follow_once)
        say("reconcile", f"{record.job.out}: the job has ended, as its flow run was told to")
        emit_job_event("mswitch.job.stopped", record)


def find_lost_flow_runs() -> list[FlowRun]:
    """Return the flow runs that crashed, or whose worker died before it started their process."""
    late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=START_SECS)
    return [
        run
        for run in _read_flow_runs(StateType.CRASHED, StateType.PENDING)
        if run.state is not None and (run.state.is_crashed() or run.state.timestamp < late)
    ]


def _read_flow_runs(*kinds: StateType) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[*kinds]))
    wanted = FlowRunFilter(tags=FlowRunFilterTags(any_=[*TAGS]), state=state)
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=wanted)


def revive(flow_run: FlowRun, records: Sequence[Record]) -> None:
    """Restart a flow run if no process follows its jobs and no person ended one of its jobs.

    Jobs that it paused itself do not count: after a Resume, some of them may still be paused.
    """
    owner = name_owner(flow_run.id)
    mine = [record for record in records if owner in record.wanted_by]
    ended = any(
        record.intent != "run" and parse_flow_run_id(record.owner) is None for record in mine
    )
    cancelled = bool(mine) and all(
        (record.intent, record.owner) == ("cancel", owner) for record in mine
    )
    if not (ended or cancelled or any(read_follower(record.job.path) for record in mine)):
        start_again(flow_run)


def start_again(flow_run: FlowRun) -> None:
    """Let a worker restart a flow run, unless it crashed too often."""
    with get_client(sync_client=True) as client:
        if flow_run.run_count >= MAX_RUNS:
            message = f"It crashed {flow_run.run_count} times: repair the cause, then press Retry."
            say("reconcile", f"{flow_run.name}: {message}")
            client.set_flow_run_state(flow_run.id, Failed(message=message), force=True)
            return
        say("reconcile", f"{flow_run.name} crashed: restarting it")
        # The state frees the run's places in the work pool and the deployment's concurrency limit.
        client.set_flow_run_state(flow_run.id, Crashed(message="No process was started."))
        client.set_flow_run_state(flow_run.id, AwaitingRetry(), force=True)


def end_flow_run(flow_run: FlowRun, record: Record) -> None:
    """Set a flow run's state to Cancelled, if the flow run has no process that would do so."""
    if record.intent == "cancel" and read_follower(record.job.path) is None:
        launcher = make_launcher(record.launcher)
        # This also cancels the job's work on Dataflow.
        if not leave(record.job, launcher, "cancel", record.owner, since=record.wants):
            return
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(), force=True)
