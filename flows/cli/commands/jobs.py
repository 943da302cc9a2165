"""`mswitch jobs`: submit, watch, pause, resume and cancel jobs that outlive their terminal."""

import getpass
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mswitch.flows.jobs import doors
from mswitch.flows.jobs.job import (
    MSWITCH,
    Job,
    Launcher,
    Unreachable,
    locate_job_directory,
    read_all_logs,
)
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.life import FINAL, State
from mswitch.flows.jobs.record import (
    Record,
    edit_record,
    find_records,
    need_record,
    read_follower,
)
from mswitch.flows.jobs.slurm import Slurm
from mswitch.flows.reports.pages import visible
from mswitch.flows.stages.common import Json, print_result
from mswitch.flows.stages.stage import make_command_job
from mswitch.pipelines import exit_codes
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import check_url
from mswitch.pipelines.progress import say, say_news

if TYPE_CHECKING:
    from mswitch.flows.prefect.operators_toml import Operators

app = App(
    name="jobs",
    help="Run commands as jobs that outlive their terminal. `mswitch jobs submit` starts a job and "
    "follows it: after an interruption, the job is started again, until it is done. Its record is "
    "beside its output, in .OUT.job/. The other commands name a job by its output directory, or by "
    "its --record if the output is in a bucket.",
)

