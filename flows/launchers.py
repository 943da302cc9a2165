"""Start trainers as processes of their own, follow them, and stop them with the flow.

Training never runs inside a flow: JAX and Prefect's threads do not mix, and a trainer must be
able to outlive a pause or die without taking the flow along. A launcher starts the same
`mswitch` command a person would type.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from models import lifeline
from pipelines.errors import UserError
from pipelines.progress import say

STOP_PATIENCE_SECS = 60.0


class LocalLauncher:
    """Runs commands on this machine, each in its own process group.

    Attributes:
        max_restarts: how often a command that was preempted or killed is started again; it
            continues from its last checkpoint.
    """

    def __init__(self, max_restarts: int = 2):
        self.max_restarts = max_restarts

    def run(self, argv: Sequence[str]) -> None:
        """Run `mswitch *argv` to its end.

        Raises:
            UserError: the command refused its input (its own message is on standard error).
            RuntimeError: it failed, or was killed more often than `max_restarts`.
        """
        for restarts_left in reversed(range(self.max_restarts + 1)):
            code = self._run_once(argv)
            if code == 0:
                return
            if code == 2:
                raise UserError(f"`mswitch {argv[0]}` could not start: see the line above")
            preempted = code == lifeline.EXIT_RESUME or code < 0
            if not preempted or not restarts_left:
                raise RuntimeError(f"`mswitch {' '.join(argv)}` ended with code {code}")
            say(argv[0], f"ended with code {code}; continuing from its last checkpoint")

    def _run_once(self, argv: Sequence[str]) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.main", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, lifeline.VARIABLE: "1"},
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            self._stop(process)
            raise

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        """Ask the process to save and stop; kill its group if it does not."""
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_PATIENCE_SECS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
