"""End a command at once on Ctrl-C, with one line and code 130.

Nothing is cleaned up, because every stage survives a kill. Threads of Beam would keep waiting, and
each would print a traceback.
"""

import os
import signal
import threading
from types import FrameType

from mswitch.pipelines.exit_codes import INTERRUPTED

_once = threading.Lock()


def end_on_interrupt() -> None:
    """End this process on Ctrl-C from now on, unless it ignores SIGINT, as a background job does.

    Python runs a handler only between two of its instructions, and compiling a model is one of
    them. So a thread waits for the signal's number.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _end)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="interrupts", daemon=True).start()
    # The resource tracker removes remaining semaphores. It must not warn of them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")


def _watch(reading: int) -> None:
    while True:
        numbers = os.read(reading, 64)
        # Trainings and supervisors replace SIGINT's handler by their own.
        if signal.SIGINT in numbers and signal.getsignal(signal.SIGINT) is _end:
            _end()


def _end(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    if _once.acquire(blocking=False):
        os.write(2, b"mswitch: interrupted; the same command continues\n")
        os._exit(INTERRUPTED)
