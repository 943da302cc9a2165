"""SIGTERM and Ctrl-C: before the first step there is nothing to save; from then on a step is.

No JAX is imported to listen, so that a command can while it imports what it needs.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from models.lifeline import EXIT_RESUME
from pipelines.progress import say

#: What ends the thread that waits for signals' numbers: no signal has it.
_END = b"\0"


class StopRequest:
    """Whether to save and stop: after a signal here, or in any process of the job."""

    def __init__(self) -> None:
        self._signalled = threading.Event()
        self._begun = False
        self._alone = True
        self._leaving = threading.Lock()
        self._previous: dict[int, Any] = {}

    def begin(self) -> None:
        """From now on save after a step: turn the first signal into a request.

        A second one acts as usual. In a job SIGTERM is JAX's: its preemption service agrees with
        the other processes on a step.
        """
        import jax

        if self._begun:
            return
        with self._leaving:
            self._begun = True
        if _in_main_thread():
            self._alone = jax.process_count() == 1
            for number in (signal.SIGTERM, signal.SIGINT) if self._alone else (signal.SIGINT,):
                self._handle(number, self._stop)
        if self._signalled.is_set():
            _leave()

    def due(self, step: int) -> bool:
        """Whether to stop after `step`, asked after each; the same in all processes."""
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() == 1:
            return self._signalled.is_set()
        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, handler: Any) -> None:
        self._previous.setdefault(number, signal.getsignal(number))
        signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        say("train", f"{signal.Signals(number).name}: saving after this step")
        self.restore()
        if self._alone:
            self._signalled.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def restore(self) -> None:
        """Let signals act as before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def leave_early(self) -> Iterator[None]:
        """Until `begin`, end the process with code 75 on SIGTERM, whatever it is doing.

        Python runs handlers between two of its own instructions, and compiling a large model is
        one of many minutes: a thread that waits for the signal's number does not wait for that.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._handle(signal.SIGTERM, lambda *_: self._signalled.set())
        thread = threading.Thread(target=self._watch, args=(reading,), name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.write(writing, _END)
            thread.join()
            os.close(writing)
            os.close(reading)

    def _watch(self, reading: int) -> None:
        numbers = b""
        while _END not in numbers:
            numbers = os.read(reading, 64)
            with self._leaving:
                if signal.SIGTERM in numbers and not self._begun:
                    _leave()


def _leave() -> None:
    """End as after a kill, which a run survives at any moment, but with the code that says so."""
    say("train", "SIGTERM before the first step: nothing to save; the same command starts again")
    sys.stdout.flush()
    os._exit(EXIT_RESUME)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def stop_requests(*, alone: bool) -> Iterator[StopRequest]:
    """Listen to signals, from before a training is prepared to its end.

    Args:
        alone: whether no other process trains with this one; else SIGTERM is JAX's from the start.
    """
    request = StopRequest()
    if not _in_main_thread():
        yield request
        return
    try:
        with request.leave_early() if alone else contextlib.nullcontext():
            yield request
    finally:
        request.restore()
