"""End a process with its parent, so that a killed flow leaves no orphan.

The parent holds the write end of a pipe to this process's standard input and never writes. When the
parent ends, for any reason, the kernel closes the pipe.
"""

import os
import signal
import threading

#: Environment variable by which a parent asks its child to call `exit_with_parent`. Its value is
#: `group` if the parent's process group has only the parent and its descendants, otherwise `1`.
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