#: The owner of a job that a person requested.
HAND = "by hand"
#: Exit codes of a command that waits for a job's end.
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
Wait = Annotated[bool, Parameter(negative="", help="Show the log until the job has ended.")]


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

    After exit code 75, a signal or a lost machine, it is started again, and continues its saved
    work: at most 100 times, and 3 times in a row without progress. If it refused its input or
    failed, it is not started again. A job that lives or is done is not started twice.

        mswitch jobs submit -- train --preset mt5-small --examples examples --out run
        mswitch jobs logs -f run

    On Slurm, with a process on each of four nodes:

        mswitch jobs submit --launcher slurm --hosts 4 -- train --distributed ...

    Args:
        command: after `--`, the command and its options, without `mswitch`.
        launcher: where it runs: local, this machine; slurm, with sbatch; or the name of a launcher
            in operators.toml of this directory.
        hosts: processes of the job, each on its own node.
        record: if --out is a gs:// or s3:// URL, a path on this machine that names the job. Its
            record and logs are beside this path.
        partition: partition of Slurm; by default Slurm chooses.
        time_limit: Slurm's time limit of each start, such as 12:00:00. Two minutes before, the
            command saves and ends, and the next start continues.
        sbatch_option: a further option of sbatch, such as --gres=gpu:8; may be given repeatedly.
    """
    job = _make_job(command, hosts, record)
    if isinstance(job.out, str):
        check_url(job.out)
    slurm = Slurm(partition, time_limit, sbatch_option)
    if launcher != "slurm" and slurm != Slurm():
        raise UserError(
            "--partition, --time-limit and --sbatch-option are Slurm's: give --launcher slurm"
        )
    chosen = slurm if launcher == "slurm" else _read_operators().find_launcher(launcher)
    return _start(job, chosen, wait, json)


@app.command(name="list")
def list_jobs(top: Path = Path(), *, json: Json = False) -> int:
    """List the jobs whose outputs are below a directory, with their cost.

    A job that is `running` or `pending` is alive. One that is `waiting` or `ended` needs a process
    that follows it: if the list says "nobody", give `mswitch jobs adopt OUT`. The cost is hours of
    hosts, over all attempts, at the [prices] of operators.toml.

        mswitch jobs list runs

    Args:
        top: the directory to search for jobs; by default this one.
    """
    if not top.is_dir():
        raise UserError(f"{top} is not a directory: give the directory of outputs")
    jobs_found = [(record, doors.look(record)) for record in find_records(top)]
    columns = f"{'state':12} {'progress':>8} {'attempts':>8} {'host hours':>10} {'USD':>9}"
    lines = [f"{columns}  {'followed by':28} {'started by':28} output"]
    jobs = []
    for record, summary in jobs_found:
        cost = _compute_cost(record, summary)
        who = summary.followed_by or ("-" if summary.state in FINAL else "nobody")
        usd = f"{cost['usd']:,.2f}" if cost else "-"
        lines.append(
            f"{summary.state:12} {summary.progress:8,} {len(record.attempts):8} "
            f"{summary.host_hours:10,.2f} {usd:>9}  {who:28} {_make_line(record.started_by):28} "
            f"{_name_job(record.job)}"
        )
        jobs.append(doors.as_json(record, summary) | cost)
    result = {"stage": "jobs", "jobs": jobs}
    return print_result(result, "\n".join(lines) if jobs_found else f"no jobs below {top}", json)


@app.command
def show(out: Out, *, json: Json = False) -> int:
    """Show a job: its command, its state, and its attempts, which are the starts of the command.

    Progress is the step of the newest checkpoint, or the number of files if there is none.

        mswitch jobs show run
    """
    record = need_record(out)
    summary = doors.look(record)
    cost = _compute_cost(record, summary)
    usd = f", {cost['chip_hours']:,.2f} of chips, {cost['usd']:,.2f} USD" if cost else ""
    why = f", {_make_line(summary.message)}" if summary.message not in ("", summary.state) else ""
    lines = [
        f"{_name_job(record.job)}: {summary.state}{why}",
        f"  command      mswitch {_make_line(shlex.join(record.job.argv))}",
        f"  in           {_make_line(record.job.cwd)}",
        f"  launcher     {record.launcher['launcher']}, {record.job.hosts} host(s)",
        f"  requested    {record.intent} ({record.owner or 'unknown'})",
        f"  started by   {_make_line(record.started_by) or 'unknown'}",
        f"  followed by  {summary.followed_by or 'nobody'}",
        f"  progress     {summary.progress:,}",
        f"  hours        {summary.host_hours:,.2f} of hosts{usd}",
    ]
    for attempt in record.attempts:
        codes = f", code {', '.join(map(str, attempt.codes))}" if attempt.codes else ""
        times = f"{_format_time(attempt.submitted)} to {_format_time(attempt.ended)}"
        where = attempt.where or "not started"
        message = _make_line(attempt.message or summary.state)
        lines.append(f"  attempt {attempt.number}    {times}, {where}: {message}{codes}")
    return print_result(doors.as_json(record, summary) | cost, "\n".join(lines), json)


@app.command
def logs(out: Out, *, follow: Annotated[bool, Parameter(alias="-f", negative="")] = False) -> int:
    """Print the log of a job, over all its attempts.

    It is the command's standard output and standard error.

        mswitch jobs logs -f run

    Args:
        follow: also show new lines until the job has ended. Ctrl-C does not stop the job.
    """
    read: dict[int, int] = {}
    tell_alone, tell_lost = say_news("jobs"), say_news("jobs")
    # A log may have text of web pages, with control characters that a terminal would obey.
    shown = visible if sys.stdout.isatty() else str
    while True:
        record = need_record(out)
        summary, launcher = doors.look(record), make_launcher(record.launcher)
        over = not follow or summary.state in FINAL
        if not over and summary.state == "ended" and summary.followed_by is None:
            tell_alone(f"nobody follows this job: `mswitch jobs adopt {out}` restarts it")
        for number in (attempt.number for attempt in record.attempts):
            if number not in read and len(record.attempts) > 1:
                say("jobs", f"attempt {number}")
            start = read.setdefault(number, 0)
            try:
                for lines, end in read_all_logs(launcher, record.job, number, start):
                    print(*map(shown, lines), sep="\n", flush=True)
                    read[number] = end
            except Unreachable as error:
                if over:
                    raise UserError(f"the log cannot be read: {error}") from error
                tell_lost(f"the log cannot be read now: {error}")
        if over:
            return 0
        time.sleep(1)


@app.command
def pause(out: Out, *, json: Json = False) -> int:
    """Let a job save and end; `mswitch jobs resume` continues it.

    After two minutes it is killed. This command waits until all its processes have ended.

        mswitch jobs pause run
    """
    return _leave(out, "pause", json)


@app.command
def cancel(out: Out, *, json: Json = False) -> int:
    """Let a job save and end, and do not start it again. Its output stays.

    After two minutes it is killed. This command waits until all its processes have ended.

        mswitch jobs cancel run
    """
    return _leave(out, "cancel", json)


@app.command
def resume(out: Out, *, wait: Wait = False, json: Json = False) -> int:
    """Continue a job that was paused, cancelled or interrupted, that failed or was refused.

    The submitted command runs again. To change its options, submit it with other options.

        mswitch jobs resume run
    """
    record = need_record(out)
    return _start(record.job, _read_operators().make_launcher(record.launcher), wait, json)


@app.command
def adopt(out: Out, *, wait: Wait = False, json: Json = False) -> int:
    """Follow a job that nobody follows, so that it is started again after an interruption.

    The job then belongs to you, not to a flow run. A paused job stays paused. A job that a process
    follows keeps its owner.

        mswitch jobs adopt run
    """
    record = need_record(out)
    if read_follower(record.job.path) is None:
        with edit_record(record.job.path) as edited:
            edited.owner = HAND
    return _follow(record.job.path, wait, json)


def _compute_cost(record: Record, summary: doors.Summary) -> dict[str, float]:
    """Return chip hours and USD of a job; empty if its launcher has no price in operators.toml."""
    price, hours = _read_operators().find_price(record), summary.host_hours
    if price is None:
        return {}
    return {"chip_hours": round(hours * price.chips, 4), "usd": round(price.usd(hours), 2)}


def _make_job(command: Sequence[str], hosts: int, record: Path | None) -> Job:
    from mswitch.flows.cli.app import SUBCOMMANDS

    if not command or command[0] not in SUBCOMMANDS or command[0] == "jobs":
        given = repr(command[0]) if command else "nothing"
        raise UserError(
            f"{given} is not a command of mswitch: give a command after `--`, as in `mswitch jobs "
            "submit -- train --preset ...`"
        )
    return make_command_job(command, hosts, record)


def _read_operators() -> "Operators":
    # Import it late: this takes long.
    from mswitch.flows.prefect.operators_toml import read_operators

    return read_operators()


def _name_person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return f"user {os.getuid()}"


def _start(job: Job, launcher: Launcher, wait: bool, json: bool) -> int:
    try:
        doors.want(job, launcher, HAND, _name_person())
    except Unreachable as error:
        raise UserError(
            f"the scheduler does not answer, so nothing was submitted ({error}): repeat the "
            "command when it does"
        ) from error
    return _follow(job.path, wait, json)


def _follow(place: Path, wait: bool, json: bool) -> int:
    """Follow the job at `place` to its end. Without `wait`, poll once and follow in background."""
    record = need_record(place)
    if not wait and (who := read_follower(place)):
        return _print(place, f"already followed by {who}; see {_name_logs_command(place)}", json)

    def print_lines(lines: list[str]) -> None:
        if wait:
            print(*lines, sep="\n", flush=True)

    job, launcher = record.job, _read_operators().make_launcher(record.launcher)
    tell = say_news("jobs") if wait else doors.follow_once
    try:
        state = doors.follow(job, launcher, on_lines=print_lines, on_poll=tell)
    except doors.StopFollowing as status:
        words = [*MSWITCH, "jobs", "adopt", str(place), "--wait"]
        with open(locate_job_directory(place) / "follower.log", "ab") as log:
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the job's output is in its log
                stderr=log,
                start_new_session=True,
            )
        return _print(place, f"{status}; see {_name_logs_command(place)}", json)
    return _finish(place, state, json)


def _leave(out: Path, how: doors.Ending, json: bool) -> int:
    record = need_record(out)
    # An error in operators.toml must not prevent stopping a job. So use the record's launcher.
    job, launcher = record.job, make_launcher(record.launcher)
    tell_news = say_news("jobs")
    try:
        doors.leave(job, launcher, how, HAND)
    except Unreachable as error:
        say("jobs", f"not reachable ({error}); trying again")

    def tell(text: str) -> None:
        if need_record(out).intent == "run":
            raise doors.StopFollowing
        tell_news(text)

    try:
        _finish(job.path, doors.follow(job, launcher, on_poll=tell), json)
    except doors.StopFollowing:  # somebody has let the job run again, such as by `resume`
        return _follow(job.path, wait=False, json=json)
    return 0


def _finish(place: Path, state: State, json: bool) -> int:
    message = f" ({_make_line(state.message)})" if state.message != state.name else ""
    _print(place, f"{state.name}{message}", json)
    return EXIT_CODES[state.name]


def _print(place: Path, text: str, json: bool) -> int:
    record = need_record(place)
    return print_result(
        doors.as_json(record, doors.look(record)), f"{_name_job(record.job)}: {text}", json
    )


def _name_logs_command(place: Path) -> str:
    return f"`mswitch jobs logs -f {_make_line(shlex.quote(str(place)))}`"


def _name_job(job: Job) -> str:
    return _make_line(job.path) + (f" ({_make_line(job.out)})" if job.record else "")


def _make_line(text: object) -> str:
    """Turn text into one line without control characters."""
    return visible(str(text)).replace("\n", "\\n")


def _format_time(secs: float | None) -> str:
    return "now" if secs is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))
