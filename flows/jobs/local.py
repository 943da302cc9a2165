"""Run jobs as processes of this machine, which outlive the terminal, worker or flow.

Each attempt has a host process (`mswitch.flows.jobs.host`) that leads a session and process
group, and writes into the log. Submitter, host and command share one open lock file: the attempt
is alive as long as the lock is held. A process id is used only during that time, so it cannot be
another process's.

Under systemd a worker that starts such jobs needs `KillMode=process`.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mswitch.flows.jobs.job import Job, Status, read_log
from mswitch.flows.jobs.places import take_place
from mswitch.models import lifeline
from mswitch.pipelines.directory_lock import is_held, take_lock
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point

#: Maximum wait for a lock while `is_held` checks it. Only a running attempt holds a lock longer.
_LOOK_SECS = 1.0


@dataclasses.dataclass(frozen=True)
class Local:
    """Launcher that runs a job as one process on this machine; see `flows.jobs.job.Launcher`.

    Attributes:
        trainings: number of trainings at a time on this machine. This and `tied` are not in the
            profile: the process that starts an attempt chooses them.
        tied: whether an attempt ends with this process. If so, it takes no place, and its log lacks
            its standard output.
    """

    poll_secs = 1.0
    trainings: int = 1
    tied: bool = False

    @property
    def profile(self) -> dict[str, Any]:
        """Name of the launcher."""
        return {"launcher": "local"}

    def check(self, job: Job) -> None:
        """Refuse a job of several hosts."""
        if job.hosts > 1:
            raise UserError(
                f"--hosts {job.hosts}: the launcher local has only this machine; give --launcher "
                "slurm"
            )

    def submit(self, job: Job, attempt: int) -> None:
        """Start the host process, unless it lives or has ended."""
        self.check(job)
        with _lock(job.file(attempt, ".lock")) as lock:
            if lock is None or job.file(attempt, ".json").exists():
                return
            fault_point("launch.before_host")
            if not self.tied:
                take_place(job, Path(lock.name), self.trainings)
            lock.truncate(0)
            with open(job.file(attempt, ".log"), "ab") as log:
                host = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "mswitch.flows.jobs.host"),
                        *(str(lock.fileno()), str(job.file(attempt, ".json"))),
                        *(*job.program, *job.argv),
                    ],
                    cwd=job.cwd,
                    env={**os.environ, lifeline.VARIABLE: "1" if self.tied else ""},
                    stdin=subprocess.PIPE if self.tied else subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if self.tied else log,
                    stderr=log,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                )
        # Wait, so that the kernel keeps no zombie. The thread's reference to `host` also keeps the
        # lifeline's pipe open.
        threading.Thread(target=host.wait, daemon=True).start()

    def find(self, job: Job) -> Sequence[int]:
        """List the attempts that have or had a host process."""
        numbers = [job.parse_attempt(path.stem) for path in job.directory.glob("mswitch-*.lock")]
        return sorted(n for n in numbers if n is not None and self._was_started(job, n))

    def _was_started(self, job: Job, attempt: int) -> bool:
        return is_held(job.file(attempt, ".lock")) or bool(_read_host(job, attempt))

    def poll(self, job: Job, attempt: int) -> Status:
        """Return whether the lock is held, and the exit codes that the host process wrote."""
        alive = is_held(job.file(attempt, ".lock"))
        host = _read_host(job, attempt)
        where = f"process {host['pid']} on {host['node']}" if host else "starting"
        if alive:
            return Status("running", "", where, host.get("started"))
        try:
            end = json.loads(job.file(attempt, ".json").read_bytes())
        except FileNotFoundError:
            return Status("ended", "", where, host.get("started"))
        return Status("ended", "", where, host.get("started"), end["ended"], tuple(end["codes"]))

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        """Read lines from the attempt's log file."""
        over = not is_held(job.file(attempt, ".lock"))
        return read_log(job.file(attempt, ".log"), start, over=over)

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        """Send SIGTERM to the host process; with `kill`, send SIGKILL to all processes."""
        if not is_held(job.file(attempt, ".lock")):
            return
        host = _read_host(job, attempt)
        if not host:
            return  # the host process is still starting; a later poll stops this attempt
        if host["node"] != os.uname().nodename:
            raise UserError(f"{job.out} is made on {host['node']}: give the command there")
        with contextlib.suppress(ProcessLookupError):
            if kill:
                os.killpg(host["pid"], signal.SIGKILL)
            else:
                os.kill(host["pid"], signal.SIGTERM)


def _read_host(job: Job, attempt: int) -> dict[str, Any]:
    """Read `pid`, `node` and `started` of the host process from the lock file, if it has them."""
    try:
        return json.loads(job.file(attempt, ".lock").read_bytes())
    except (FileNotFoundError, ValueError):  # after a power failure the file may contain zeros
        return {}


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[BinaryIO | None]:
    """Hold the lock and yield its file; yield None if a living attempt holds it."""
    with open(path, "ab") as lock:
        deadline = time.monotonic() + _LOOK_SECS
        while not (locked := take_lock(lock)) and time.monotonic() <= deadline:
            time.sleep(0.01)
        yield lock if locked else None
