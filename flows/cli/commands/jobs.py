"""`mswitch jobs`: jobs that outlive their terminal; submit, watch, pause, resume, cancel."""

import getpass
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from mswitch.flows.jobs.doors import (
    StopFollowing,
    Summary,
    as_json,
    follow,
    leave,
    look,
    stop_following,
    want,
)
from mswitch.flows.jobs.job import MSWITCH, Job, Launcher, Unreachable, all_logs, job_directory
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import FINAL, State
from mswitch.flows.jobs.record import (
    Record,
    edit_record,
    find_records,
    follower,
    need_record,
)
from mswitch.flows.jobs.slurm import Slurm
from mswitch.flows.reports.pages import visible
from mswitch.flows.stages.common import Json, print_result
from mswitch.flows.stages.stage import job_of_command
from mswitch.pipelines import exit_codes
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import check_url
from mswitch.pipelines.progress import say, say_news

if TYPE_CHECKING:
    from mswitch.flows.prefect.operators_toml import Operators

app = App(
    name="jobs",
    help="Run commands as jobs that outlive their terminal. `mswitch jobs submit` starts one and "
    "sees to it that it is started again when it is interrupted, until it is done. What is known "
    "of it is beside its output, in .OUT.job/: the other commands take the output's directory, "
    "or, where the output is in a bucket, what was given as --record.",
)

#: The owner of a job that a person asked for.
HAND = "by hand"
#: Exit codes of a command that waits for the end of a job.
EXIT_CODES = {
    "done": 0,
    "failed": exit_codes.DEFECT,
    "refused": exit_codes.USER_ERROR,
    "paused": exit_codes.RESUME,
    "cancelled": exit_codes.INTERRUPTED,
}

Out = Annotated[
    Path,
    Parameter(
        help="The output of the job: its --out, RUN/eval or RUN/predictions; or its --record."
    ),
]
Wait = Annotated[bool, Parameter(negative="", help="Stay, with the log, until the job has ended.")]


