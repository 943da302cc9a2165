"""What the end of an attempt means, and whether another one follows. Pure functions."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from models.lifeline import EXIT_RESUME

#: `done` and `resume` (start the command again) speak for themselves. `refused`: the command says
#: that its input is wrong. `cancelled`: by a person, in the scheduler. `failed`: anything else.
Outcome = Literal["done", "resume", "refused", "cancelled", "failed"]

#: Ends that are not the command's: words of Slurm, Kubernetes and Cloud TPU.
INTERRUPTED = re.compile(
    r"PREEMPTED|NODE_FAIL|BOOT_FAIL|TIMEOUT|DEADLINE|REVOKED|SUSPENDED|DisruptionTarget|Preempted"
    r"|Evicted|NodeLost|Shutdown"
)
OUT_OF_MEMORY = re.compile(r"OUT_OF_MEMORY|OOMKilled")
CANCELLED = re.compile(r"CANCELLED")
MEMORY_ADVICE = (
    "out of memory: ask the scheduler for more, or give --microbatches, --remat layers or "
    "--loss-chunks (`mswitch plan` says what fits)"
)


def classify(codes: Sequence[int], reason: str, marker: bool | None) -> tuple[Outcome, str]:
    """Say what the end of an attempt amounts to, in a word and in a line. The first rule decides.

    Args:
        codes: exit codes of the processes that left one; 128 + n for signal n.
        reason: the scheduler's words.
        marker: whether the output has its marker; None for a command that leaves none.
    """
    shown = ", ".join(str(code) for code in codes)
    failures = [code for code in codes if code and code != EXIT_RESUME and code < 128]
    table: list[tuple[object, Outcome, str]] = [
        (marker, "done", "done"),
        (2 in codes, "refused", "refused its input (code 2)"),
        (OUT_OF_MEMORY.search(reason), "failed", f"{MEMORY_ADVICE} ({reason})"),
        (CANCELLED.search(reason), "cancelled", f"cancelled in the scheduler ({reason})"),
        (INTERRUPTED.search(reason), "resume", f"interrupted ({reason})"),
        (not codes, "resume", f"lost with its machine {f'({reason})' if reason else ''}".strip()),
        (failures, "failed", f"failed with code {shown}"),
        (any(codes), "resume", f"interrupted with code {shown}"),
        (marker is None, "done", "done"),
        (True, "failed", "ended with code 0 and left no _COMPLETED"),
    ]
    return next((outcome, line) for applies, outcome, line in table if applies)


@dataclasses.dataclass(frozen=True)
class Budgets:
    """How often a job is started again; counted from when a person last asked for it to run.

    Attributes:
        failures: after an end that is the command's own fault.
        preemptions: after an interruption.
        stalled: in a row without progress (`Job.progress`).
    """

    failures: int = 0
    preemptions: int = 100
    stalled: int = 3


def exhausted(ends: Sequence[tuple[Outcome, int]], budgets: Budgets) -> str | None:
    """Say which budget does not allow another attempt, if one does not.

    Args:
        ends: outcome and progress of the attempts that count, in order.
        budgets: the limits.
    """
    failures = sum(outcome == "failed" for outcome, _ in ends)
    if failures > budgets.failures:
        return "failed" if not budgets.failures else f"failed {failures} times"
    preemptions = sum(outcome == "resume" for outcome, _ in ends)
    if preemptions > budgets.preemptions:
        return f"interrupted {preemptions} times, which is more than its budget"
    if stalled(ends) > budgets.stalled:
        return f"started again {budgets.stalled} times in a row without progress"
    return None


def stalled(ends: Sequence[tuple[Outcome, int]]) -> int:
    """How many of the last attempts in a row were interrupted without progress."""
    count = 0
    for outcome, made in reversed(ends):
        if outcome != "resume" or made > 0:
            break
        count += 1
    return count
