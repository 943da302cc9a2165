"""Follow jobs in a flow run: pass on their logs, and pass Cancel and Suspend on to them.

A job outlives the flow run that follows it (`mswitch.flows.jobs`). Only three things end it
early: Cancel and Suspend of the flow run, and `mswitch jobs`.
"""

import contextlib
import contextvars
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, Pause
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Suspended

from mswitch.flows.jobs import doors
from mswitch.flows.jobs.job import BusyError, Job, Launcher, Unreachable
from mswitch.flows.jobs.record import read_record
from mswitch.flows.prefect.form_fields import JobCancelledError
from mswitch.flows.prefect.owners import describe_starter, name_owner, still_wants
from mswitch.flows.prefect.steps import SERVER_ERRORS, step
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import pass_on, say, say_news

if TYPE_CHECKING:  # at run time, `reconcile` must not load the modules that show jobs
    from mswitch.flows.prefect.show import TrainingProgress

#: Seconds after which a flow run reads its own state again.
STATE_SECS = 5.0
_LEFT = "no longer followed: the flow run was ended"
_leaving: contextvars.ContextVar["_Leaving"] = contextvars.ContextVar("leaving")


class _Leaving(threading.Event):
    """Tells a flow run's tasks that its main thread is ending, and whether the run is suspended."""

    suspended = False


@contextlib.contextmanager
def end_tasks_with_flow() -> Iterator[None]:
    """End or suspend a flow run's tasks when its main thread is ended or suspended."""
    leaving = _Leaving()
    token = _leaving.set(leaving)
    try:
        yield
    except BaseException as error:
        leaving.suspended = isinstance(error, Pause)
        leaving.set()
        raise
    finally:
        _leaving.reset(token)


@step("{title}")
def follow_job(
    title: str,
    job: Job,
    launcher: Launcher,
    refuse: Callable[[], UserError | None] = lambda: None,
    progress: "TrainingProgress | None" = None,
) -> None:
    """Follow a job in a task run with the name `title`; for a training, show its progress."""
    del title
    if progress is None:
        Follower(job, launcher, refuse).follow()
    else:
        Follower(job, launcher, refuse, progress.update).follow()
        progress.finish()


@dataclasses.dataclass
class Follower:
    """Makes this flow run follow a job.

    Attributes:
        job: the job.
        launcher: where it runs.
        refuse: called every few seconds; if it returns a reason, the job is saved and paused.
        on_poll: called every few seconds.
    """

    job: Job
    launcher: Launcher
    refuse: Callable[[], UserError | None] = lambda: None
    on_poll: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.refused: UserError | None = None
        self.id = UUID(this_flow_run.id)
        self.owner = name_owner(self.id)
        self._next = 0.0
        self._tell, self._silent_since = say_news(self.job.argv[0]), ""
        self._asked = self._suspending = False

    def follow(self) -> None:
        """Follow the job to its end.

        Raises:
            JobCancelledError: it was cancelled.
            Pause: this flow run is suspended, and the job saved and stopped.
            Abort: another process continues this flow run.
        """
        state = None
        while state is None:
            self.ask_to_run()
            # With retries Prefect's client could block for a minute, while nobody polls the job.
            quick = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
            # If somebody requested another job for the same output, `follow` raises BusyError. The
            # loop then requests this job again.
            with contextlib.suppress(BusyError), quick:
                state = doors.follow(
                    self.job, self.launcher, on_lines=pass_on, on_poll=self.poll, sleep=self.sleep
                )
        self.end(*state)

    def ask_to_run(self) -> None:
        """Request the job when its scheduler answers and no other job writes its output.

        Nothing is requested if the job lives and this flow run requested it last, or if the flow
        run is ended while it waits.
        """
        record = read_record(self.job.path)
        known = record and (record.job.key, record.alive is None, record.owner, record.intent)
        if known == (self.job.key, False, self.owner, "run"):
            return
        while not self._asked:
            try:
                doors.want(self.job, self.launcher, self.owner, describe_starter())
                return
            except (BusyError, Unreachable) as error:
                busy = isinstance(error, BusyError)
                self.poll(f"waiting, because {error}" if busy else f"not reachable ({error})")
                self.sleep(self.launcher.poll_secs)

    def poll(self, text: str) -> None:
        """Log the job's state if it is new; every few seconds read the flow run's state."""
        pass_on([])  # upload log lines that still wait
        self._tell(text)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + STATE_SECS
        if not self._asked and (refused := self.refuse()):
            self.refused = refused
            say(self.job.argv[0], str(refused))
            self._withdraw("pause")
        try:
            with get_client(sync_client=True) as client:
                state = self._state(client)
            self.on_poll()
        except SERVER_ERRORS as error:
            if not self._silent_since:
                self._silent_since = time.strftime("%H:%M:%S")
                reason = f"does not answer ({type(error).__name__}); the job continues"
                say(self.job.argv[0], f"the Prefect server {reason}")
            return
        if self._silent_since:
            # The message says since when log lines are perhaps missing on the server.
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
            self._withdraw("pause")
        elif state.type in (StateType.CANCELLING, StateType.CANCELLED):
            self._withdraw("cancel")
        else:
            raise Abort(f"the flow run is {state.name}: another process may continue it")

    def _check_suspended(self, state: State | None) -> None:
        if state is not None and not state.is_paused():
            raise Abort(f"the flow run is {state.name} again: another process continues it")

    def _withdraw(self, how: doors.Ending) -> None:
        self._asked = True
        self._suspending = how == "pause" and self.refused is None
        with contextlib.suppress(Unreachable):  # a later poll repeats the recorded stop request
            if doors.leave(self.job, self.launcher, how, self.owner, still_wants):
                return
            self.end("paused" if how == "pause" else "cancelled", "another flow run wants it")

    def end(self, state: str, message: str) -> None:
        """Raise the exception that ends this flow run, unless its job is done."""
        if state == "paused":
            raise self.refused or Pause(state=self.suspended())
        if state == "cancelled":
            raise JobCancelledError(f"{self.job.out}: {message}")
        if state != "done":
            raise UserError(message)

    def sleep(self, secs: float) -> None:
        """Wait. If the flow run ends, stop following; if it is suspended, pause the job."""
        leaving = _leaving.get(None)
        if leaving is None or leaving.suspended:
            time.sleep(secs)
        elif leaving.wait(secs):
            if not leaving.suspended:
                raise UserError(_LEFT)
            self._withdraw("pause")

    def suspended(self) -> State:
        """Return the flow run's suspended state; if only its job is paused, suspend the run first.

        Raises:
            Abort: the flow run was suspended and has been resumed since.
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
    """Remove the time limit of a suspended flow run; return its state.

    Prefect's form for Suspend sets a time after which Prefect fails the run. A state without a
    limit has to be forced: otherwise the server rejects it, because the run is already suspended.
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
