"""The record of a job: the last request, and the outcome of each attempt.

A process that holds `record.lock` replaces the whole `record.json` in `Job.directory`. Whether the
output is finished, its marker says; whether an attempt lives, the launcher.
"""

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic

from mswitch.flows.jobs.command import describe_differences
from mswitch.flows.jobs.job import MSWITCH, BusyError, Job, Launcher, locate_job_directory
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.reserve import keep_room, write_reserved
from mswitch.pipelines.directory_lock import is_held, take_lock
from mswitch.pipelines.errors import UserError, is_disk_full
from mswitch.pipelines.outputs import MARKER, canonical_json, read_json_object, write_atomically
from mswitch.pipelines.progress import say

RECORD = "record.json"
Intent = Literal["run", "pause", "cancel"]
#: `resume`: interrupted, so start the command again. `refused`: the command says that its input is
#: wrong. `cancelled`: by a person, in the scheduler. `failed`: any other end but `done`.
Outcome = Literal["done", "resume", "refused", "cancelled", "failed"]


@dataclasses.dataclass
class Attempt:
    """One start of a job's command.

    Attributes:
        number: its number, from 1.
        submitted: seconds since 1970, as all times here.
        progress: `Job.progress` when it was submitted.
        had_marker: whether the output had its marker then.
        where: machine and process, or the scheduler's number.
        started: time when it began to run.
        stopping: time when it was asked to stop.
        ended: time when it ended, or when that was noticed.
        codes: exit codes of its processes.
        reason: the scheduler's words on its end.
        outcome: how it ended; None until that is decided.
        message: the outcome in a line.
        made: its addition to `Job.progress`.
        log_bytes: bytes of its log that were passed on.
        hosts: its number of hosts; None in old records: the job's.
    """

    number: int
    submitted: float
    progress: int
    had_marker: bool = False
    where: str = ""
    started: float | None = None
    stopping: float | None = None
    ended: float | None = None
    codes: tuple[int, ...] = ()
    reason: str = ""
    outcome: Outcome | None = None
    message: str = ""
    made: int = 0
    log_bytes: int = 0
    hosts: int | None = None


@dataclasses.dataclass
class Record:
    """State of a job, as stored in its record file.

    Attributes:
        job: the job. Its program is not stored, so that a writer of the file cannot choose what
            others run: a record that is read has mswitch's own.
        launcher: `Launcher.profile` of the launcher of its attempts.
        intent: the last request.
        owner: who made the last request: a person, or a flow run.
        wanted_by: owners that requested it to run, the latest last.
        wants: number of requests to run it.
        started_by: the first of these owners, in words for people.
        attempts: its attempts, in order.
        counted_after: budgets count the attempts after this number.
        earlier_host_hours: host hours of jobs with other options that made this output before.
    """

    job: Job
    launcher: dict[str, Any]
    intent: Intent = "run"
    owner: str = ""
    wanted_by: list[str] = dataclasses.field(default_factory=list)
    wants: int = 0
    started_by: str = ""
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    counted_after: int = 0
    earlier_host_hours: float = 0.0

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def alive(self) -> Attempt | None:
        """The newest attempt, if it has no outcome yet."""
        return self.last if self.last is not None and self.last.outcome is None else None

    def host_hours(self, until: float) -> float:
        """Return hosts times hours of all attempts; a living attempt counts up to `until`."""
        held = [
            (attempt.hosts or self.job.hosts) * max(0.0, (attempt.ended or until) - attempt.started)
            for attempt in self.attempts
            if attempt.started
        ]
        return self.earlier_host_hours + sum(held) / 3600

    def as_json(self) -> dict[str, Any]:
        """Return the record as a JSON object, as the record's file contains it."""
        value = _RECORD.dump_python(self, mode="json", exclude={"job": {"program"}})
        return {"key": self.job.key, **value}


_RECORD = pydantic.TypeAdapter(Record)
_OF_AN_OUTPUT = {MARKER, "config.json"}


def read_record(path: Path) -> Record | None:
    """Read the record of the job with this `Job.path`; return None if there is no record."""
    return _read(locate_job_directory(path))


def need_record(path: Path) -> Record:
    """Read the record of a job, or refuse if there is none."""
    record = read_record(path)
    if record is None:
        raise UserError(
            f"no job makes {path}: `mswitch jobs list` shows the jobs below a directory, and "
            "`mswitch jobs submit` starts one"
        )
    return record


def _read(directory: Path) -> Record | None:
    path = directory / RECORD
    if not path.exists():
        return None
    value = read_json_object(path)
    value.pop("key", None)
    try:
        value["job"]["program"] = MSWITCH
        record = _RECORD.validate_python(value)
        make_launcher(record.launcher)
        home = record.job.directory
        at_home = home.exists() and home.samefile(directory)
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{path} is not the record of a job ({reason}): once none of the job's processes runs, "
            "remove the file and give the job's command again"
        ) from error
    if not at_home:
        raise UserError(
            f"{path} was moved or copied; it belongs to the job that makes {record.job.path}: "
            f"move it back, or remove {directory}"
        )
    return record


