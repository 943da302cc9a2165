"""Handle SIGTERM and Ctrl-C during training: save after the step, then stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from mswitch.pipelines.progress import say
from mswitch.pipelines.stop_signals import first_signal


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

    def request(number: int) -> None:
        say("train", f"{signal.Signals(number).name}: saving after this step")
        requested.set()
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)

    def due(step: int) -> bool:
        return requested.is_set() if alone else multihost_utils.reached_preemption_sync_point(step)

    with first_signal((signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,), request):
        yield due
