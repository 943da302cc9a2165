"""A job, the status of its attempts, and the interface of launchers.

A job's files are in a hidden directory beside the output, `.<out>.job/`, or beside `Job.record` if
the output is in a bucket: a record (`mswitch.flows.jobs.record`), and per attempt a log and exit
codes.
"""

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from mswitch.pipelines import objects, storage
from mswitch.pipelines.directory_lock import follow_link
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, canonical_json

MSWITCH = (sys.executable, "-P", "-m", "mswitch.flows.cli.main")

_SECRET = re.compile(
    r"--[\w-]*(secret|password|passwd|credential|api[-_]?key|access[-_]key|(access|auth)[-_]token)|"
    r"://[^/@\s]*:[^/@\s]*@",
    re.IGNORECASE,
)
#: A file that only a complete checkpoint in a bucket has.
_CHECKPOINT = re.compile(r"checkpoints/(\d+)/_CHECKPOINT_METADATA")
#: Bytes of a log read at a time: a log may be larger than memory.
READ_BYTES = 1 << 20
#: Pattern of a name that cannot lead out of the storage and does not look like an option.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that is restarted after each interruption until it ends.

    Attributes:
        argv: the arguments of `mswitch`, such as `("train", "--preset", ...)`. No shell reads them.
        out: the directory that the command makes, or its gs:// or s3:// URL.
        marked: whether the command writes `_COMPLETED` into `out`. If not, exit code 0 means done.
        hosts: number of processes, each on its own node.
        cwd: the directory where the command runs; relative paths in `argv` start there.
        program: the program that runs `argv`, on the machine of the job.
        grace_secs: seconds to save after a request to stop, before the job is killed.
        record: if `out` is a URL, the path beside which the files of the job are, which otherwise
            are beside `out`. The path itself is not made.
    """

    argv: tuple[str, ...]
    out: Path | str
    marked: bool = True
    hosts: int = 1
    cwd: Path = dataclasses.field(default_factory=Path.cwd)
    program: tuple[str, ...] = MSWITCH
    grace_secs: float = 120.0
    record: Path | None = None

    def __post_init__(self):
        for word in self.argv:
            if _SECRET.search(word):
                shown = word.partition("=")[0] if word.startswith("--") else "a URL with a password"
                raise UserError(
                    f"{shown}: the record of a job contains its arguments; pass secrets in the "
                    "environment or a file"
                )
        for word in (*self.argv, str(self.out), str(self.cwd), str(self.record)):
            try:
                word.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{word!a} is not UTF-8, and the record of a job must be: rename the file"
                ) from error
        if self.hosts < 1:
            raise UserError(f"--hosts is {self.hosts}: give at least 1")
        if storage.is_remote(self.out):
            if self.record is None:
                raise UserError(
                    f"{self.out} is in a bucket, but the record of a job must not be: give "
                    "--record too, a path on this machine; it names the job in `mswitch jobs`"
                )
            object.__setattr__(self, "out", str(self.out).rstrip("/"))
            object.__setattr__(self, "record", Path(os.path.abspath(self.record)))
        else:
            object.__setattr__(self, "out", Path(os.path.abspath(self.out)))
            object.__setattr__(self, "record", None)
        object.__setattr__(self, "argv", tuple(word for word in self.argv if word != "--json"))

    @property
    def key(self) -> str:
        """Identity of the job in 12 hexadecimal digits: a hash of arguments, output and `record`.

        A scheduler knows a job only by its key. So one command with two records is two jobs.
        """
        own = {"record": str(self.record)} if self.record is not None else {}
        text = canonical_json({"argv": self.argv, "out": str(self.out), **own})
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def path(self) -> Path:
        """The path that names the job; the job's own files are beside this path."""
        return self.record or Path(self.out)

    @property
    def directory(self) -> Path:
        """Directory of the job's own files."""
        return locate_job_directory(self.path)

    def left(self, attempt: int, suffix: str) -> str:
        """Return the path or URL of a file that other machines write beside the output."""
        if isinstance(self.out, Path):
            return str(self.file(attempt, suffix))
        parent, _, name = self.out.rpartition("/")
        return storage.join(parent, f".{name}.job", f"{self.name(attempt)}{suffix}")

    def name(self, attempt: int) -> str:
        """Return the name of an attempt (counted from 1) in the scheduler and in its files."""
        return f"mswitch-{self.key}-{attempt}"

    def file(self, attempt: int, suffix: str) -> Path:
        """Return the file of an attempt with this suffix, such as `.log`."""
        return self.directory / f"{self.name(attempt)}{suffix}"

    def parse_attempt(self, name: str) -> int | None:
        """Return the number of the attempt with this name, or None if it is not of this job."""
        key, _, number = name.rpartition("-")
        return int(number) if key == f"mswitch-{self.key}" and number.isdecimal() else None

    def has_marker(self) -> bool:
        """Return whether the output is marked as finished.

        Raises:
            Unreachable: its bucket does not answer.
        """
        if not self.marked:
            return False
        if isinstance(self.out, str):
            with reaching(self.out):
                return storage.exists(storage.join(self.out, MARKER))
        # An NFS client may look up a single file in a cache that is a minute old. So list the whole
        # directory, which the client requests from the server again.
        return MARKER in storage.list_names(self.out)

    def find_last_sign(self, attempt: int, enough: float) -> float:
        """Return when log or output were last written, in seconds since 1970.

        The search ends at the first time after `enough`, which need not be the last.

        Raises:
            Unreachable: its bucket does not answer.
        """
        last = 0.0
        for written in self._list_write_times(attempt):
            last = max(last, written)
            if last > enough:
                break
        return last

    def _list_write_times(self, attempt: int) -> Iterator[float]:
        files = itertools.chain(
            [self.file(attempt, ".log")],
            (Path(top, name) for top, _, names in self._walk() for name in names),
        )
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                yield file.stat().st_mtime
        if isinstance(self.out, str):
            with reaching(self.out):
                yield from (file.updated for file in storage.match(storage.join(self.out, "**")))

    def progress(self) -> int:
        """Measure the output's progress: its newest checkpoint's step, else its number of files.

        Raises:
            Unreachable: its bucket does not answer.
        """
        if isinstance(self.out, str):
            with reaching(self.out):
                names = storage.file_sizes(self.out)
            saved = [int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match]
            return max(saved, default=len(names))
        out = follow_link(self.out)
        steps = [int(path.name) for path in out.glob("checkpoints/*") if path.name.isdecimal()]
        return max(steps) if steps else sum(len(files) for *_, files in self._walk())

    def _walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the output and its unpublished directories, unless it is in a bucket."""
        if isinstance(self.out, Path):
            out = follow_link(self.out)
            partial = out.parent.glob(f".{glob.escape(out.name)}.partial-*")
            for top in (out, *partial):
                yield from os.walk(top)


def locate_job_directory(path: Path) -> Path:
    """Return the directory of a job's files, by `Job.path`."""
    path = follow_link(path)
    return path.parent / f".{path.name}.job"


