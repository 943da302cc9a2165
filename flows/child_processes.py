"""`mswitch` in child processes: a command that supervises itself, and trainers that a flow starts.

- `supervise` runs a command in a child and leaves nothing of it behind. It never restarts it.
- `run_with_restarts` runs a trainer or an evaluation for a flow, and starts one that was preempted
  again: it continues from its last checkpoint. Training is never inside a flow's own process: JAX
  and Prefect's threads do not mix, and a trainer that dies must not take the flow along.

Every process started here leads its own process group, which is killed after it. It also holds a
lifeline (`mswitch.models.lifeline`): when its parent is killed with SIGKILL and cannot clean up, it
notices and kills its group itself. What a trainer does on SIGTERM is in
`mswitch.models.training.signals`, and what Ctrl-C does to every other command in
`mswitch.flows.cli.interrupts`.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from mswitch.models import lifeline
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME, USER_ERROR
from mswitch.pipelines.progress import say

SUPERVISED = "MSWITCH_SUPERVISED"
STOP_PATIENCE_SECS = 60.0


def is_supervised(command: str) -> bool:
    """Whether this process is the supervised child of `command` rather than the supervisor."""
    return os.environ.get(SUPERVISED) == command


def supervise(argv: Sequence[str]) -> int:
    """Run `mswitch *argv` in a supervised child and return its exit code (128 + n for signal n).

    SIGINT and SIGTERM are forwarded. However the child ends, the rest of its group is killed, such
    as Prefect's ephemeral API server.
    """
    child = _start(argv, {SUPERVISED: argv[0]})

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
    finally:
        _kill_group(child)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def supervise_in_job(argv: Sequence[str]) -> int:
    """`supervise` a process of a job; an abort or SIGTERM gets the code that means: start again.

    When another process of the job is lost, JAX's coordination service aborts this one on the spot,
    so that only a supervisor can say what happened.
    """
    code = supervise(argv)
    reasons = {
        128 + signal.SIGABRT: "another process of the job was lost, or does not answer (see above)",
        # Of a training: until the job has begun, and on the second one.
        128 + signal.SIGTERM: "ended by SIGTERM at once",
    }
    if code not in reasons:
        return code
    say(argv[0], f"{reasons[code]}: start the same commands again, and what is saved is not redone")
    return RESUME


def run_with_restarts(argv: Sequence[str], max_restarts: int = 2) -> None:
    """Run `mswitch *argv` to its end, with its progress on standard error.

    It ends with this process; `mswitch.flows.jobs.doors.follow` is for jobs that outlive
    it.

    Args:
        argv: a subcommand and its options.
        max_restarts: how often a command that was preempted or killed is started again.

    Raises:
        RuntimeError: it failed, or was killed more often than `max_restarts`.
    """
    for restarts_left in reversed(range(max_restarts + 1)):
        code = _run_once(argv)
        if code == 0:
            return
        if code == USER_ERROR:
            raise UserError(f"`mswitch {argv[0]}` cannot go on: see the line above")
        end = f"was killed (signal {-code})" if code < 0 else f"ended with code {code}"
        preempted = code == RESUME or code < 0
        if not preempted or not restarts_left:
            raise RuntimeError(f"`mswitch {' '.join(argv)}` {end}")
        say(argv[0], f"{end}; continuing from its last checkpoint")


def _run_once(argv: Sequence[str]) -> int:
    """Run a command; when this process is interrupted, ask it to save and stop.

    Only then does Ctrl-C end this process at once, as before (`mswitch.flows.cli.interrupts`).
    """
    process = _start(argv, {}, stdout=subprocess.DEVNULL)
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return process.wait()
    except BaseException as error:
        signal.signal(signal.SIGINT, before)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_PATIENCE_SECS)
        _kill_group(process)
        process.wait()
        if isinstance(error, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _start(
    argv: Sequence[str], environment: Mapping[str, str], stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `mswitch *argv` in a new process group, with a lifeline to this process."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mswitch.flows.cli.main", *argv],
        stdin=subprocess.PIPE,
        env={**os.environ, **environment, lifeline.VARIABLE: "1"},
        stdout=stdout,
        start_new_session=True,
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
