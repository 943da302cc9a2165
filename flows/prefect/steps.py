"""Steps of flows: Prefect tasks that refuse in one line, and jobs that are followed while they run.

A job outlives the flow run that follows it (`mswitch.flows.jobs`). Only three things end it
early: Cancel and Suspend of the flow run, and `mswitch jobs`.
"""

import contextlib
import contextvars
import datetime
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Task, get_client, get_run_logger, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, ObjectNotFound, Pause, PrefectException
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_flow_run
from prefect.runtime import task_run as this_task_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Failed, Suspended

from mswitch.flows.jobs.controller import ask, goes_on, run_job
from mswitch.flows.jobs.job import Job, Launcher, Unreachable
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.record import edit_record, find_records, read_record
from mswitch.flows.prefect.parameters import JobCancelledError
from mswitch.flows.prefect.profile import Operators, read_operators
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import lines_to, pass_on, say

#: What a Prefect server that cannot be reached raises. A job is followed all the same.
SERVER_ERRORS = (httpx.HTTPError, PrefectException)
#: How often a flow run looks at its own state.
STATE_SECS = 5.0
#: How often lines are passed on to the server.
LOG_SECS = 1.0
_OWNER = "flow run "
#: Tags of runs of a deployment whose owner operators.toml names.
OWNER_TAG = "owner:"
#: Types of state of flow runs that go on, by themselves or once `reconcile` starts them again.
_GOING_ON = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CRASHED)
_LEFT = "not followed any more: the flow run was ended"
_leaving: contextvars.ContextVar["_Leaving"] = contextvars.ContextVar("leaving")


class Step:
    """A task that raises what its state Failed holds, also where it is called like a function."""

    def __init__(self, made: Task[..., Any]):
        self._task = made
        self.submit = made.submit

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run it here and now."""
        result = self._task(*arguments, **named)
        return result.result() if isinstance(result, State) else result


def step(name: str, **options: Any) -> Callable[[Callable[..., Any]], Step]:
    """Make a task of a function: its lines go to Prefect, what the user got wrong is one line.

    Args:
        name: of the task runs, with fields such as `{preset}`.
        options: of Prefect's `task`.
    """

    def decorate(function: Callable[..., Any]) -> Step:
        @functools.wraps(function)
        def attempt(*arguments: Any, **named: Any) -> Any:
            log = SlowLog(get_run_logger().info)
            try:
                with lines_to(log):
                    return function(*arguments, **named)
            except Exception as error:
                refusal = error if isinstance(error, UserError) else as_user_error(error)
                if refusal is None:
                    raise
                return Failed(message=str(refusal), data=refusal)
            except (Pause, Abort):
                end_task_run()
                raise
            finally:
                log.flush()

        return Step(task(task_run_name=name, persist_result=False, **options)(attempt))

    return decorate


def end_task_run() -> None:
    """Show that this task run does not go on: Prefect leaves it Running when its flow run does."""
    with contextlib.suppress(*SERVER_ERRORS), get_client(sync_client=True) as client:
        state = Cancelled(message="The process of the flow run left it.")
        client.set_task_run_state(UUID(this_task_run.id), state, force=True)


class SlowLog:
    """Passes lines on every `LOG_SECS` at most, those that come in between together."""

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._waiting: list[str] = []
        self._last = -math.inf

    def __call__(self, lines: Sequence[str]) -> None:
        """Log the lines, now or with later ones."""
        self._waiting += lines
        if time.monotonic() - self._last >= LOG_SECS:
            self.flush()

    def flush(self) -> None:
        """Log what waits."""
        if self._waiting:
            self._log("\n".join(self._waiting))
        self._waiting, self._last = [], time.monotonic()


class _Leaving:
    """How the tasks of a flow run learn that its own thread is leaving it, and why."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.suspended = False


@contextlib.contextmanager
def jobs_followed() -> Iterator[None]:
    """Let tasks that run beside the flow's thread follow it when it is ended or suspended."""
    leaving = _Leaving()
    token = _leaving.set(leaving)
    try:
        yield
    except BaseException as error:
        leaving.suspended = isinstance(error, Pause)
        leaving.event.set()
        raise
    finally:
        _leaving.reset(token)


