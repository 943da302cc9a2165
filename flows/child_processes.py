"""Run a command in a supervised child process, and leave no process of it behind.

The child leads its own process group, which is killed after it. It also holds a lifeline
(`mswitch.models.lifeline`): if its parent is killed with SIGKILL and cannot clean up, it notices
and kills its group itself.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from mswitch.models import lifeline
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.progress import say

SUPERVISED = "MSWITCH_SUPERVISED"


def is_supervised(command: str) -> bool:
    """Return whether this process is the supervised child of `command`, not the supervisor."""
    return os.environ.get(SUPERVISED) == command


def supervise(argv: Sequence[str]) -> int:
    """Run `mswitch *argv` in a supervised child and return its exit code (128 + n for signal n).

    SIGINT and SIGTERM are forwarded. After any end of the child, the rest of its group is killed,
    such as a Prefect server.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "mswitch.flows.cli.main", *argv],
        stdin=subprocess.PIPE,
        env={**os.environ, SUPERVISED: argv[0], lifeline.VARIABLE: "1"},
        start_new_session=True,
    )

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def supervise_in_job(argv: Sequence[str]) -> int:
    """Supervise a process of a job; turn an abort or SIGTERM into the code for "start again".

    If another process of the job is lost, JAX's coordination service aborts this one at once, so
    only a supervisor can say what happened.
    """
    code = supervise(argv)
    reasons = {
        128 + signal.SIGABRT: "another process of the job was lost, or does not answer (see above)",
        # A training ends at once on a SIGTERM before it has begun, and on a second SIGTERM.
        128 + signal.SIGTERM: "ended by SIGTERM at once",
    }
    if code not in reasons:
        return code
    say(argv[0], f"{reasons[code]}: start the same commands again; saved work is kept")
    return RESUME
