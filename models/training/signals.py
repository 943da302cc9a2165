"""SIGTERM and Ctrl-C while a model trains: save after the step, then stop.

`loop.run_training` saves, and the command ends with code 75.
"""

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

    Before this, and after it, a signal ends the process as it ends any other: there is nothing to
    save that the last checkpoint does not hold.

    Yields:
        `due(step)`: whether to save and stop after `step`. Ask after each step. In a job the answer
        is the same in all processes: JAX's preemption service, which has SIGTERM there, agrees on
        the step.
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
