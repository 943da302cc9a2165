"""A job of a stand-in command on a launcher, and processes that follow it."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import job_child
import job_follower
from processes import is_alive, wait_for

from mswitch.flows.jobs.doors import follow, leave, want
from mswitch.flows.jobs.job import Job, Launcher
from mswitch.flows.jobs.record import Record, edit_record, read_record


class Result(NamedTuple):
    """How a job ended."""

    outcome: str
    message: str


@dataclasses.dataclass
class World:
    """A launcher, and a place for the output of a job.

    Attributes:
        launcher: the launcher.
        out: the output.
        hosts: processes of each job.
        secs: how long anything may take.
        url: the output, if it is in a bucket; `out` then has the record beside it.
        cluster: what has a scheduler that can be stopped and started.
    """

    launcher: Launcher
    out: Path
    hosts: int = 1
    secs: float = 20.0
    url: str = ""
    cluster: Any = None

    def job(self, mode: str, **settings: object) -> Job:
        argv = (mode, str(self.out), *([self.url] if self.url else []))
        program = (sys.executable, job_child.__file__)
        where = {"out": self.url or self.out, "record": self.out}
        return Job(argv, **where, hosts=self.hosts, program=program, **settings)  # type: ignore[arg-type]

    def run(self, job: Job, **settings: object) -> Result:
        state = follow(job, self.launcher, timing=job_follower.TIMING, **settings)  # type: ignore[arg-type]
        return Result(*state)

    def follow(self, job: Job, **environment: str) -> subprocess.Popen[str]:
        given = {name: getattr(job, name) for name in ("argv", "program", "hosts", "grace_secs")}
        given |= {"out": str(job.out), "record": str(job.path)}
        words = [json.dumps(given), json.dumps(self.launcher.profile)]
        return subprocess.Popen(
            [sys.executable, job_follower.__file__, *words, str(self.lines_file)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, mode: str = "steady", **settings: object) -> tuple[Job, subprocess.Popen[str]]:
        """A job that runs, and who follows it."""
        job = self.job(mode, **settings)
        follower = self.follow(job)
        self.wait_for_beat()
        return job, follower

    def submit(self, job: Job, attempt: int = 1) -> None:
        """Submit an attempt that nobody follows."""
        job.directory.mkdir(exist_ok=True)
        self.launcher.submit(job, attempt)

    def end(self, follower: subprocess.Popen[str], outcome: str = "done") -> None:
        """Wait until who follows says how the job ended."""
        result, errors = follower.communicate(timeout=self.secs)
        assert result == f"{outcome}\n", (result, errors)

    def finish(self, follower: subprocess.Popen[str]) -> None:
        """Let a steady command end."""
        (self.out / "go").touch()
        self.end(follower)

    @property
    def record(self) -> Record:
        found = read_record(self.out)
        assert found is not None
        return found

    @property
    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.record.attempts]

    @property
    def lines_file(self) -> Path:
        return self.out.with_name("lines")

    def pids(self) -> list[int]:
        """The process ids of the command, in the order of its starts."""
        try:
            return [int(line.split()[0]) for line in (self.out / "starts").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def wait_for(self, condition: Callable[[], object]) -> None:
        wait_for(condition, self.secs)

    def wait_for_end(self, job: Job) -> None:
        self.wait_for(lambda: self.launcher.poll(job, 1).phase == "ended")

    def lives(self) -> bool:
        """Whether any process of the command does."""
        return any(is_alive(pid) for pid in self.pids())

    def wait_for_beat(self, starts: int = 1) -> None:
        self.wait_for(lambda: len(self.pids()) >= starts * self.hosts)
        (self.out / "beat").unlink(missing_ok=True)
        self.wait_for((self.out / "beat").exists)

    def clean(self) -> None:
        """Leave no process of a test that failed."""
        record = read_record(self.out)
        if record is None or record.alive is None:
            return
        ask(record.job, self.launcher, "cancel")
        self.launcher.end(record.job, record.alive.number, kill=True)


def ask(job: Job, launcher: Launcher, intent: str, owner: str = "") -> None:
    """Ask for a job to run, to pause or to be cancelled."""
    if intent == "run":
        want(job, launcher, owner)
    else:
        leave(job, launcher, intent, owner)  # type: ignore[arg-type]


def write_record(record: Record) -> Record:
    """Put a record where its job has it."""
    with edit_record(record.job.path, lambda _: record):
        pass
    return record
