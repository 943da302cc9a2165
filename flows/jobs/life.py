"""One life of a job: its state, what the end of an attempt means, and what follows. Pure functions.

docs/explain/architecture.md has a picture of it.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mswitch.flows.jobs.job import Status
from mswitch.flows.jobs.record import Attempt, Outcome, Record
from mswitch.pipelines.exit_codes import RESUME

#: States in which nothing more happens until somebody asks for it.
FINAL = ("done", "refused", "failed", "paused", "cancelled")
#: Ends that are not the command's: words of Slurm, Kubernetes and Cloud TPU.
INTERRUPTED = re.compile(
    r"PREEMPTED|NODE_FAIL|BOOT_FAIL|TIMEOUT|DEADLINE|REVOKED|SUSPENDED|DisruptionTarget|Preempted"
    r"|Evicted|NodeLost|Shutdown"
)
OUT_OF_MEMORY = re.compile(r"OUT_OF_MEMORY|OOMKilled")
CANCELLED = re.compile(r"CANCELLED")
#: The budgets of a job: how often it is started again after an interruption, counted from when
#: somebody last asked for it to run, and how often in a row without progress (`Job.progress`). An
#: end that is the command's own fault has none.
PREEMPTIONS, STALLED = 100, 3
MEMORY_ADVICE = (
    "out of memory: ask the scheduler for more, or give --microbatches, --remat layers or "
    "--loss-chunks (`mswitch plan` says what fits)"
)


class State(NamedTuple):
    """State of a job.

    Attributes:
        name: one of `FINAL`; `pending` or `running`: an attempt lives; `ended`: it does not, and
            nobody has judged it; `waiting`: the job is to be started (again); `unreachable`: the
            scheduler or the bucket does not answer.
        message: why, or where it runs.
    """

    name: Literal[
        "waiting", "pending", "running", "ended", "unreachable",
        "done", "refused", "failed", "paused", "cancelled",
    ]  # fmt: skip
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds between the rounds of whoever follows a job.

    Attributes:
        poll_secs: while a job lives; None leaves it to the launcher.
        first_wait_secs: before a command is started again; twice as long after each attempt in a
            row without progress.
        longest_wait_secs: at most, and between attempts to reach a scheduler that does not answer.
    """

    poll_secs: float | None = None
    first_wait_secs: float = 10.0
    longest_wait_secs: float = 600.0


def classify(codes: Sequence[int], reason: str, marker: bool | None) -> tuple[Outcome, str]:
    """Say what the end of an attempt amounts to, in a word and in a line. The first rule decides.

    Args:
        codes: exit codes of the processes that left one; 128 + n for signal n.
        reason: the scheduler's words.
        marker: whether the output has its marker; None for a command that leaves none.
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
        (True, "failed", "ended with code 0 and left no _COMPLETED"),
    ]
    return next((outcome, line) for applies, outcome, line in table if applies)


def state_of(record: Record, status: Status | None, marker: bool | None) -> State:
    """Return the state of a job.

    Args:
        record: its record.
        status: of the attempt that is not judged yet, if there is one; None if that is unknown.
        marker: whether the output is marked as finished; None if that is unknown.
    """
    where = " ".join(part for part in (status.where, status.reason) if part) if status else ""
    if record.alive is not None and status is not None and status.phase != "ended":
        return State(status.phase, where)
    if _is_done(record, marker):
        return State("done", "done")
    if record.alive is not None:
        return State("unreachable" if status is None else "ended", where)
    return State("unreachable") if marker is None else _judged_state(record)


def _is_done(record: Record, marker: bool | None) -> bool:
    """Return whether a job is done.

    A marker that is older than the last attempt may be another job's: what the command made of it
    counts. A command that leaves no marker is started again if somebody asks for it anew.
    """
    last = record.last
    if last is None:
        return False
    asked_anew = last.number <= record.counted_after
    if last.outcome == "done":
        return bool(marker) if record.job.marked else not asked_anew
    return bool(marker) and not last.had_marker and not asked_anew


def _judged_state(record: Record) -> State:
    """Return the state of a job that is not done and has no attempt to judge."""
    last, counted = record.last, counted_attempts(record)
    if record.intent == "cancel":
        return State("cancelled", "cancelled")
    if record.intent == "pause":
        return State("paused", "what is saved is not redone")
    if last is None or not counted:
        return State("waiting")
    if last.outcome in ("refused", "cancelled"):
        return State(last.outcome, last.message)
    reasons, preemptions = [], sum(attempt.outcome == "resume" for attempt in counted)
    if preemptions > PREEMPTIONS:
        reasons = [f"interrupted {preemptions} times, which is more than its budget"]
    elif count_stalled(record) > STALLED:
        reasons = [f"started again {STALLED} times in a row without progress"]
    failed = reasons or any(attempt.outcome == "failed" for attempt in counted)
    return State("failed" if failed else "waiting", ": ".join([*reasons, last.message]))


def counted_attempts(record: Record) -> list[Attempt]:
    """Return the attempts that budgets count."""
    return record.attempts[record.counted_after :]


def count_stalled(record: Record) -> int:
    """Count the last attempts in a row that were interrupted without progress."""
    count = 0
    for attempt in reversed(counted_attempts(record)):
        if attempt.outcome != "resume" or attempt.made > 0:
            break
        count += 1
    return count


def next_start(record: Record, timing: Timing) -> float:
    """Return when the next attempt may start, in seconds since 1970."""
    last = record.last
    if last is None or last.ended is None or not counted_attempts(record) or last.outcome == "done":
        return 0.0
    doubled = timing.first_wait_secs * 2 ** max(0, count_stalled(record) - 1)
    return last.ended + min(doubled, timing.longest_wait_secs)
