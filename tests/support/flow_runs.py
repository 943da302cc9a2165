"""Flow runs by their state, and records of their jobs."""

import dataclasses
from pathlib import Path
from typing import Any
from uuid import uuid4

from job_world import write_record
from prefect.client.schemas.objects import FlowRun, State, StateType

from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.record import Attempt, Record
from mswitch.flows.prefect.owners import name_owner

NAMES = {StateType.PAUSED: "Suspended"}


def record(tmp_path: Path, run: FlowRun, **changes: Any) -> Record:
    job = Job(("train", f"--out={tmp_path / 'run'}"), tmp_path / "run")
    owner, attempts = name_owner(run.id), [Attempt(1, 0.0, 0)]
    made = Record(job, {"launcher": "here"}, owner=owner, wanted_by=[owner], attempts=attempts)
    return write_record(dataclasses.replace(made, **changes))


def flow_run(kind: StateType) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=State(type=kind, name=NAMES.get(kind, "Any")))