@app.command
def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    launcher: str = "local",
    hosts: int = 1,
    record: Path | None = None,
    partition: str = "",
    time_limit: str = "",
    sbatch_option: Annotated[
        tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True)
    ] = (),
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Start a command as a job, and follow it in the background.

    Exit code 75, a signal or a lost machine: it is started again and continues from what is saved,
    at most 100 times, and 3 times in a row without progress. A command that refused its input or
    failed is not. The job that lives, or is done, is not started twice.

        mswitch jobs submit -- train --preset mt5-small --examples examples --out run
        mswitch jobs logs -f run

    On Slurm, with a process on each of four nodes:

        mswitch jobs submit --launcher slurm --hosts 4 -- train --distributed ...

    Args:
        command: after `--`, the command and its options, without `mswitch`.
        launcher: where it runs: local, a process of this machine; slurm, by sbatch; or the name of
            a launcher in operators.toml of this directory.
        hosts: processes of the job, each on a node.
        record: where --out is a gs:// or s3:// URL, a path on this machine. The job's record and
            logs are beside it, and the other commands know the job by it.
        partition: partition of Slurm; by default Slurm chooses.
        time_limit: Slurm's limit of one attempt, such as 12:00:00. Two minutes before, the command
            is asked to save, and the next attempt continues.
        sbatch_option: a further option of sbatch, such as --gres=gpu:8; may be given repeatedly.
    """
    job = _job(command, hosts, record)
    if isinstance(job.out, str):
        check_url(job.out)
    slurm = Slurm(partition, time_limit, sbatch_option)
    if launcher != "slurm" and slurm != Slurm():
        raise UserError(
            "--partition, --time-limit and --sbatch-option are Slurm's: give --launcher slurm"
        )
    chosen = slurm if launcher == "slurm" else _operators().launcher(launcher)
    return _start(job, chosen, wait, json)


@app.command(name="list")
def list_jobs(top: Path = Path(), *, json: Json = False) -> int:
    """List the jobs whose outputs are below a directory, and what they have cost.

    `running` and `pending` are alive. `waiting` and `ended` need somebody who follows them: where
    the list says "nobody", `mswitch jobs adopt OUT` does. Hosts cost what operators.toml says in
    [prices]; their hours are those of all attempts.

        mswitch jobs list runs

    Args:
        top: the directory below which jobs are looked for; by default this one.
    """
    if not top.is_dir():
        raise UserError(f"{top} is not a directory: give one below which outputs lie")
    found = [(record, look(record)) for record in find_records(top)]
    columns = f"{'state':12} {'progress':>8} {'attempts':>8} {'host hours':>10} {'USD':>9}"
    lines = [f"{columns}  {'followed by':28} {'started by':28} output"]
    jobs = []
    for record, summary in found:
        cost = _cost(record, summary)
        who = summary.followed_by or ("-" if summary.state in FINAL else "nobody")
        usd = f"{cost['usd']:,.2f}" if cost else "-"
        lines.append(
            f"{summary.state:12} {summary.progress:8,} {len(record.attempts):8} "
            f"{summary.host_hours:10,.2f} {usd:>9}  {who:28} {_line(record.started_by):28} "
            f"{_named(record.job)}"
        )
        jobs.append(as_json(record, summary) | cost)
    result = {"stage": "jobs", "jobs": jobs}
    return print_result(result, "\n".join(lines) if found else f"no jobs below {top}", json)


@app.command
def show(out: Out, *, json: Json = False) -> int:
    """Show a job: its command, how it is, and what became of each attempt.

    Progress is the step of the newest checkpoint, or else the number of files.

        mswitch jobs show run
    """
    record = need_record(out)
    summary = look(record)
    cost = _cost(record, summary)
    usd = f", {cost['chip_hours']:,.2f} of chips, {cost['usd']:,.2f} USD" if cost else ""
    why = f", {_line(summary.message)}" if summary.message not in ("", summary.state) else ""
    lines = [
        f"{_named(record.job)}: {summary.state}{why}",
        f"  command      mswitch {_line(shlex.join(record.job.argv))}",
        f"  in           {_line(record.job.cwd)}",
        f"  launcher     {record.launcher['launcher']}, {record.job.hosts} host(s)",
        f"  asked to     {record.intent} ({record.owner or 'unknown'})",
        f"  started by   {_line(record.started_by) or 'unknown'}",
        f"  followed by  {summary.followed_by or 'nobody'}",
        f"  progress     {summary.progress:,}",
        f"  hours        {summary.host_hours:,.2f} of hosts{usd}",
    ]
    for one in record.attempts:
        codes = f", code {', '.join(map(str, one.codes))}" if one.codes else ""
        lines.append(
            f"  attempt {one.number}    {_clock(one.submitted)} to {_clock(one.ended)}, "
            f"{one.where or 'not started'}: {_line(one.message or summary.state)}{codes}"
        )
    return print_result(as_json(record, summary) | cost, "\n".join(lines), json)


@app.command
def logs(out: Out, *, follow: Annotated[bool, Parameter(alias="-f", negative="")] = False) -> int:
    """Print the log of a job, over all of its attempts.

    It is what the command says on standard output and standard error.

        mswitch jobs logs -f run

    Args:
        follow: show further lines until the job has ended; Ctrl-C leaves the job alone.
    """
    read: dict[int, int] = {}
    tell_alone, tell_lost = say_news("jobs"), say_news("jobs")
    # Of what a page of a crawl has put there, a terminal would obey some.
    shown = visible if sys.stdout.isatty() else str
    while True:
        record = need_record(out)
        summary, launcher = look(record), make_launcher(record.launcher)
        over = not follow or summary.state in FINAL
        if not over and summary.state == "ended" and summary.followed_by is None:
            tell_alone(f"nobody follows this job: `mswitch jobs adopt {out}` starts it again")
        for number in (attempt.number for attempt in record.attempts):
            if number not in read and len(record.attempts) > 1:
                say("jobs", f"attempt {number}")
            start = read.setdefault(number, 0)
            try:
                for lines, end in all_logs(launcher, record.job, number, start):
                    print(*map(shown, lines), sep="\n", flush=True)
                    read[number] = end
            except Unreachable as error:
                if over:
                    raise UserError(f"the log cannot be read: {error}") from error
                tell_lost(f"the log cannot be read for now: {error}")
        if over:
            return 0
        time.sleep(1)


@app.command
def pause(out: Out, *, json: Json = False) -> int:
    """Let a job save and end; `mswitch jobs resume` continues it.

    It has two minutes before it is killed. The command waits until no process is left.

        mswitch jobs pause run
    """
    return _leave(out, "pause", json)


@app.command
def cancel(out: Out, *, json: Json = False) -> int:
    """Let a job save and end, and start it no more. What it wrote stays.

    It has two minutes before it is killed. The command waits until no process is left.

        mswitch jobs cancel run
    """
    return _leave(out, "cancel", json)


@app.command
def resume(out: Out, *, wait: Wait = False, json: Json = False) -> int:
    """Let a job go on that was paused, cancelled or interrupted, failed or was refused.

    It is the command that was submitted; to change its options, submit it again.

        mswitch jobs resume run
    """
    record = need_record(out)
    return _start(record.job, _operators().make_launcher(record.launcher), wait, json)


@app.command
def adopt(out: Out, *, wait: Wait = False, json: Json = False) -> int:
    """Follow a job that nobody follows: start it again when it is interrupted.

    It changes nothing else: a paused job stays so.

        mswitch jobs adopt run
    """
    record = need_record(out)
    with edit_record(record.job.place) as edited:
        edited.owner = HAND
    return _follow(record.job.place, wait, json)


def _cost(record: Record, summary: Summary) -> dict[str, float]:
    """Chip hours and USD of a job, where operators.toml has a price for its launcher."""
    price, hours = _operators().price_of(record), summary.host_hours
    if price is None:
        return {}
    return {"chip_hours": round(hours * price.chips, 4), "usd": round(price.usd(hours), 2)}


def _job(command: Sequence[str], hosts: int, record: Path | None) -> Job:
    """Return the job of a command line, if it is a stage of mswitch."""
    from mswitch.flows.cli.app import SUBCOMMANDS

    if not command or command[0] not in SUBCOMMANDS or command[0] == "jobs":
        given = repr(command[0]) if command else "nothing"
        raise UserError(
            f"{given} is not a command of mswitch: give one after `--`, as in `mswitch jobs submit "
            "-- train --preset ...`"
        )
    return job_of_command(command, hosts, record)


def _operators() -> "Operators":
    # It knows all settings of flows.
    from mswitch.flows.prefect.operators_toml import read_operators

    return read_operators()


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return f"user {os.getuid()}"


def _start(job: Job, launcher: Launcher, wait: bool, json: bool) -> int:
    try:
        want(job, launcher, HAND, _person())
    except Unreachable as error:
        raise UserError(
            f"the scheduler does not answer, so nothing was submitted ({error}): give the same "
            "command when it does"
        ) from error
    return _follow(job.place, wait, json)


def _follow(place: Path, wait: bool, json: bool) -> int:
    """Follow the job with that name, in the background once there is an attempt."""
    record = need_record(place)
    if not wait and (who := follower(place)):
        return _print(place, f"followed by {who} already; see {_logs_command(place)}", json)

    def print_lines(lines: list[str]) -> None:
        if wait:
            print(*lines, sep="\n", flush=True)

    job, launcher = record.job, _operators().make_launcher(record.launcher)
    tell = say_news("jobs") if wait else stop_following
    try:
        state = follow(job, launcher, on_lines=print_lines, on_poll=tell)
    except StopFollowing as status:
        words = [*MSWITCH, "jobs", "adopt", str(place), "--wait"]
        with open(job_directory(place) / "follower.log", "ab") as log:
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the job has a log
                stderr=log,
                start_new_session=True,
            )
        return _print(place, f"{status}; see {_logs_command(place)}", json)
    return _finish(place, state, json)


def _leave(out: Path, how: Literal["pause", "cancel"], json: bool) -> int:
    record = need_record(out)
    # That of the record, so that nothing in operators.toml can keep a job running.
    job, launcher = record.job, make_launcher(record.launcher)
    tell_news = say_news("jobs")
    try:
        leave(job, launcher, how, HAND)
    except Unreachable as error:
        say("jobs", f"not reachable ({error}); trying again")

    def tell(text: str) -> None:
        if need_record(out).intent == "run":
            raise StopFollowing
        tell_news(text)

    try:
        _finish(job.place, follow(job, launcher, on_poll=tell), json)
    except StopFollowing:  # by `resume`, in another terminal
        return _follow(job.place, wait=False, json=json)
    return 0


def _finish(place: Path, state: State, json: bool) -> int:
    message = f" ({_line(state.message)})" if state.message != state.name else ""
    _print(place, f"{state.name}{message}", json)
    return EXIT_CODES[state.name]


def _print(place: Path, text: str, json: bool) -> int:
    """Print a line on a job, or all that is known of it."""
    record = need_record(place)
    return print_result(as_json(record, look(record)), f"{_named(record.job)}: {text}", json)


def _logs_command(place: Path) -> str:
    return f"`mswitch jobs logs -f {_line(shlex.quote(str(place)))}`"


def _named(job: Job) -> str:
    """Name a job by the path that commands take, and by its output if that is elsewhere."""
    return _line(job.place) + (f" ({_line(job.out)})" if job.record else "")


def _line(text: object) -> str:
    """Make text one line that a terminal only shows."""
    return visible(str(text)).replace("\n", "\\n")


def _clock(secs: float | None) -> str:
    return "now" if secs is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))