def follow(
    job: Job,
    launcher: Launcher,
    on_poll: Callable[[], None] = lambda: None,
    refuse: Callable[[], UserError | None] = lambda: None,
) -> None:
    """Bring a job to its end, and do to it what is done to this flow run.

    Args:
        job: the job.
        launcher: where it runs.
        on_poll: called every few seconds.
        refuse: likewise; gives the reason for which the job is to be saved and paused, if any.

    Raises:
        JobCancelledError: it was cancelled.
        Pause: this flow run is suspended, and the job saved and stopped.
        Abort: this flow run is another process's by now.
    """
    flow_run = _Follower(job, launcher, on_poll, refuse)
    while True:
        record = read_record(job.place)
        if (
            record is None
            or record.alive is None
            or (record.owner, record.intent) != (flow_run.owner, "run")
        ):
            flow_run.ask_to_run()
        # Else its client would try again for a minute, in which nobody looks at the job.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            result = run_job(
                job, launcher, on_lines=pass_on, on_poll=flow_run.poll, sleep=flow_run.sleep
            )
        if result.outcome not in ("paused", "cancelled") or not flow_run.was_ended_by_another():
            break
        say(job.argv[0], f"{job.out} keeps running: another flow run that shared it was ended")
    if result.outcome == "paused" and flow_run.refused is not None:
        raise flow_run.refused
    if result.outcome == "paused":
        raise Pause(state=flow_run.suspended())
    if result.outcome == "cancelled":
        raise JobCancelledError(f"{job.out}: {result.message}")
    if result.outcome != "done":
        raise UserError(result.message)


class _Follower:
    """Reads the state of this flow run, and asks the job for what it says."""

    def __init__(
        self,
        job: Job,
        launcher: Launcher,
        on_poll: Callable[[], None],
        refuse: Callable[[], UserError | None],
    ):
        self.job, self.launcher, self.on_poll, self._refuse = job, launcher, on_poll, refuse
        self.refused: UserError | None = None
        self.id = UUID(this_flow_run.id)
        self.owner = owner_of(self.id)
        self._next = 0.0
        self._said = self._silent_since = ""
        self._asked = self._suspending = False

    def ask_to_run(self) -> None:
        """Ask for the job once its scheduler answers, unless this flow run is ended first."""
        while not self._asked:
            try:
                ask(self.job, self.launcher, "run", self.owner, started_by())
                return
            except Unreachable as error:
                self.poll(f"not reachable ({error})")
                self.sleep(self.launcher.poll_secs)

    def poll(self, text: str) -> None:
        """Look at the flow run's state, every few seconds; say how the job is if that is new."""
        pass_on([])  # lines that waited
        if text != self._said:
            self._said = text
            say(self.job.argv[0], text)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + STATE_SECS
        if not self._asked and (refused := self._refuse()):
            self.refused = refused
            say(self.job.argv[0], str(refused))
            self._ask("pause")
        try:
            with get_client(sync_client=True) as client:
                state = self._state(client)
            self.on_poll()
        except SERVER_ERRORS as error:
            if not self._silent_since:
                self._silent_since = time.strftime("%H:%M:%S")
                reason = f"does not answer ({type(error).__name__}); the job goes on"
                say(self.job.argv[0], f"the Prefect server {reason}")
            return
        if self._silent_since:
            # What was said meanwhile may not have reached it.
            reason = f"answers again, for the first time since {self._silent_since}"
            say(self.job.argv[0], f"the Prefect server {reason}")
            self._silent_since = ""
        self._obey(state)

    def _state(self, client: SyncPrefectClient) -> State | None:
        return lift_time_limit(client, self.id, client.read_flow_run(self.id).state)

    def _obey(self, state: State | None) -> None:
        if self._suspending:
            self._check_suspended(state)
        if state is None or state.is_running() or self._asked:
            return
        if state.is_paused():
            self._ask("pause")
        elif state.type in (StateType.CANCELLING, StateType.CANCELLED):
            self._ask("cancel")
        else:
            raise Abort(f"the flow run is {state.name}: another process may go on with it")

    def _check_suspended(self, state: State | None) -> None:
        """Leave the job to the process that continues if the flow run was resumed meanwhile."""
        if state is not None and not state.is_paused():
            raise Abort(f"the flow run is {state.name} again: another process continues it")

    def _ask(self, intent: Any) -> None:
        self._asked = True
        self._suspending = intent == "pause" and self.refused is None
        if leave_to_others(self.job.place, self.owner):
            if self.refused is not None:
                raise self.refused
            if intent == "pause":
                raise Pause(state=self.suspended())
            raise JobCancelledError(f"{self.job.out}: another flow run still follows it")
        with contextlib.suppress(Unreachable):  # it is written down, and done in a later round
            ask(self.job, self.launcher, intent, self.owner)

    def was_ended_by_another(self) -> bool:
        """Whether another flow run ended the job just when this one asked for it."""
        record = read_record(self.job.place)
        if record is None or record.intent == "run":
            return False
        return record.owner != self.owner and _is_flow_run(record.owner)

    def sleep(self, secs: float) -> None:
        """Wait; when the flow run is ended, leave the job, when it is suspended, save it first."""
        leaving = _leaving.get(None)
        if leaving is None or leaving.suspended:
            time.sleep(secs)
        elif leaving.event.wait(secs):
            if not leaving.suspended:
                raise UserError(_LEFT)
            self._ask("pause")

    def suspended(self) -> State:
        """The state of this flow run, which is Suspended; made so if the job alone was paused.

        Raises:
            Abort: it was suspended and has been resumed since.
        """
        with get_client(sync_client=True) as client:
            state = self._state(client)
            if self._suspending:
                self._check_suspended(state)
            if state is None or not state.is_paused():
                state = Suspended()
                client.set_flow_run_state(self.id, state, force=True)
        return state


