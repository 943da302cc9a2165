"""Run on Slurm's nodes: the batch step starts the tasks, and a task runs the command.

    python -m mswitch.flows.jobs.slurm_step batch|task PREFIX COMMAND...

The paths of the attempt's files begin with PREFIX. `.claim` names the Slurm job that runs it.
`.stop` asks it to save and end. `.task<i>` has the exit code of a process, because srun returns
only the largest.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mswitch.flows.jobs.host import run_command, write_code
from mswitch.pipelines.exit_codes import RESUME

CLAIM, STOP, TASK = ".claim", ".stop", ".task"
_LOOK_SECS = 0.5


def run_batch(prefix: str, command: list[str]) -> int:
    """Start the tasks, unless another Slurm job runs this attempt.

    SIGTERM, which Slurm sends before the time limit, asks the tasks to stop.
    """
    mine = os.environ["SLURM_JOB_ID"]
    try:
        with open(prefix + CLAIM, "x") as claim:
            claim.write(mine)
    except FileExistsError:
        return 0
    stop = Path(prefix + STOP)
    signal.signal(signal.SIGTERM, lambda *_: stop.touch())
    if stop.exists():
        return RESUME
    step = [sys.executable, "-P", "-m", "mswitch.flows.jobs.slurm_step", "task", prefix, *command]
    # Slurm must not end the other tasks after one failed. Each saves a checkpoint, or notices by
    # itself that a process is lost.
    srun = ["srun", "--quiet", "--input=none", "--kill-on-bad-exit=0", "--wait=0", *step]
    return subprocess.call(srun)


def run_task(prefix: str, command: list[str]) -> int:
    """Run the command of one process and write its exit code."""
    file = Path(f"{prefix}{TASK}{os.environ['SLURM_PROCID']}")

    def look() -> None:
        while not os.path.exists(prefix + STOP):
            time.sleep(_LOOK_SECS)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=look, daemon=True).start()
    code = run_command(command, keep=[], stop_signal=signal.SIGUSR1)
    write_code(file, code)
    return code


if __name__ == "__main__":
    role = {"batch": run_batch, "task": run_task}[sys.argv[1]]
    sys.exit(role(sys.argv[2], sys.argv[3:]))
