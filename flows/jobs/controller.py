"""The one loop that brings a job to its end, whoever runs it: a person's command or a flow.

`mswitch demo` and `mswitch evidence` do without: their trainers end with them
(`mswitch.flows.child_processes`).

`run_job` may be killed at any moment, and run again anywhere where the output and the launcher are
in reach: it takes over the attempt that lives, or judges the one that ended, or starts the next.

    job = Job(("train", "--preset", "mt5-base", ..., "--out", "/runs/a"), Path("/runs/a"))
    ask(job, Local(), "run", owner="flow run 4711")  # once, when a person or schedule asks for it
    result = run_job(job, Local(), on_lines=..., on_poll=...)  # as often as needed

A callback may call `ask(job, launcher, "pause")` when the flow run is suspended, or raise: the loop
ends, and the job keeps running.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Literal

from mswitch.flows.jobs.command import cancel_command
from mswitch.flows.jobs.job import Job, Launcher, Status, Unreachable, all_logs
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.outcomes import Outcome, classify, exhausted, stalled
from mswitch.flows.jobs.programs import call
from mswitch.flows.jobs.record import (
    Attempt,
    Intent,
    Record,
    edit_record,
    follow_alone,
    own_record,
    read_record,
    record_of,
    take_over,
)
from mswitch.flows.jobs.reserve import has_no_room
from mswitch.pipelines.errors import full_disk
from mswitch.pipelines.exit_codes import USER_ERROR
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.progress import say


@dataclasses.dataclass(frozen=True)
class Result:
    """How `run_job` ended.

    Attributes:
        outcome: `paused` and `cancelled` are what a person asked for.
        message: the reason in a line; of a command that refused its input, what it said.
    """

    outcome: Literal["done", "refused", "failed", "paused", "cancelled"]
    message: str


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds between the loop's rounds.

    Attributes:
        poll_secs: while a job lives; None leaves it to the launcher.
        first_wait_secs: before a command is started again; twice as long after each attempt in a
            row without progress.
        longest_wait_secs: at most, and between attempts to reach a scheduler that does not answer.
    """

    poll_secs: float | None = None
    first_wait_secs: float = 10.0
    longest_wait_secs: float = 600.0


