"""Handle SIGTERM and Ctrl-C during training: save after the step, then stop.

`loop.run_training` saves, and the command ends with code 75.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from mswitch.pipelines.progress import say


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Turn the first SIGTERM or Ctrl-C into a request to stop; a second one acts as usual.

    Outside this context a signal ends the process as usual: the last checkpoint holds everything.

    Yields:
        `due(step)`: returns whether to save and stop after `step`. Call it after each step. In a
        job all processes get the same answer: JAX's preemption service handles SIGTERM there, and
        agrees on the step.
    """
    alone = jax.process_count() == 1
    requested = threading.Event()
    previous = {}
    wakeup_fd = -1

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            signal.set_wakeup_fd(wakeup_fd)

    def request(number: int, _frame: FrameType | None) -> None:
        say("train", f"{signal.Signals(number).name}: saving after this step")
        restore()
        requested.set()
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)

    def due(step: int) -> bool:
        return requested.is_set() if alone else multihost_utils.reached_preemption_sync_point(step)

    if threading.current_thread() is threading.main_thread():
        # A request to stop must not wake the code that ends the process
        # (`mswitch.flows.cli.interrupts`).
        wakeup_fd = signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,):
            previous[number] = signal.signal(number, request)
    try:
        yield due
    finally:
        restore()
