"""Ctrl-C ends a command at once, with one line and code 130.

Every stage survives a kill, so nothing is tidied up: threads of Beam's would keep waiting, and
each would have its own traceback.
"""

import os
import signal
import threading
from types import FrameType

from mswitch.pipelines.exit_codes import INTERRUPTED

_once = threading.Lock()


def leave_on_interrupt() -> None:
    """From now on leave on Ctrl-C, unless it is ignored, as in the background of a shell.

    Python runs handlers between two of its own instructions, and compiling a model is one: a
    thread that waits for the signal's number does not wait for that.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _leave)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="interrupts", daemon=True).start()
    # Semaphores that are left, multiprocessing's resource tracker removes without a word.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")


def _watch(reading: int) -> None:
    while True:
        numbers = os.read(reading, 64)
        # A training that has begun, or a supervisor, has its own handler.
        if signal.SIGINT in numbers and signal.getsignal(signal.SIGINT) is _leave:
            _leave()


def _leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    if _once.acquire(blocking=False):
        os.write(2, b"mswitch: interrupted; the same command continues\n")
        os._exit(INTERRUPTED)