def lift_time_limit(
    client: SyncPrefectClient, flow_run_id: UUID, state: State | None
) -> State | None:
    """Let a flow run wait until it is resumed; return its state.

    Prefect's form for Suspend sets a time after which Prefect fails the run. A state without one
    has to be forced: otherwise the server rejects it, as the run is suspended already.
    """
    if state is None or not state.is_paused() or state.state_details.pause_timeout is None:
        return state
    until = state.state_details.pause_timeout.astimezone(datetime.UTC)
    lifted = Suspended(
        message=f"Waits until it is resumed. Its time limit, {until:%Y-%m-%d %H:%M:%S} UTC, is "
        "lifted: after it, Prefect would have failed the run."
    )
    client.set_flow_run_state(flow_run_id, lifted, force=True)
    return lifted


def owner_of(flow_run_id: UUID | str) -> str:
    """The owner of a job that a flow run asked for."""
    return f"{_OWNER}{flow_run_id}"


def started_by() -> str:
    """Who started this flow run, as far as a Prefect server without accounts knows."""
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


def _is_flow_run(owner: str) -> bool:
    return owner.startswith(_OWNER)


def flow_run_of(owner: str) -> UUID | None:
    """The flow run that asked for a job; None if a person did."""
    return UUID(owner.removeprefix(_OWNER)) if _is_flow_run(owner) else None


def read_flow_run(owner: str) -> FlowRun | None:
    """The flow run that asked for a job; None if it is gone, or a person asked."""
    flow_run_id = flow_run_of(owner)
    if flow_run_id is None:
        return None
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return None


def wants_jobs(flow_run: FlowRun | None) -> bool:
    """Whether a flow run goes on with its jobs."""
    state = flow_run.state if flow_run is not None else None
    return state is not None and state.type in _GOING_ON


def leave_to_others(place: Path, owner: str) -> bool:
    """Leave a job to the other flow runs that want it; whether there are any.

    Where the server does not answer, they do.

    Args:
        place: `Job.place`.
        owner: the one that wants it no more.
    """
    record = read_record(place)
    if record is None:
        return False
    others = []
    for one in record.wanted_by:
        with contextlib.suppress(*SERVER_ERRORS):
            if one == owner or not wants_jobs(read_flow_run(one)):
                continue
        others.append(one)
    if others:
        gone = {*record.wanted_by} - {*others}
        with edit_record(place) as record:
            record.wanted_by = [one for one in record.wanted_by if one not in gone]
            record.owner = record.wanted_by[-1]
    return bool(others)


def cancel(job: Job, launcher: Launcher, owner: str) -> None:
    """Ask a job of a flow run to save and stop, unless others want it; never raise for that."""
    if leave_to_others(job.place, owner):
        return
    try:
        ask(job, launcher, "cancel", owner)
    except (Unreachable, UserError) as error:  # it is written down, and `reconcile` sees to it
        say(job.argv[0], f"{job.out} is not stopped yet: {error}")


def cancel_jobs(operators: Operators, flow_run_id: UUID | str) -> None:
    """Cancel the jobs that a flow run asked for, but for those that a person went on with."""
    owner = owner_of(flow_run_id)
    for record in find_records(operators.storage):
        if owner in record.wanted_by and _is_flow_run(record.owner) and goes_on(record):
            cancel(record.job, make_launcher(record.launcher), owner)


def cancel_hook(flow: Any, flow_run: Any, state: Any) -> None:
    """Cancel the jobs of a flow run that was cancelled; Prefect calls it by these names."""
    cancel_jobs(read_operators(), flow_run.id)