def resolve_output(prefix: Path, name: str) -> Path:
    """Check an output's name from a form; return the output's path below the storage `prefix`."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r} cannot be the name of a run: use up to 100 letters, digits, '.', '_' and "
            "'-', the first a letter or digit"
        )
    return prefix / name


class Unreachable(Exception):  # noqa: N818  # a state rather than an error
    """The scheduler or the bucket does not answer. This says nothing about the job."""


class BusyError(UserError):
    """Another job makes the output."""


class NoPlace(Exception):  # noqa: N818  # likewise
    """An attempt cannot start now: other trainings take all places."""


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn errors of a bucket into `Unreachable`.

    Raises:
        Unreachable: the bucket does not answer, or refuses.
    """
    try:
        with objects.reaching(url):
            yield
    except objects.BucketError as error:
        raise Unreachable(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Status:
    """Status of an attempt, as its launcher sees it.

    Attributes:
        phase: an attempt that is `pending` or `running` is alive.
        reason: the scheduler's own words: why the attempt waits, or how it ended (`TIMEOUT`).
        where: machine and process, or the scheduler's number, for people.
        started: seconds since 1970; None before it runs.
        ended: seconds since 1970; None if alive or unknown.
        codes: exit codes of the processes that wrote one, 128 + n for signal n. A process that was
            lost with its machine has no code.
    """

    phase: Literal["pending", "running", "ended"]
    reason: str = ""
    where: str = ""
    started: float | None = None
    ended: float | None = None
    codes: tuple[int, ...] = ()


class Launcher(Protocol):
    """Interface to the machines that run jobs; `mswitch.flows.jobs.doors.follow` uses it.

    Job and number identify an attempt, and make its name. No method waits for a job. Any method may
    raise `Unreachable`, and is then called again.
    """

    @property
    def poll_secs(self) -> float:
        """Seconds between polls of a job; more for a scheduler, because it serves many users."""
        ...

    @property
    def profile(self) -> dict[str, Any]:
        """Settings, as JSON, from which `launchers.make_launcher` makes this launcher again."""
        ...

    def check(self, job: Job) -> None:
        """Refuse a job that could never run here, before anything is done for it."""
        ...

    def submit(self, job: Job, attempt: int) -> None:
        """Start an attempt, unless it was started before.

        Raises:
            NoPlace: it has to wait for other trainings.
        """
        ...

    def find(self, job: Job) -> Sequence[int]:
        """List the started attempts in order, also those that are not in the record."""
        ...

    def poll(self, job: Job, attempt: int) -> Status:
        """Return the status of an attempt."""
        ...

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        """Read lines of an attempt's log from byte `start`; return them and the next `start`."""
        ...

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        """Ask an attempt to save and end (SIGTERM), or kill it. A repeated request does nothing."""
        ...


def read_all_logs(
    launcher: Launcher, job: Job, attempt: int, start: int = 0
) -> Iterator[tuple[list[str], int]]:
    """Yield the results of `Launcher.logs` until there are no more lines for now."""
    while True:
        lines, end = launcher.logs(job, attempt, start)
        if end == start:
            return
        yield lines, end
        start = end


def read_log(path: Path, start: int, *, over: bool = False) -> tuple[list[str], int]:
    """Read lines of a log file, as `Launcher.logs` does.

    An incomplete last line is left for later, unless the attempt is over.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(READ_BYTES)
    except FileNotFoundError:
        return [], start
    return split_lines(data, start, over=over)


def split_lines(data: bytes, start: int, *, over: bool) -> tuple[list[str], int]:
    """Split bytes of a log, read from `start`, into lines; return them and the next `start`."""
    end_is_near = len(data) < READ_BYTES
    if (end_is_near and not over) or (not end_is_near and b"\n" in data):
        data = data[: data.rfind(b"\n") + 1]
    return data.decode(errors="replace").splitlines(), start + len(data)
