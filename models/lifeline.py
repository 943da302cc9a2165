"""A process that dies with the one that started it, so that a killed flow leaves no orphan.

The parent keeps the write end of a pipe on this process's standard input and never writes. When
the parent is gone, however it went, the kernel closes the pipe.
"""

import os
import signal
import threading

#: Set by whoever starts a process that is to call `exit_with_parent`: to 1, or to `group` where its
#: process group holds nothing else than the two and what they start.
VARIABLE = "MSWITCH_LIFELINE"


def exit_with_parent() -> None:
    """Watch standard input in a daemon thread; at its end, kill this process.

    If the process leads its process group, or the variable says `group`, the whole group is killed.
    """
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid() or os.environ.get(VARIABLE) == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
