"""How a job is, in words and for programs."""

import dataclasses
import time
from typing import Any

from mswitch.flows.jobs.controller import decide, is_finished
from mswitch.flows.jobs.job import Unreachable
from mswitch.flows.jobs.launchers import make_launcher
from mswitch.flows.jobs.record import Record, follower
from mswitch.pipelines.errors import UserError

#: States in which nothing more happens until somebody asks for it.
FINAL = ("done", "refused", "failed", "paused", "cancelled")


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a job is.

    Attributes:
        state: one of `FINAL`; `pending` or `running`; `waiting`: to be started (again); `ended`:
            and nobody has judged it; `unreachable`: the scheduler or the bucket does not answer.
        message: why, or where it runs.
        followed_by: who starts it again when it is interrupted; None: nobody does.
        progress: `mswitch.flows.jobs.job.Job.progress`; the last known where the bucket does not
            answer.
        host_hours: for which its attempts held hosts.
    """

    state: str
    message: str
    followed_by: str | None
    progress: int
    host_hours: float


def summarise(record: Record) -> Summary:
    """Look at a job without changing anything."""
    alive, state, message, until = record.alive, "waiting", "", time.time()
    if alive is not None:
        try:
            status = make_launcher(record.launcher).poll(record.job, alive.number)
            state, until = status.phase, status.ended or until
            message = " ".join(part for part in (status.where, status.reason) if part)
        except (Unreachable, UserError) as error:  # such as: Slurm is not installed here
            state, message = "unreachable", str(error)
    progress = 0 if record.last is None else record.last.progress + record.last.made
    try:
        marker, progress = record.job.has_marker(), record.job.progress()
    except Unreachable as error:
        if alive is None:
            state, message = "unreachable", str(error)
    else:
        if alive is None:
            result = decide(record, marker)
            if result is not None:
                state, message = result.outcome, result.message
        elif state in ("ended", "unreachable") and is_finished(record, marker):
            state, message = "done", "done"
    hours = round(record.host_hours(until), 4)
    return Summary(state, message, follower(record.job.place), progress, hours)


def as_json(record: Record, summary: Summary) -> dict[str, Any]:
    """Record and summary as one object, for programs."""
    value = {"stage": "jobs", "out": str(record.job.out), **dataclasses.asdict(summary)}
    return {**value, "record": record.as_json()}