def find_records(top: Path) -> list[Record]:
    """Return records below a directory, sorted by place; log and leave out damaged records."""
    records = []
    for directory, names, files in os.walk(top):
        if directory.endswith(".job") and RECORD in files:
            try:
                record = _read(Path(directory))
                records += [record] if record is not None else []
            except (UserError, PermissionError) as error:
                say("jobs", f"left out: {error}")
        # Skip directories of an output that contain many files but no jobs.
        if _OF_AN_OUTPUT & set(files):
            names[:] = set(names) - {"checkpoints", "data", "tensorboard"}
        names.sort()
    return sorted(records, key=lambda record: record.job.path)


@contextlib.contextmanager
def edit_record(
    path: Path,
    new: Callable[[Record | None], Record] | None = None,
    *,
    minor: bool = False,
) -> Iterator[Record]:
    """Yield the record, then write the caller's changes; other writers wait meanwhile.

    `path` is `Job.path`. `new` makes the record from the existing one; if it is None, a record must
    exist. A `minor` change is dropped if the disk is full.
    """
    directory = locate_job_directory(path)
    if new is None:
        need_record(path)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "record.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_record(path)
        text = canonical_json(before.as_json()) if before is not None else ""
        record = new(before) if new is not None else before or need_record(path)
        yield record
        changed = canonical_json(record.as_json())
        if changed != text:
            _write(directory, changed + "\n", minor)


def _write(directory: Path, text: str, minor: bool) -> None:
    try:
        write_atomically(directory / RECORD, text)
    except OSError as error:
        if not is_disk_full(error):
            raise
        if not minor:  # minor changes must not use up the reserved disk space
            write_reserved(directory / RECORD, text)
    else:
        keep_room(directory)


def prepare_record(
    job: Job, launcher: Launcher, before: Record | None, *, following: bool = False
) -> Record:
    """Return a job's record; if its output has the record of another job that ended, replace it.

    If the caller follows the job (`following`), another job's record is not replaced: a follower
    does not know who wants its job.

    Raises:
        BusyError: the record is of another job, which continues.
    """
    record = before or Record(job, launcher.profile)
    take_over(record)
    alive, until = record.alive, time.time()
    if record.job.key == job.key:
        if alive is None:  # settings and launcher may change while no attempt runs
            record.job, record.launcher = job, launcher.profile
        return record
    goes_on = following or read_follower(job.path) is not None
    if alive is not None:
        status = make_launcher(record.launcher).poll(record.job, alive.number)
        until, goes_on = status.ended or until, goes_on or status.phase != "ended"
    if goes_on:
        name = record.job.name(len(record.attempts) or 1)
        whom = f"{name} ({record.started_by})" if record.started_by else name
        raise BusyError(
            f"{job.path} is being made by another job, {whom}, with another "
            f"{describe_differences(job.argv, record.job.argv)}: wait for it, or `mswitch jobs "
            f"cancel {job.path}`"
        )
    hours = record.host_hours(until)
    fresh = Record(job, launcher.profile, wants=record.wants, earlier_host_hours=hours)
    # Another job made the present output, so earlier attempts of this job say nothing about it.
    take_over(fresh)
    for attempt in fresh.attempts:
        attempt.outcome, attempt.message = "resume", "before another job made this output"
    fresh.counted_after = len(fresh.attempts)
    return fresh


def take_over(record: Record) -> None:
    """Record attempts whose submitters were killed before they could record them."""
    if record.alive is not None:
        return  # the next attempt is submitted only after this one has an outcome
    newest = max(make_launcher(record.launcher).find(record.job), default=0)
    for number in range(len(record.attempts) + 1, newest + 1):
        attempt = Attempt(number, time.time(), record.job.progress(), hosts=record.job.hosts)
        record.attempts.append(attempt)


@contextlib.contextmanager
def follow_alone(
    path: Path, waiting: Callable[[str], None], sleep: Callable[[float], None]
) -> Iterator[None]:
    """Wait for the lock that lets only one process follow and submit a job, then hold it.

    `path` is `Job.path`. `waiting` gets a line in each round that names the other follower.
    """
    directory = locate_job_directory(path)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "follower.lock", "a+") as lock:
        while not take_lock(lock):
            who = read_follower(path) or "another process"
            waiting(f"waiting for {who}, which follows this job")
            sleep(1)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        lock.flush()
        yield


def read_follower(path: Path) -> str | None:
    """Return the process that follows the job with this `Job.path`; None without a follower."""
    lock = locate_job_directory(path) / "follower.lock"
    return lock.read_text() if is_held(lock) else None
