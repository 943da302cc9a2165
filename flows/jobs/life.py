"""Decide the state of a job, the outcome of an attempt, and the next action. Pure functions.

docs/explain/architecture.md has a picture of the states.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mswitch.flows.jobs.job import Status
from mswitch.flows.jobs.record import Attempt, Outcome, Record
from mswitch.pipelines.exit_codes import RESUME

#: States in which nothing more happens until somebody requests it.
FINAL = ("done", "refused", "failed", "paused", "cancelled")
#: Words of Slurm, Kubernetes and Cloud TPU for an interruption from outside the command.
INTERRUPTED = re.compile(
    r"PREEMPTED|NODE_FAIL|BOOT_FAIL|TIMEOUT|DEADLINE|REVOKED|SUSPENDED|DisruptionTarget|Preempted"
    r"|Evicted|NodeLost|Shutdown"
)
OUT_OF_MEMORY = re.compile(r"OUT_OF_MEMORY|OOMKilled")
CANCELLED = re.compile(r"CANCELLED")
#: PREEMPTIONS: limit of restarts after interruptions, since somebody last requested the job.
#: STALLED: limit of restarts in a row without progress (`Job.progress`).
PREEMPTIONS, STALLED = 100, 3
MEMORY_ADVICE = (
    "out of memory: request more from the scheduler, or give --microbatches, --remat layers or "
    "--loss-chunks (`mswitch plan` says what fits)"
)


class State(NamedTuple):
    """State of a job.

    Attributes:
        name: one of `FINAL`; `pending` or `running`: an attempt lives; `ended`: the attempt ended,
            and its outcome is not decided yet; `waiting`: the job will be started (again);
            `unreachable`: the scheduler or the bucket does not answer.
        message: the reason of the state, or the place where the job runs.
    """

    name: Literal[
        "waiting", "pending", "running", "ended", "unreachable",
        "done", "refused", "failed", "paused", "cancelled",
    ]  # fmt: skip
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Waiting times, in seconds, of a process that polls and restarts a job.

    Attributes:
        poll_secs: between polls of a living attempt; None: `Launcher.poll_secs`.
        first_wait_secs: before a command is started again; doubled for each further attempt in a
            row without progress, at most `STALLED` - 1 times.
        longest_wait_secs: upper bound of the time between calls of a scheduler that does not
            answer.
    """

    poll_secs: float | None = None
    first_wait_secs: float = 10.0
    longest_wait_secs: float = 600.0


def classify(codes: Sequence[int], reason: str, marker: bool | None) -> tuple[Outcome, str]:
    """Return an attempt's outcome, by the first rule that applies, and a line that explains it.

    Args:
        codes: exit codes of the processes that wrote one; 128 + n for signal n.
        reason: the scheduler's words.
        marker: whether the output has its marker; None for a command that writes none.
    """
    signals = bool(codes) and all(code > 128 for code in codes if code)
    ends = [f"signal {code - 128}" if code > 128 else f"code {code}" for code in codes if code]
    shown = ", ".join(dict.fromkeys(ends))
    failures = [code for code in codes if code and code != RESUME and code < 128]
    table: list[tuple[object, Outcome, str]] = [
        (marker, "done", "done"),
        (2 in codes, "refused", "refused its input (code 2)"),
        (OUT_OF_MEMORY.search(reason), "failed", f"{MEMORY_ADVICE} ({reason})"),
        (CANCELLED.search(reason), "cancelled", f"cancelled in the scheduler ({reason})"),
        (INTERRUPTED.search(reason), "resume", f"interrupted ({reason})"),
        (not codes, "resume", f"lost with its machine {f'({reason})' if reason else ''}".strip()),
        (failures, "failed", f"failed ({shown})"),
        (any(codes), "resume", f"{'killed' if signals else 'interrupted'} ({shown})"),
        (marker is None, "done", "done"),
        (True, "failed", "ended with code 0 but wrote no _COMPLETED"),
    ]
    return next((outcome, line) for applies, outcome, line in table if applies)


def decide_state(record: Record, status: Status | None, marker: bool | None) -> State:
    """Return the state of a job.

    `status` is that of the attempt without an outcome, if there is one. `marker` says whether the
    output is marked as finished. Each is None if it is unknown.
    """
    where = " ".join(part for part in (status.where, status.reason) if part) if status else ""
    if record.alive is not None and status is not None and status.phase != "ended":
        return State(status.phase, where)
    if _is_done(record, marker):
        return State("done", "done")
    if record.alive is not None:
        return State("unreachable" if status is None else "ended", where)
    return State("unreachable") if marker is None else _decide_judged_state(record)


def _is_done(record: Record, marker: bool | None) -> bool:
    """Return whether a job is done.

    A marker that is older than the last attempt may be another job's: the attempt's outcome
    decides. A command that writes no marker is started again if somebody requests it again.
    """
    last = record.last
    if last is None:
        return False
    asked_anew = last.number <= record.counted_after
    if last.outcome == "done":
        return bool(marker) if record.job.marked else not asked_anew
    return bool(marker) and not last.had_marker and not asked_anew


def _decide_judged_state(record: Record) -> State:
    """Return the state of a job that is not done, and whose attempts all have an outcome."""
    last, counted = record.last, list_counted_attempts(record)
    if record.intent == "cancel":
        return State("cancelled", "cancelled")
    if record.intent == "pause":
        return State("paused", "saved work is kept")
    if last is None or not counted:
        return State("waiting")
    if last.outcome in ("refused", "cancelled"):
        return State(last.outcome, last.message)
    reasons, preemptions = [], sum(attempt.outcome == "resume" for attempt in counted)
    if preemptions > PREEMPTIONS:
        reasons = [f"interrupted {preemptions} times, more than its budget"]
    elif count_stalled(record) > STALLED:
        reasons = [f"started again {STALLED} times in a row without progress"]
    failed = reasons or any(attempt.outcome == "failed" for attempt in counted)
    return State("failed" if failed else "waiting", ": ".join([*reasons, last.message]))


def list_counted_attempts(record: Record) -> list[Attempt]:
    """Return the attempts that count towards the budgets of restarts."""
    return record.attempts[record.counted_after :]


def count_stalled(record: Record) -> int:
    """Count the most recent consecutive attempts that were interrupted without progress."""
    count = 0
    for attempt in reversed(list_counted_attempts(record)):
        if attempt.outcome != "resume" or attempt.made > 0:
            break
        count += 1
    return count


def compute_next_start(record: Record, timing: Timing) -> float:
    """Return when the next attempt may start, in seconds since 1970."""
    last = record.last
    if (
        last is None
        or last.ended is None
        or not list_counted_attempts(record)
        or last.outcome == "done"
    ):
        return 0.0
    return last.ended + timing.first_wait_secs * 2 ** max(0, count_stalled(record) - 1)
