"""Flow runs that own jobs: find the runs that still want a job, and handle their end."""

import contextlib
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Crashed

from mswitch.flows.jobs.doors import leave
from mswitch.flows.jobs.job import Job, Launcher, Unreachable
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.record import find_records
from mswitch.flows.prefect.operators_toml import Operators, read_operators
from mswitch.flows.prefect.steps import SERVER_ERRORS
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

_OWNER = "flow run "
#: Largest number of starts of a flow run that crashes.
MAX_RUNS = 20
OWNER_TAG = "owner:"
#: State types of flow runs that continue, by themselves or after `reconcile` restarts them.
_GOING_ON = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CRASHED)


def name_owner(flow_run_id: UUID | str) -> str:
    """Return the name under which a flow run owns its jobs."""
    return f"{_OWNER}{flow_run_id}"


def parse_flow_run_id(owner: str) -> UUID | None:
    """Return the id of the flow run that `owner` names; None if `owner` is a person."""
    return UUID(owner.removeprefix(_OWNER)) if owner.startswith(_OWNER) else None


def describe_starter() -> str:
    """Return who started this flow run, so far as a Prefect server without accounts knows."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None:
        return ""
    of = [tag.removeprefix(OWNER_TAG) for tag in flow_run.tags if tag.startswith(OWNER_TAG)]
    name = str(this_flow_run.flow_name)
    with contextlib.suppress(*SERVER_ERRORS):
        name = this_deployment.name or name
    name = " of ".join([name, *of])
    if flow_run.auto_scheduled:
        return f"{name}, by its schedule"
    if flow_run.created_by and flow_run.created_by.type == "AUTOMATION":
        return f"{name}, by the automation {flow_run.created_by.display_value}"
    if flow_run.parent_task_run_id:
        return f"{name}, by another flow run"
    return f"{name}, by hand"


def read_flow_run(owner: str) -> FlowRun | None:
    """Return the flow run that `owner` names; None if the run is gone, or `owner` is a person."""
    flow_run_id = parse_flow_run_id(owner)
    if flow_run_id is None:
        return None
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return None


def wants_jobs(flow_run: FlowRun | None) -> bool:
    """Return whether a flow run needs its jobs: it is scheduled, pending, running or crashed."""
    state = flow_run.state if flow_run is not None else None
    return state is not None and state.type in _GOING_ON


def still_wants(owner: str) -> bool:
    """Return whether a flow run wants its jobs; True if the server does not answer."""
    with contextlib.suppress(*SERVER_ERRORS):
        return wants_jobs(read_flow_run(owner))
    return True


def withdraw(job: Job, launcher: Launcher, owner: str, since: int | None = None) -> None:
    """Cancel a job of a flow run, unless other owners want it (see `leave`); only log a failure."""
    try:
        leave(job, launcher, "cancel", owner, still_wants, since)
    except (Unreachable, UserError) as error:  # `reconcile` repeats the request
        say(job.argv[0], f"{job.out} is not stopped yet: {error}")


def withdraw_jobs(operators: Operators, flow_run_id: UUID | str) -> None:
    """Cancel the jobs that a flow run requested, except those that a person continued."""
    owner = name_owner(flow_run_id)
    for record in find_records(operators.storage):
        goes_on = record.last is None or record.last.outcome in (None, "resume")
        if owner in record.wanted_by and parse_flow_run_id(record.owner) and goes_on:
            withdraw(record.job, make_launcher(record.launcher), owner, record.wants)


def cancel_hook(flow: Any, flow_run: Any, state: Any) -> None:
    """Cancel the jobs of a cancelled flow run. Prefect prescribes the arguments' names."""
    withdraw_jobs(read_operators(), flow_run.id)


def crash_hook(flow: Any, flow_run: Any, state: Any) -> None:
    """Explain a crash in the flow run's state."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.id)
        if run.state is None or not run.state.is_crashed():
            return
        after = f"it starts again within two minutes, time {run.run_count + 1} of {MAX_RUNS}"
        if run.run_count >= MAX_RUNS:
            after = "it does not start again by itself: repair the cause, then press Retry"
        message = f"The process of this flow run ended. Its jobs keep running; {after}."
        crashed = Crashed(message=f"{message} Prefect: {state.message}")
        # The flow run is already Crashed. Without `force`, Prefect would keep the old message.
        client.set_flow_run_state(run.id, crashed, force=True)


HOOKS: dict[str, Any] = {"on_cancellation": [cancel_hook], "on_crashed": [crash_hook]}
