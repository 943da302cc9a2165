"""The doors of a job: all that a person's command or a flow does to one.

    job = Job(("train", "--preset", "mt5-base", ..., "--out", "/runs/a"), Path("/runs/a"))
    want(job, Local(), "flow run 4711")  # once, when a person or schedule asks for it
    result = follow(job, Local(), on_lines=..., on_poll=...)  # as often as needed

`follow` may be killed at any moment, and called again anywhere where the output and the launcher
are in reach: it takes over the attempt that lives, or judges the one that ended, or starts the
next. `look` changes nothing, and `leave` pauses or cancels.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal

from mswitch.flows.jobs.command import cancel_command
from mswitch.flows.jobs.job import Job, Launcher, NoPlace, Status, Unreachable, all_logs
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import FINAL, State, Timing, classify, next_start, state_of
from mswitch.flows.jobs.places import describe_wait
from mswitch.flows.jobs.programs import call
from mswitch.flows.jobs.record import (
    Attempt,
    Record,
    edit_record,
    follow_alone,
    follower,
    read_record,
    record_of,
    take_over,
)
from mswitch.flows.jobs.reserve import has_no_room
from mswitch.pipelines.errors import UserError, full_disk
from mswitch.pipelines.exit_codes import USER_ERROR
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.progress import say


class StopFollowing(Exception):  # noqa: N818  # no error
    """Raised by a callback of `follow` to leave the job as it is."""


def stop_following(text: str) -> None:
    """Let `follow` take no more than one step: a callback of it."""
    raise StopFollowing(text)


def want(job: Job, launcher: Launcher, who: str = "", started_by: str = "") -> None:
    """Ask for a job to run. It gets its budgets anew, also after it failed.

    Raises:
        BusyError: another job makes its output, and nothing was asked for.
        Unreachable: likewise, since the scheduler does not answer.
    """
    with edit_record(job.place, lambda before: record_of(job, launcher, before)) as record:
        alive = record.alive
        record.intent, record.owner = "run", who or record.owner
        record.wants += 1
        others = [owner for owner in record.wanted_by if owner != record.owner]
        record.wanted_by = [*others, record.owner]
        record.started_by = record.started_by or started_by
        over = alive is None or _status(record, alive).phase == "ended"
        record.counted_after = len(record.attempts) - (0 if over else 1)


def leave(
    job: Job,
    launcher: Launcher,
    how: Literal["pause", "cancel"] | None,
    who: str = "",
    still_wants: Callable[[str], bool] | None = None,
    since: int | None = None,
) -> bool:
    """Want a job no more: pause it (saved, to go on later) or cancel it, unless others want it.

    Its living attempt is asked to stop, and killed once it had its time; `follow` sees to that.

    Args:
        job: the job.
        launcher: where it runs.
        how: what becomes of it if nobody else wants it; None leaves it as it is.
        who: the owner that wants it no more.
        still_wants: whether another owner does; None to overrule the others.
        since: `Record.wants` when the caller decided this; by default now. Who asked for the job
            after that keeps it, even `who`.

    Returns:
        Whether nobody wants it, and it is the job of its output.

    Raises:
        Unreachable: that it must stop is written down, but the attempt could not be asked.
    """
    before = read_record(job.place)
    known = before.wanted_by if before is not None else []
    if since is None and still_wants is not None:
        since = before.wants if before is not None else 0
    asked = still_wants or (lambda owner: False)
    gone = {who, *(owner for owner in known if owner != who and not asked(owner))}
    with edit_record(job.place, lambda now: now or Record(job, launcher.profile)) as record:
        if record.job.key != job.key:
            return False
        if since is not None and record.wants > since:
            gone -= {*record.wanted_by[since - record.wants :]}  # the last come last
        others = [owner for owner in record.wanted_by if owner not in gone]
        if others and since is not None:
            record.wanted_by, record.owner = others, others[-1]
            return False
        if how is None:
            return True
        record.intent, record.owner = how, who or record.owner
    with edit_record(job.place) as record:
        take_over(record)
        if record.intent != how:
            return False  # somebody has asked for something else meanwhile
        _stop(record, time.time())
    # Now, since perhaps nobody follows the job, and again when its processes have ended.
    _end_elsewhere(job)
    return True


@dataclasses.dataclass(frozen=True)
class Summary:
    """State of a job.

    Attributes:
        state: the name of its `State`.
        message: why, or where it runs.
        followed_by: who starts it again when it is interrupted; None: nobody does.
        progress: `mswitch.flows.jobs.job.Job.progress`; the last known where the bucket does not
            answer.
        host_hours: for which its attempts held hosts.
    """

    state: str
    message: str
    followed_by: str | None
    progress: int
    host_hours: float


def look(record: Record) -> Summary:
    """Look at a job without changing anything."""
    last, status, marker, reason = record.last, None, None, ""
    progress = 0 if last is None else last.progress + last.made
    try:
        status = _status(record, record.alive) if record.alive is not None else None
    except (Unreachable, UserError) as error:  # such as: Slurm is not installed here
        reason = str(error)
    try:
        marker, progress = record.job.has_marker(), record.job.progress()
    except Unreachable as error:
        reason = reason or str(error)
    state = state_of(record, status, marker)
    message = reason if state.name == "unreachable" else state.message
    local, followed = record.launcher["launcher"] == "local", follower(record.job.place)
    if state.name == "waiting" and local and followed:
        # Its pause is over and nothing has begun: it waits for a place.
        over = next_start(record, Timing()) <= time.time()
        message = (describe_wait(record.job) if over else "") or message
    until = status.ended if status is not None else None
    hours = round(record.host_hours(until or time.time()), 4)
    return Summary(state.name, message, followed, progress, hours)


def as_json(record: Record, summary: Summary) -> dict[str, Any]:
    """Record and summary as one object, for programs."""
    value = {"stage": "jobs", "out": str(record.job.out), **dataclasses.asdict(summary)}
    return {**value, "record": record.as_json()}


def follow(
    job: Job,
    launcher: Launcher,
    *,
    on_lines: Callable[[list[str]], None] = lambda lines: None,
    on_poll: Callable[[str], None] = lambda text: None,
    timing: Timing = Timing(),  # noqa: B008, it is frozen
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> State:
    """Bring a job to its end: adopt the attempt that lives, or start the next, until it is over.

    A job that was refused, failed, paused or cancelled before stays so: `want` it first. A callback
    may call `leave`, or raise: this ends, and the job keeps running.

    Raises:
        BusyError: another job has been asked for in its place.

    Args:
        job: the job.
        launcher: where its next attempt runs; one that lives elsewhere is followed there.
        on_lines: gets the log, each line once, over all attempts and callers of `follow`; those
            that a caller was given when it was killed may come again.
        on_poll: gets a line on how the job is, in each round.
        timing: how often it is looked at.
        sleep: waits for so many seconds.
        clock: gives seconds since 1970.
    """
    steps = _Steps(job, launcher, on_lines, on_poll, timing, clock)
    unreachable_since, wait = None, 0.0
    with follow_alone(job.place, on_poll, sleep):
        while True:
            try:
                result = steps.step()
                if isinstance(result, State) and result.name in ("paused", "cancelled"):
                    _end_elsewhere(job)
            except Unreachable as error:
                with contextlib.suppress(Unreachable):
                    record = read_record(job.place)
                    if record and state_of(record, None, job.has_marker()).name == "done":
                        return State("done", "done")
                unreachable_since = unreachable_since or clock()
                since = time.strftime("%H:%M", time.localtime(unreachable_since))
                on_poll(f"not reachable since {since} ({error})")
                wait = min(max(2 * wait, steps.poll_secs), timing.longest_wait_secs)
            else:
                if isinstance(result, State):
                    return result
                unreachable_since, wait = None, result
            sleep(wait)


@dataclasses.dataclass
class _Steps:
    """The rounds of whoever holds a job's follower lock."""

    job: Job
    wanted: Launcher
    on_lines: Callable[[list[str]], None]
    on_poll: Callable[[str], None]
    timing: Timing
    clock: Callable[[], float]
    #: `Job.progress` of a job of which nothing runs. It takes long in a bucket: it is looked up
    #: once, and not while the record is locked.
    _before: int | None = None

    @property
    def poll_secs(self) -> float:
        own = self.timing.poll_secs
        return self.wanted.poll_secs if own is None else own

    def step(self) -> State | float:
        """Look at the job once, and act; return the result, or the seconds to wait."""
        new = functools.partial(record_of, self.job, self.wanted, following=True)
        with edit_record(self.job.place, new) as record:
            last = record.alive
        if last is None:
            self._before = self.job.progress() if self._before is None else self._before
        else:
            launcher, status = make_launcher(record.launcher), _status(record, last)
            self._pass_on_lines(launcher, last)
            if status.phase != "ended":
                return self._watch(record, status)
            self._judge(launcher, last, status)
        return self._go_on()

    def _watch(self, before: Record, status: Status) -> float:
        with edit_record(self.job.place, minor=before.intent == "run") as record:
            alive = record.attempts[len(before.attempts) - 1]
            # What is known of pods may be gone while their job stands.
            alive.started, alive.where = status.started or alive.started, status.where
            if record.intent != "run":
                _stop(record, self.clock())
        reason = f" ({status.reason})" if status.reason else ""
        stopping = ", asked to stop" if alive.stopping else ""
        self.on_poll(f"{status.phase}{reason}{stopping}: {status.where}")
        return self.poll_secs

    def _pass_on_lines(self, launcher: Launcher, last: Attempt) -> None:
        for lines, end in all_logs(launcher, self.job, last.number, last.log_bytes):
            self.on_lines(lines)
            with edit_record(self.job.place, minor=True) as record:
                record.attempts[last.number - 1].log_bytes = end

    def _judge(self, launcher: Launcher, last: Attempt, status: Status) -> None:
        marker = self.job.has_marker() if self.job.marked and not last.had_marker else None
        outcome, message = classify(status.codes, status.reason, marker)
        if outcome in ("refused", "failed"):
            if has_no_room(self.job.directory):  # then its log may lack the last line
                message = str(full_disk(self.job.place))
            for lines, _ in all_logs(launcher, self.job, last.number):
                said = [line for line in lines if line.startswith("mswitch: ")]
                message = said[-1].removeprefix("mswitch: ") if said else message
        self._before = self.job.progress()
        fault_point("launch.before_outcome")
        with edit_record(self.job.place) as record:
            one = record.attempts[last.number - 1]
            one.started, one.where = status.started or one.started, status.where or one.where
            one.ended = status.ended or self.clock()
            one.codes, one.reason = status.codes, status.reason
            one.outcome, one.message = outcome, message
            one.made = max(0, self._before - one.progress)
        fault_point("launch.after_outcome")

    def _go_on(self) -> State | float:
        """End, wait, or start the next attempt; the record stays locked until that is written."""
        with edit_record(self.job.place) as record:
            marker = self.job.has_marker()
            state = state_of(record, None, marker)
            if state.name in FINAL:
                return state
            then = next_start(record, self.timing)
            wait, text = then - self.clock(), ""
            if wait > 0:
                shown = time.strftime("%H:%M:%S", time.localtime(then))
                text = f"{state.message}; continues at {shown}"
            else:
                text = self._submit(record, marker)
        if text:
            # Not under the record's lock, which `leave` takes.
            self.on_poll(text)
            return min(wait, self.poll_secs) if wait > 0 else self.poll_secs
        fault_point("launch.after_record")
        return 0.0

    def _submit(self, record: Record, marker: bool) -> str:
        """Start the next attempt, and note it; return why it waits, if it does."""
        number, before = len(record.attempts) + 1, self._before or 0
        attempt = Attempt(number, self.clock(), before, had_marker=marker)
        fault_point("launch.before_submit")
        try:
            # The record's launcher does not know how many places there are.
            same = self.wanted.profile == record.launcher
            (self.wanted if same else make_launcher(record.launcher)).submit(self.job, number)
        except NoPlace as reason:
            return str(reason)
        fault_point("launch.after_submit")
        record.attempts.append(attempt)
        self._before = None
        return ""


def _end_elsewhere(job: Job) -> None:
    """Cancel what outlives the processes of a job: jobs of Dataflow.

    Raises:
        Unreachable: they could not be cancelled, or the command for it lacks something here.
    """
    words = cancel_command(job)
    if words is None:
        return
    done = call(*job.program, *words, where="with mswitch")
    record = read_record(job.place)
    attempts = record.attempts if record is not None else []
    if done.returncode == USER_ERROR and all(one.outcome == "refused" for one in attempts):
        return  # the options are wrong: nothing was started with them
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1].removeprefix("mswitch: ")
        raise Unreachable(f"what runs on Dataflow is not cancelled: {reason}")
    say(job.argv[0], done.stdout.strip())


def _status(record: Record, attempt: Attempt) -> Status:
    return make_launcher(record.launcher).poll(record.job, attempt.number)


def _stop(record: Record, now: float) -> None:
    """Ask the living attempt to stop; kill it once it had its time."""
    alive = record.alive
    if alive is None:
        return
    alive.stopping = alive.stopping or now
    kill = now - alive.stopping > record.job.grace_secs
    make_launcher(record.launcher).stop(record.job, alive.number, kill=kill)
