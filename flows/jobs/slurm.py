"""Run jobs in Slurm, on one node or several; all nodes see the output's directory.

`sbatch` gets the command as arguments of a script that executes them: no shell interprets them. The
batch step, `mswitch.flows.jobs.slurm_step`, starts one process a node with `srun`. A job is stopped
by a file that these processes look for: so only the command gets SIGTERM, once. Slurm would signal
every process below it. Slurm never requeues: a new attempt is a new job.
"""

import dataclasses
import datetime
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.flows.jobs.host import read_code
from mswitch.flows.jobs.job import Job, Status, Unreachable, read_log
from mswitch.flows.jobs.programs import call
from mswitch.flows.jobs.slurm_step import CLAIM, STOP, TASK
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point

#: Seconds before the time limit at which a job is asked to save.
_SAVE_SECS = 120
_OVER = re.compile(
    r"BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REVOKED"
    r"|TIMEOUT"
)
#: Refused options of `sbatch`.
_REFUSED = ("--array", "--clusters", "--cluster", "--test-only", "--wait", "--wrap")
#: Messages of `sbatch` when the controller, or munge, does not answer.
_NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection refused|connect failure|transport endpoint"
    r"|zero bytes|munge|try again|temporarily|not responding",
    re.IGNORECASE,
)