def run_job(
    job: Job,
    launcher: Launcher,
    *,
    on_lines: Callable[[list[str]], None] = lambda lines: None,
    on_poll: Callable[[str], None] = lambda text: None,
    timing: Timing = Timing(),
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> Result:
    """Bring a job to its end: adopt the attempt that lives, or start the next, until it is over.

    A job that was refused, failed, paused or cancelled before stays so: `ask` for it to run first.

    Args:
        job: the job.
        launcher: where its next attempt runs; one that lives elsewhere is followed there.
        on_lines: gets the log, each line once, over all attempts and callers of `run_job`; those
            that a caller was given when it was killed may come again.
        on_poll: gets a line on how the job is, in each round.
        timing: how often it is looked at.
        sleep: waits for so many seconds.
        clock: gives seconds since 1970.
    """
    loop = _Loop(job, launcher, on_lines, on_poll, timing, clock)
    unreachable_since, wait = None, 0.0
    with follow_alone(job.place, on_poll, sleep):
        while True:
            try:
                result = loop.round()
                if isinstance(result, Result) and result.outcome in ("paused", "cancelled"):
                    end_elsewhere(job)
            except Unreachable as error:
                record = read_record(job.place)
                with contextlib.suppress(Unreachable):
                    if record is not None and is_finished(record, job.has_marker()):
                        return Result("done", "done")
                unreachable_since = unreachable_since or clock()
                since = time.strftime("%H:%M", time.localtime(unreachable_since))
                on_poll(f"not reachable since {since} ({error})")
                wait = min(max(2 * wait, loop.poll_secs), timing.longest_wait_secs)
            else:
                if isinstance(result, Result):
                    return result
                unreachable_since, wait = None, result
            sleep(wait)


def ask(
    job: Job, launcher: Launcher, intent: Intent, owner: str = "", started_by: str = ""
) -> None:
    """Write down that a job shall run, pause (saved, to go on later) or be cancelled.

    To ask for it to run gives it its budgets anew, also after it failed. A living attempt of a job
    that shall not run is asked to stop; `run_job` sees that it does.

    Raises:
        Unreachable: that a job shall not run is written down, but the attempt could not be asked.
    """
    if intent != "run":
        with edit_record(job.place, lambda before: own_record(job, launcher, before)) as record:
            record.intent, record.owner = intent, owner or record.owner
    with edit_record(job.place, lambda before: record_of(job, launcher, before)) as record:
        take_over(record)
        alive = record.alive
        record.intent, record.owner = intent, owner or record.owner
        if intent == "run":
            others = [one for one in record.wanted_by if one != record.owner]
            record.wanted_by = [*others, record.owner]
            record.started_by = record.started_by or started_by
            over = alive is None or _has_ended(record, alive)
            record.counted_after = len(record.attempts) - (0 if over else 1)
    if intent != "run":
        if alive is not None:
            _stop(record, time.time())
        # Now, since perhaps nobody follows the job, and again when its processes have ended.
        end_elsewhere(job)


@dataclasses.dataclass
class _Loop:
    job: Job
    wanted: Launcher
    on_lines: Callable[[list[str]], None]
    on_poll: Callable[[str], None]
    timing: Timing
    clock: Callable[[], float]

    @property
    def poll_secs(self) -> float:
        own = self.timing.poll_secs
        return self.wanted.poll_secs if own is None else own

    def round(self) -> Result | float:
        """Look at the job once, and act; the result, or the seconds to wait."""
        with edit_record(
            self.job.place, lambda before: record_of(self.job, self.wanted, before)
        ) as record:
            take_over(record)
        launcher, last = make_launcher(record.launcher), record.alive
        if last is not None:
            status = launcher.poll(self.job, last.number)
            self._pass_on_lines(launcher, last)
            if status.phase != "ended":
                return self._watch(launcher, record, status)
            self._judge(launcher, last, status)
        return self._decide()

    def _watch(self, launcher: Launcher, before: Record, status: Status) -> float:
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
        fault_point("launch.before_outcome")
        with edit_record(self.job.place) as record:
            one = record.attempts[last.number - 1]
            one.started, one.where = status.started or one.started, status.where or one.where
            one.ended = status.ended or self.clock()
            one.codes, one.reason = status.codes, status.reason
            one.outcome, one.message = outcome, message
            one.made = max(0, self.job.progress() - one.progress)
        fault_point("launch.after_outcome")

    def _decide(self) -> Result | float:
        """End, wait, or start the next attempt; the record stays locked until that is written."""
        with edit_record(self.job.place) as record:
            marker = self.job.has_marker()
            result = decide(record, marker)
            if result is not None:
                return result
            then = wait_secs(record, self.timing)
            wait = then - self.clock()
            if wait > 0:
                shown = time.strftime("%H:%M:%S", time.localtime(then))
                self.on_poll(f"{record.attempts[-1].message}; continues at {shown}")
                return min(wait, self.poll_secs)
            number = len(record.attempts) + 1
            attempt = Attempt(number, self.clock(), self.job.progress(), had_marker=marker)
            fault_point("launch.before_submit")
            make_launcher(record.launcher).submit(self.job, number)
            fault_point("launch.after_submit")
            record.attempts.append(attempt)
        fault_point("launch.after_record")
        return 0.0


def end_elsewhere(job: Job) -> None:
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


def goes_on(record: Record) -> bool:
    """Whether an attempt lives, or the next one is to come."""
    last = record.last
    return last is not None and last.outcome in (None, "resume")


def is_finished(record: Record, marker: bool) -> bool:
    """Whether a job is done.

    A marker that is older than the last attempt may be another job's: what the command made of it
    counts. A command that leaves no marker is started again when a person asks for it anew.

    Args:
        record: its record.
        marker: whether its output is marked as finished.
    """
    last = record.last
    if last is None:
        return False
    asked_anew = last.number <= record.counted_after
    if last.outcome == "done":
        return marker if record.job.marked else not asked_anew
    return marker and not last.had_marker and not asked_anew


def decide(record: Record, marker: bool) -> Result | None:
    """Say how a job without a living attempt ended, or None if it shall be started (again).

    Args:
        record: its record.
        marker: whether its output is marked as finished.
    """
    last = record.last
    if is_finished(record, marker):
        return Result("done", "done")
    if record.intent != "run":
        asked: dict[str, Result] = {
            "cancel": Result("cancelled", "cancelled"),
            "pause": Result("paused", "what is saved is not redone"),
        }
        return asked[record.intent]
    if last is None or last.number <= record.counted_after:
        return None
    if last.outcome in ("refused", "cancelled"):
        return Result(last.outcome, last.message)
    reason = exhausted(_counted(record))
    if reason is None:
        return None
    return Result("failed", last.message if reason == "failed" else f"{reason}: {last.message}")


def _counted(record: Record) -> list[tuple[Outcome, int]]:
    """Outcome and progress of the attempts that budgets count."""
    counted = record.attempts[record.counted_after :]
    return [(one.outcome, one.made) for one in counted if one.outcome is not None]


def wait_secs(record: Record, timing: Timing) -> float:
    """When the next attempt may start, in seconds since 1970."""
    last = record.last
    if last is None or last.ended is None or last.number <= record.counted_after:
        return 0.0
    if last.outcome == "done":
        return 0.0
    idle = stalled(_counted(record))
    return last.ended + min(
        timing.first_wait_secs * 2 ** max(0, idle - 1), timing.longest_wait_secs
    )


def _has_ended(record: Record, attempt: Attempt) -> bool:
    return make_launcher(record.launcher).poll(record.job, attempt.number).phase == "ended"


def _stop(record: Record, now: float) -> None:
    """Ask the living attempt to stop; kill it once it had its time."""
    alive = record.alive
    if alive is None:
        return
    alive.stopping = alive.stopping or now
    kill = now - alive.stopping > record.job.grace_secs
    make_launcher(record.launcher).stop(record.job, alive.number, kill=kill)
