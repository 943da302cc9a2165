"""Start, follow, inspect, pause and cancel jobs; commands and flows use only these functions.

    job = Job(("train", "--preset", "mt5-base", ..., "--out", "/runs/a"), Path("/runs/a"))
    want(job, Local(), "flow run 4711")  # once, when a person or schedule requests it
    result = follow(job, Local(), on_lines=..., on_poll=...)  # as often as needed

`follow` may be killed at any moment, and called again on any machine that reaches the output and
the launcher.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal

from mswitch.flows.jobs.command import make_end_command
from mswitch.flows.jobs.job import Job, Launcher, NoPlace, Status, Unreachable, read_all_logs
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import FINAL, State, Timing, classify, compute_next_start, decide_state
from mswitch.flows.jobs.places import describe_wait
from mswitch.flows.jobs.programs import call
from mswitch.flows.jobs.record import (
    Attempt,
    Record,
    edit_record,
    follow_alone,
    prepare_record,
    read_follower,
    read_record,
    take_over,
)
from mswitch.flows.jobs.reserve import has_no_room
from mswitch.pipelines.errors import UserError, full_disk
from mswitch.pipelines.exit_codes import USER_ERROR
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.progress import say

Ending = Literal["pause", "cancel"]


class StopFollowing(Exception):  # noqa: N818  # not an error
    """Raised by a callback of `follow` to leave the job as it is."""


def follow_once(text: str) -> None:
    """End `follow` after one step; pass this function as a callback."""
    raise StopFollowing(text)


def want(job: Job, launcher: Launcher, who: str = "", started_by: str = "") -> None:
    """Request that a job runs, even if it failed before; count its restarts from zero again.

    Raises:
        BusyError: another job makes its output; nothing was requested.
        Unreachable: the scheduler does not answer; nothing was requested.
    """
    with edit_record(job.path, lambda before: prepare_record(job, launcher, before)) as record:
        alive = record.alive
        record.intent, record.owner = "run", who or record.owner
        record.wants += 1
        others = [owner for owner in record.wanted_by if owner != record.owner]
        record.wanted_by = [*others, record.owner]
        record.started_by = record.started_by or started_by
        over = alive is None or _poll(record, alive).phase == "ended"
        record.counted_after = len(record.attempts) - (0 if over else 1)


def leave(
    job: Job,
    launcher: Launcher,
    how: Ending | None,
    who: str = "",
    still_wants: Callable[[str], bool] | None = None,
    since: int | None = None,
) -> bool:
    """Withdraw an owner's request: pause or cancel the job, unless other owners want it.

    The living attempt is asked to save and stop. `follow` kills it after `Job.grace_secs`.

    Args:
        job: the job.
        launcher: the launcher of a new record; an existing record has its own.
        how: whether to pause or to cancel; None changes nothing.
        who: the owner that no longer wants the job.
        still_wants: tells whether another owner wants it; None overrules the others.
        since: `Record.wants` when the caller decided this; by default now. An owner that requested
            the job later keeps it, even `who`.

    Returns:
        Whether nobody wants the job any more, and its output's record is of this job.

    Raises:
        Unreachable: the record says that the job must stop, but the attempt got no signal.
    """
    before = read_record(job.path)
    known = before.wanted_by if before is not None else []
    if since is None and still_wants is not None:
        since = before.wants if before is not None else 0
    asked = still_wants or (lambda owner: False)
    gone = {who, *(owner for owner in known if owner != who and not asked(owner))}
    with edit_record(job.path, lambda now: now or Record(job, launcher.profile)) as record:
        if record.job.key != job.key:
            return False
        if since is not None and record.wants > since:
            # Keep the owners who requested the job since then: each request moved its owner to the
            # end of `wanted_by`.
            gone -= {*record.wanted_by[since - record.wants :]}
        others = [owner for owner in record.wanted_by if owner not in gone]
        if others and since is not None:
            record.wanted_by, record.owner = others, others[-1]
            return False
        if how is None:
            return True
        record.intent, record.owner = how, who or record.owner
    with edit_record(job.path) as record:
        take_over(record)
        if record.intent != how:
            return False  # meanwhile somebody made another request
        _end_attempt(record, time.time())
    # If no process follows this job, nobody else would cancel its work on Dataflow.
    _end_elsewhere(job)
    return True


@dataclasses.dataclass(frozen=True)
class Summary:
    """State of a job.

    Attributes:
        state: the name of its `State`.
        message: the reason of the state, or the place where the job runs.
        followed_by: the process that restarts the job after an interruption; None if nobody does.
        progress: `mswitch.flows.jobs.job.Job.progress`, or its last known value if the bucket does
            not answer.
        host_hours: hosts times hours of all attempts.
    """

    state: str
    message: str
    followed_by: str | None
    progress: int
    host_hours: float


def look(record: Record) -> Summary:
    """Return the state of a job; nothing is changed."""
    last, status, marker, reason = record.last, None, None, ""
    progress = 0 if last is None else last.progress + last.made
    try:
        status = _poll(record, record.alive) if record.alive is not None else None
    except (Unreachable, UserError) as error:  # for example, Slurm is not installed here
        reason = str(error)
    try:
        marker, progress = record.job.has_marker(), record.job.progress()
    except Unreachable as error:
        reason = reason or str(error)
    state = decide_state(record, status, marker)
    message = reason if state.name == "unreachable" else state.message
    local, followed = record.launcher["launcher"] == "local", read_follower(record.job.path)
    if state.name == "waiting" and local and followed:
        # After the restart delay, the attempt may still wait for another training to end.
        over = compute_next_start(record, Timing()) <= time.time()
        message = (describe_wait(record.job) if over else "") or message
    until = status.ended if status is not None else None
    hours = round(record.host_hours(until or time.time()), 4)
    return Summary(state.name, message, followed, progress, hours)


def as_json(record: Record, summary: Summary) -> dict[str, Any]:
    """Return record and summary as one JSON object."""
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
    """Follow a job to its end: take over its living attempt, and start attempts until it is done.

    A job that was refused, failed, paused or cancelled stays so: call `want` first. A callback may
    call `leave`. If a callback raises, this ends with that error, and the job keeps running.

    The next attempt runs on `launcher`; an attempt that lives elsewhere is followed there.
    `on_lines` gets each line of the log once, over all attempts and callers of `follow`. If a
    caller is killed, its last lines may come again. `on_poll` gets a line about the job's state in
    each round.

    Raises:
        BusyError: another job was requested in its place.
    """
    steps = _Steps(job, launcher, on_lines, on_poll, timing, clock)
    unreachable_since, wait = None, 0.0
    with follow_alone(job.path, on_poll, sleep):
        while True:
            try:
                result = steps.step()
                if isinstance(result, State) and result.name in ("paused", "cancelled"):
                    _end_elsewhere(job)
            except Unreachable as error:
                with contextlib.suppress(Unreachable):
                    record = read_record(job.path)
                    if record and decide_state(record, None, job.has_marker()).name == "done":
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
    """State of a `follow` call."""

    job: Job
    wanted: Launcher
    on_lines: Callable[[list[str]], None]
    on_poll: Callable[[str], None]
    timing: Timing
    clock: Callable[[], float]
    #: Progress of the job before its next attempt. Measuring progress takes long in a bucket. So
    #: `Job.progress` is called once, while the record is not locked.
    _before: int | None = None

    @property
    def poll_secs(self) -> float:
        own = self.timing.poll_secs
        return self.wanted.poll_secs if own is None else own

    def step(self) -> State | float:
        """Poll the job once, and take the next action; return its final state or a waiting time."""
        new = functools.partial(prepare_record, self.job, self.wanted, following=True)
        with edit_record(self.job.path, new) as record:
            last = record.alive
        if last is None:
            self._before = self.job.progress() if self._before is None else self._before
        else:
            launcher, status = make_launcher(record.launcher), _poll(record, last)
            self._pass_on_lines(launcher, last)
            if status.phase != "ended":
                return self._watch(record, status)
            self._judge(launcher, last, status)
        return self._continue()

    def _watch(self, before: Record, status: Status) -> float:
        with edit_record(self.job.path, minor=before.intent == "run") as record:
            alive = record.attempts[len(before.attempts) - 1]
            # Kubernetes may delete a pod before its Job; then keep the recorded start time.
            alive.started, alive.where = status.started or alive.started, status.where
            if record.intent != "run":
                _end_attempt(record, self.clock())
        reason = f" ({status.reason})" if status.reason else ""
        stopping = ", asked to stop" if alive.stopping else ""
        self.on_poll(f"{status.phase}{reason}{stopping}: {status.where}")
        return self.poll_secs

    def _pass_on_lines(self, launcher: Launcher, last: Attempt) -> None:
        for lines, end in read_all_logs(launcher, self.job, last.number, last.log_bytes):
            self.on_lines(lines)
            with edit_record(self.job.path, minor=True) as record:
                record.attempts[last.number - 1].log_bytes = end

    def _judge(self, launcher: Launcher, last: Attempt, status: Status) -> None:
        marker = self.job.has_marker() if self.job.marked and not last.had_marker else None
        outcome, message = classify(status.codes, status.reason, marker)
        if outcome in ("refused", "failed"):
            if has_no_room(self.job.directory):  # the log may lack its last line
                message = str(full_disk(self.job.path))
            for lines, _ in read_all_logs(launcher, self.job, last.number):
                said = [line for line in lines if line.startswith("mswitch: ")]
                message = said[-1].removeprefix("mswitch: ") if said else message
        self._before = self.job.progress()
        fault_point("launch.before_outcome")
        with edit_record(self.job.path) as record:
            judged = record.attempts[last.number - 1]
            judged.started = status.started or judged.started
            judged.where = status.where or judged.where
            judged.ended = status.ended or self.clock()
            judged.codes, judged.reason = status.codes, status.reason
            judged.outcome, judged.message = outcome, message
            judged.made = max(0, self._before - judged.progress)
        fault_point("launch.after_outcome")

    def _continue(self) -> State | float:
        """End, wait, or start the next attempt; lock the record until this decision is stored."""
        with edit_record(self.job.path) as record:
            marker = self.job.has_marker()
            state = decide_state(record, None, marker)
            if state.name in FINAL:
                return state
            then = compute_next_start(record, self.timing)
            wait, text = then - self.clock(), ""
            if wait > 0:
                shown = time.strftime("%H:%M:%S", time.localtime(then))
                text = f"{state.message}; continues at {shown}"
            else:
                text = self._submit(record, marker)
        if text:
            # Here the record is not locked: a callback may call `leave`, which locks it.
            self.on_poll(text)
            return min(wait, self.poll_secs) if wait > 0 else self.poll_secs
        fault_point("launch.after_record")
        return 0.0

    def _submit(self, record: Record, marker: bool) -> str:
        """Start the next attempt and record it, or return why it has to wait."""
        number, before = len(record.attempts) + 1, self._before or 0
        hosts = self.job.hosts
        attempt = Attempt(number, self.clock(), before, had_marker=marker, hosts=hosts)
        fault_point("launch.before_submit")
        try:
            # Prefer the caller's launcher: the record's profile lacks the limit on simultaneous
            # trainings.
            same = self.wanted.profile == record.launcher
            (self.wanted if same else make_launcher(record.launcher)).submit(self.job, number)
        except NoPlace as reason:
            return str(reason)
        fault_point("launch.after_submit")
        record.attempts.append(attempt)
        self._before = None
        return ""


def _end_elsewhere(job: Job) -> None:
    """Cancel a job's work on Dataflow.

    Raises:
        Unreachable: the command that cancels it failed.
    """
    words = make_end_command(job)
    if words is None:
        return
    done = call(*job.program, *words, where="with mswitch")
    record = read_record(job.path)
    attempts = record.attempts if record is not None else []
    if done.returncode == USER_ERROR and all(attempt.outcome == "refused" for attempt in attempts):
        return  # with wrong options, the command has started nothing
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1].removeprefix("mswitch: ")
        raise Unreachable(f"its Dataflow jobs are not cancelled: {reason}")
    say(job.argv[0], done.stdout.strip())


def _poll(record: Record, attempt: Attempt) -> Status:
    return make_launcher(record.launcher).poll(record.job, attempt.number)


def _end_attempt(record: Record, now: float) -> None:
    alive = record.alive
    if alive is None:
        return
    alive.stopping = alive.stopping or now
    kill = now - alive.stopping > record.job.grace_secs
    make_launcher(record.launcher).end(record.job, alive.number, kill=kill)