class _Entry(NamedTuple):
    id: str
    state: str
    reason: str
    nodes: str
    start: str
    name: str


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Launcher that runs jobs with sbatch; see `mswitch.flows.jobs.job.Launcher`.

    Attributes:
        partition: Slurm's partition; by default Slurm's default.
        time_limit: time limit of one attempt in sbatch's form (`12:00:00`). Two minutes before,
            the job saves and ends, and the next attempt continues.
        options: further options of sbatch, such as `--gres=gpu:8` and `--account=nlp`.
    """

    poll_secs = 10.0
    partition: str = ""
    time_limit: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "options", tuple(self.options))
        for option in self.options:
            if not option.startswith("--"):
                raise UserError(
                    f"{option!r} is not an option of sbatch: give it as --name=value, in one word"
                )
            if option.partition("=")[0] in _REFUSED:
                raise UserError(
                    f"--sbatch-option {option}: leave it out; it would hide the job from the queue "
                    "or make several jobs"
                )

    @property
    def profile(self) -> dict[str, Any]:
        """Name and settings of the launcher."""
        return {"launcher": "slurm", **dataclasses.asdict(self), "options": list(self.options)}

    def check(self, job: Job) -> None:
        """Check that the partition exists and has enough nodes, whether or not they are free.

        Raises:
            Unreachable: Slurm does not answer.
        """
        done = _call("sinfo", "--all", "--noheader", "--format=%R|%P|%D")
        if done.returncode:
            raise Unreachable(" ".join(done.stderr.split()))
        nodes: dict[str, int] = {}
        default = ""
        for line in done.stdout.splitlines():
            name, shown, count = line.split("|")
            nodes[name] = nodes.get(name, 0) + int(count)
            if shown == f"{name}*":
                default = name
        names = [name for name in (self.partition or default).split(",") if name]
        for name in names:
            if name not in nodes:
                raise UserError(
                    f"Slurm has no partition {name!r}: choose among {', '.join(sorted(nodes))}"
                )
        largest = max((nodes[name] for name in names), default=job.hosts)
        if job.hosts > largest:
            raise UserError(
                f"--hosts {job.hosts}: Slurm's partition {', '.join(names)} has {largest} nodes; "
                "give at most that number, or another partition"
            )

    def submit(self, job: Job, attempt: int) -> None:
        """Submit a batch job, unless the attempt is in the queue or has run.

        If a reply is lost and Slurm has two jobs of one name, the second to start does nothing.
        """
        if attempt in self.find(job):
            return
        fault_point("launch.before_host")
        log = str(job.file(attempt, ".log")).replace("%", "%%")
        chosen = [f"--partition={self.partition}"] if self.partition else []
        chosen += [f"--time={self.time_limit}"] if self.time_limit else []
        done = _call(
            "sbatch",
            *self.options,
            *chosen,
            *(f"--nodes={job.hosts}", f"--ntasks={job.hosts}", "--ntasks-per-node=1"),
            *(f"--job-name={job.name(attempt)}", "--no-requeue", "--parsable"),
            *(f"--signal=B:TERM@{_SAVE_SECS}", f"--chdir={job.cwd}"),
            *(f"--output={log}", "--open-mode=append"),
            str(Path(__file__).with_name("batch.sh")),
            *(sys.executable, "-P", "-m", "mswitch.flows.jobs.slurm_step", "batch"),
            *(str(job.file(attempt, "")), *job.program, *job.argv),
        )
        if done.returncode:
            reason = " ".join(done.stderr.replace("sbatch: error: ", "").split())
            if _NO_ANSWER.search(reason):
                raise Unreachable(reason)
            raise UserError(f"sbatch refuses the job: {reason}")

    def find(self, job: Job) -> Sequence[int]:
        """List the attempts that are in the queue or have written a file."""
        names = [entry.name for entry in self._read_queue()]
        names += [path.stem for path in job.directory.glob(f"*{CLAIM}")]
        return sorted({n for name in names if (n := job.parse_attempt(name)) is not None})

    def poll(self, job: Job, attempt: int) -> Status:
        """Read the attempt's state from Slurm's queue, and exit codes from its processes' files."""
        entries = self._find_entries(job, attempt)
        living = [entry for entry in entries if not _OVER.search(entry.state)]
        shown = (living or entries or [None])[0]
        where = (
            f"Slurm job {shown.id} {f'on {shown.nodes}' if shown.nodes else ''}" if shown else ""
        )
        started = _parse_time(shown.start) if shown else None
        if living:
            phase = "pending" if all(entry.state == "PENDING" for entry in living) else "running"
            if phase == "pending":
                started = None  # until the job starts, the queue shows its expected start
            reason = shown.reason if shown and shown.reason != "None" else ""
            return Status(phase, reason, where.strip(), started)
        ends = [read_code(path) for path in self._list_ends(job, attempt)]
        # FAILED and COMPLETED say no more than the exit codes.
        reason = " ".join(e.state for e in entries if e.state not in ("FAILED", "COMPLETED"))
        ended = max((end["ended"] for end in ends), default=None)
        codes = tuple(end["code"] for end in ends)
        return Status("ended", reason, where.strip(), started, ended, codes)

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        """Read lines from the attempt's log file."""
        over = len(self._list_ends(job, attempt)) == job.hosts
        return read_log(job.file(attempt, ".log"), start, over=over)

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        """Write a file that stops processes; call scancel for a pending job or with `kill`."""
        job.file(attempt, STOP).touch()
        for entry in self._find_entries(job, attempt):
            if entry.state == "PENDING":
                _call("scancel", entry.id)
            elif kill and not _OVER.search(entry.state):
                _call("scancel", "--full", "--signal=KILL", entry.id)

    def _list_ends(self, job: Job, attempt: int) -> list[Path]:
        return sorted(job.directory.glob(f"{job.name(attempt)}{TASK}*"))

    def _find_entries(self, job: Job, attempt: int) -> list[_Entry]:
        return [entry for entry in self._read_queue() if entry.name == job.name(attempt)]

    def _read_queue(self) -> list[_Entry]:
        """Return the jobs of this user, including those that ended recently.

        Raises:
            Unreachable: Slurm does not answer.
        """
        chosen = ("--all", "--states=all", f"--user={os.getuid()}")  # also lists hidden partitions
        done = _call("squeue", "--noheader", *chosen, "--format=%i|%T|%r|%N|%S|%j")
        if done.returncode:
            raise Unreachable(" ".join(done.stderr.split()))
        lines = [line.split("|", 5) for line in done.stdout.splitlines()]
        return [_Entry(*line) for line in lines if len(line) == 6]


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    return call(*words, where="from which jobs are submitted to Slurm")


def _parse_time(text: str) -> float | None:
    """Convert Slurm's local time to seconds since 1970, and `N/A` to None."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
