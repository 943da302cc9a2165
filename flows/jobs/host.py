"""The host process: run the command of an attempt on this machine, and write its exit code.

    python -m mswitch.flows.jobs.host LOCK_FD CODES_FILE COMMAND...

It leads the process group of the attempt. The command dies with it (`mswitch.models.lifeline`);
processes that the command left running die with both.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mswitch.flows.jobs.reserve import write_reserved
from mswitch.models import lifeline


def main(lock: int, codes_file: Path, command: list[str]) -> None:
    """Run `command` to its end; pass on the first SIGTERM."""
    if os.environ.get(lifeline.VARIABLE):
        lifeline.exit_with_parent()
    started = time.time()
    about = {"pid": os.getpid(), "node": os.uname().nodename, "started": started}
    os.write(lock, json.dumps(about).encode())
    try:
        code = run_command(command, keep=[lock])
        write_reserved(codes_file, json.dumps({"codes": [code], "ended": time.time()}) + "\n")
    except Exception:
        traceback.print_exc()  # write the error to the log before the kill below
    os.killpg(0, signal.SIGKILL)


def run_command(command: list[str], keep: list[int], stop_signal: int = signal.SIGTERM) -> int:
    """Run a command that dies with this process; return its exit code, 128 + n for signal n.

    The command inherits the file descriptors `keep`. When this process gets `stop_signal`, it sends
    SIGTERM to the command.
    """
    asked, unsent = [], [signal.SIGTERM]
    process: subprocess.Popen[bytes] | None = None

    def pass_on(*_: object) -> None:
        asked.append(True)
        # A second SIGTERM would end a training that is saving.
        if process is not None and unsent:
            process.send_signal(unsent.pop())

    # If `stop_signal` is another signal, Slurm sends SIGTERM to the command too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(stop_signal, pass_on)
    environment = {**os.environ, lifeline.VARIABLE: "group"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=keep)
    if asked:
        pass_on()
    code = process.wait()
    return code if code >= 0 else 128 - code


def write_code(file: Path, code: int) -> None:
    """Write the exit code of one process of a job, for followers on other machines."""
    write_reserved(file, json.dumps({"code": code, "ended": time.time()}) + "\n")


def read_code(file: Path) -> dict[str, Any]:
    """Read a process's exit code (`code`) and end time (`ended`) from its file."""
    return json.loads(file.read_bytes())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
