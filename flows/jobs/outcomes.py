"""What the end of an attempt means, and whether another one follows. Pure functions."""

import re
from collections.abc import Sequence
from typing import Literal

from mswitch.pipelines.exit_codes import RESUME

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
#: The budgets of a job: how often it is started again after an interruption, counted from when a
#: person last asked for it to run, and how often in a row without progress (`Job.progress`). An
#: end that is the command's own fault has none.
PREEMPTIONS, STALLED = 100, 3
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


def exhausted(ends: Sequence[tuple[Outcome, int]]) -> str | None:
    """Say why no other attempt follows, if none does.

    Args:
        ends: outcome and progress of the attempts that count, in order.
    """
    if any(outcome == "failed" for outcome, _ in ends):
        return "failed"
    preemptions = sum(outcome == "resume" for outcome, _ in ends)
    if preemptions > PREEMPTIONS:
        return f"interrupted {preemptions} times, which is more than its budget"
    if stalled(ends) > STALLED:
        return f"started again {STALLED} times in a row without progress"
    return None


def stalled(ends: Sequence[tuple[Outcome, int]]) -> int:
    """How many of the last attempts in a row were interrupted without progress."""
    count = 0
    for outcome, made in reversed(ends):
        if outcome != "resume" or made > 0:
            break
        count += 1
    return count
