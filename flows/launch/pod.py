"""What runs in a pod of Kubernetes: the command of one process.

    python -m flows.launch.pod PREFIX COMMAND...

PREFIX is the path of the files of the attempt, on a volume: `.task<i>.log` gets what the command
says, as the pod's own log does, and `.task<i>` its exit code.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from flows.launch.host import run_command, write_code

TASK = ".task"


def main(prefix: str, command: list[str]) -> int:
    """Run the command; SIGTERM is passed on to it, once."""
    file = Path(f"{prefix}{TASK}{os.environ['JOB_COMPLETION_INDEX']}")
    if not file.parent.exists():
        print(f"mswitch: {file.parent} is not there: mount the volume of the output at its path")
        return 2
    file.unlink(missing_ok=True)  # a queue may have suspended the Job, and resumed it
    copy = subprocess.Popen(["tee", "-a", f"{file}.log"], stdin=subprocess.PIPE)
    with copy.stdin as pipe:  # type: ignore[union-attr]
        _say_into(pipe.fileno())
    code = run_command(command, keep=[])
    with open(os.devnull, "wb") as nothing:
        _say_into(nothing.fileno())
    with contextlib.suppress(subprocess.TimeoutExpired):  # what the command left running may speak
        copy.wait(5)
    write_code(file, code)
    return code


def _say_into(file: int) -> None:
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
