"""Flow runs, the jobs they asked for, and what `reconcile` makes of both."""

import dataclasses
import datetime
import os
import subprocess
import time
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from apprise import Apprise
from flow_runs import flow_run, record
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.server.events.actions import JinjaTemplateAction
from prefect.server.utilities.user_templates import render_user_template_sync

from mswitch.flows.jobs.doors import leave, want
from mswitch.flows.jobs.job import Job, Status
from mswitch.flows.jobs.record import Attempt, follow_alone, read_record
from mswitch.flows.prefect.deploy.automations import SEVERITIES, make_automations
from mswitch.flows.prefect.flows import reconcile as reconciling
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.owners import crash_hook, name_owner, withdraw_jobs
from mswitch.flows.prefect.stalled_jobs import STALLED, report_stall


@pytest.mark.parametrize(
    ("kind", "before", "after", "told"),
    [
        (StateType.CANCELLED, "run", "cancel", "mswitch.job.stopped"),
        (StateType.PAUSED, "run", "pause", "mswitch.job.stopped"),
        (StateType.RUNNING, "run", "run", None),
        # No flow run follows it: it is told, and left alone.
        (None, "run", "run", "mswitch.job.orphaned"),
        (StateType.COMPLETED, "run", "run", "mswitch.job.orphaned"),
        (StateType.FAILED, "run", "run", "mswitch.job.orphaned"),
    ],
)
def test_a_job_and_its_flow_run_are_made_to_agree(kind, before, after, told, launched, tmp_path):
    launcher, events = launched
    run = flow_run(kind or StateType.RUNNING)

    reconciling.settle(record(tmp_path, run, intent=before), run if kind else None)

    left = read_record(tmp_path / "run")
    assert events == ([told] if told else [])
    assert launcher.stopped == (told == "mswitch.job.stopped")
    assert (left.intent, left.last.outcome) == (after, "resume" if launcher.stopped else None)


def test_a_job_that_could_not_be_asked_to_stop_before_is_asked_again(launched, tmp_path):
    launcher, events = launched
    run = flow_run(StateType.FAILED)
    record(tmp_path, run, intent="cancel")

    for told in ([], ["mswitch.job.stopped"]):
        reconciling.settle(read_record(tmp_path / "run"), run)
        assert (launcher.stopped, events) == (1, told)

    left = read_record(tmp_path / "run")
    assert (left.intent, left.last.outcome) == ("cancel", "resume")


@pytest.mark.parametrize("before", ["run", "cancel"])
def test_a_job_that_its_flow_run_asked_for_after_the_scan_goes_on(before, launched, tmp_path):
    """Somebody pressed Retry."""
    launcher, events = launched
    run = flow_run(StateType.CANCELLED)
    scanned = record(tmp_path, run, intent=before)
    want(scanned.job, launcher, scanned.owner)

    reconciling.settle(scanned, run)

    assert read_record(tmp_path / "run").intent == "run"
    assert (launcher.stopped, events) == (0, [])


def test_what_a_person_asks_for_after_the_scan_is_not_replaced(launched, tmp_path):
    launcher, _ = launched
    run = flow_run(StateType.PAUSED)
    scanned = record(tmp_path, run, intent="pause")
    leave(scanned.job, launcher, "cancel", "by hand")

    reconciling.settle(scanned, run)

    assert read_record(tmp_path / "run").intent == "cancel"


def test_the_job_of_a_flow_run_that_ended_is_left_to_another(launched, tmp_path, server):
    launcher, events = launched
    run, other = flow_run(StateType.FAILED), flow_run(StateType.RUNNING)
    wanted_by = [name_owner(one) for one in (other.id, uuid4(), run.id)]

    def read(run_id: UUID) -> FlowRun:
        if run_id != other.id:
            raise ObjectNotFound(Exception("deleted"))
        return other

    server(read_flow_run=read)
    reconciling.settle(record(tmp_path, run, wanted_by=wanted_by), run)

    after = read_record(tmp_path / "run")
    assert (after.owner, after.wanted_by) == (name_owner(other.id), [name_owner(other.id)])
    assert not events
    assert not launcher.stopped


def test_a_crashed_flow_run_is_started_again_unless_a_person_paused_its_job(
    launched, tmp_path, monkeypatch
):
    again: list[FlowRun] = []
    monkeypatch.setattr(reconciling, "start_again", again.append)
    run = flow_run(StateType.CRASHED)
    made = record(tmp_path, run)

    reconciling.revive(run, [made])
    assert again == [run]
    reconciling.revive(run, [dataclasses.replace(made, intent="cancel")])
    reconciling.revive(run, [dataclasses.replace(made, owner="by hand", intent="pause")])
    with follow_alone(made.job.out, print, time.sleep):
        reconciling.revive(run, [made])
    assert again == [run]
    reconciling.revive(run, [dataclasses.replace(made, owner="by hand", intent="cancel")])
    assert again == [run]
    # Suspended and resumed, it has come to the first job, and not to the second.
    reconciling.revive(run, [made, dataclasses.replace(made, intent="pause")])
    assert again == [run, run]
    # It had asked for no job yet.
    reconciling.revive(
        run, [dataclasses.replace(made, wanted_by=[name_owner(uuid4())], intent="cancel")]
    )
    assert again == [run, run, run]


def test_a_flow_run_that_crashed_too_often_fails_and_the_others_start_again(server):
    states: list[tuple[str, str | None]] = []
    server(set_flow_run_state=lambda _, state, **__: states.append((state.name, state.message)))
    run = flow_run(StateType.CRASHED)

    reconciling.start_again(run.model_copy(update={"run_count": 19}))
    assert [name for name, _ in states] == ["Crashed", "AwaitingRetry"]
    reconciling.start_again(run.model_copy(update={"run_count": 20}))
    assert states[2:] == [("Failed", "It crashed 20 times: repair the cause, then press Retry.")]


@pytest.mark.parametrize(
    ("count", "after"), [(1, "starts again within two minutes, time 2 of 20"), (20, "press Retry")]
)
def test_a_crash_is_said_in_words(count, after, server):
    states: list[State] = []
    now = flow_run(StateType.CRASHED).model_copy(update={"run_count": count})
    server(
        read_flow_run=lambda _: now,
        set_flow_run_state=lambda _, state, **__: states.append(state),
    )
    exited = State(type=StateType.CRASHED, message="Aborted by Python system exit call.")
    crash_hook(None, now, exited)
    assert states[0].message.startswith("The process of this flow run ended. Its jobs keep running")
    assert after in states[0].message
    assert states[0].message.endswith(exited.message)
    # It was started again meanwhile.
    now = flow_run(StateType.SCHEDULED)
    crash_hook(None, now, exited)
    assert len(states) == 1


@pytest.mark.parametrize(
    ("name", "state", "sent"),
    [
        ("crashed", StateType.CRASHED, True),
        ("crashed", StateType.SCHEDULED, True),
        ("crashed", StateType.COMPLETED, False),
        ("crashed", StateType.CANCELLED, False),
        ("failed", StateType.FAILED, True),
        ("failed", StateType.RUNNING, False),
        ("approval", StateType.PAUSED, True),
        ("verdict", StateType.COMPLETED, True),
    ],
)
def test_a_message_that_comes_too_late_is_empty_and_so_not_sent(name, state, sent):
    """As those of a server that was restarted, which keeps them for 15 minutes."""
    [one] = [
        made
        for made in make_automations(dict.fromkeys(SEVERITIES, uuid4()))
        if made.name.endswith(name)
    ]
    [action] = one.actions
    run = FlowRun(flow_id=uuid4(), name="owl", run_count=3)
    context = {
        "flow_run": run.model_copy(update={"state_type": state, "state": State(type=state)}),
        "event": SimpleNamespace(occurred=datetime.datetime(2026, 3, 1, 2, 3, 4)),
    }
    JinjaTemplateAction._register_filters_if_needed()
    texts = [render_user_template_sync(text, context) for text in (action.subject, action.body)]
    assert [bool(text) for text in texts] == [sent, sent]
    if name == "crashed" and sent:
        assert texts[1].startswith("owl crashed at 02:03:04 UTC: its process ended. Nothing is")
        assert "It starts again within two minutes, time 4 of 20." in texts[1]
    if not sent:
        assert not Apprise("json://127.0.0.1:9").notify(texts[1], texts[0])


def test_flow_runs_are_lost_that_crashed_or_got_no_process(server):
    ages = {("CRASHED", 0): True, ("PENDING", 30): False, ("PENDING", 200): True}
    runs = []
    for kind, secs in ages:
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=secs)
        state = State(type=StateType(kind), name="Submitting", timestamp=then)
        runs.append(FlowRun(flow_id=uuid4(), state=state))
    server(read_flow_runs=lambda **_: runs)

    lost = reconciling.find_lost_flow_runs()

    assert lost == [run for run, wanted in zip(runs, ages.values(), strict=True) if wanted]


def test_a_flow_run_that_cancels_without_a_process_is_cancelled(launched, tmp_path, monkeypatch):
    ended: list[FlowRun] = []
    monkeypatch.setattr(reconciling, "end_flow_run", lambda run, _: ended.append(run))
    run = flow_run(StateType.CANCELLING)

    reconciling.settle(record(tmp_path, run), run)
    assert not ended
    reconciling.settle(read_record(tmp_path / "run"), run)
    assert ended == [run]


def test_what_a_cancelled_build_left_on_dataflow_is_cancelled(
    launched, tmp_path, monkeypatch, server
):
    """Its process had ended, and that of its flow run too."""
    called: list[tuple[str, ...]] = []

    def call(*words: str, where: str) -> subprocess.CompletedProcess[str]:
        called.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    ended: list[FlowRun] = []
    server(set_flow_run_state=lambda run, *_, **__: ended.append(run))
    monkeypatch.setattr("mswitch.flows.jobs.doors.call", call)
    run = flow_run(StateType.CANCELLING)
    build = Job(("corpus", "build", "--runner=dataflow"), tmp_path / "run")
    record(tmp_path, run, job=build, attempts=[Attempt(1, 0.0, 0, outcome="resume")])

    withdraw_jobs(Operators(storage=tmp_path), run.id)
    reconciling.settle(read_record(tmp_path / "run"), run)

    assert [words[-1] for words in called] == ["--cancel", "--cancel"]
    assert ended == [run.id]


def test_a_job_that_writes_nothing_for_half_an_hour_is_told_once(launched, tmp_path, monkeypatch):
    launcher, events = launched
    made = record(tmp_path, flow_run(StateType.RUNNING))
    log = made.job.file(1, ".log")
    log.touch()
    os.utime(log, (1000, 1000))
    monkeypatch.setattr(launcher, "poll", lambda *_: Status("running", started=500.0))

    report_stall(made, 1000 + 1799)
    assert not events
    report_stall(made, 1000 + 1801)
    report_stall(made, 1000 + 1900)
    assert events == [STALLED]

    # A newer file of the output is progress; what follows is told anew.
    made.job.out.mkdir()
    (made.job.out / "metrics.jsonl").touch()
    os.utime(made.job.out / "metrics.jsonl", (2500, 2500))
    report_stall(made, 2500 + 1799)
    assert len(events) == 1
    report_stall(made, 2500 + 1801)
    assert len(events) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status("pending"), ()),
        (Status("ended"), ()),
        (Status("running", started=1500.0), ()),  # it waited long, and has just begun
        (Status("running", started=1.0), ("--watch",)),
        (Status("running", started=1.0), ("--runner=dataflow",)),
        (Status("running", started=1.0), ("--runner", "dataflow")),
    ],
)
def test_a_job_that_has_a_reason_to_write_nothing_is_not_told(
    status, words, launched, tmp_path, monkeypatch
):
    launcher, events = launched
    made = record(tmp_path, flow_run(StateType.RUNNING))
    made.job = dataclasses.replace(made.job, argv=(*made.job.argv, *words))
    monkeypatch.setattr(launcher, "poll", lambda *_: status)
    report_stall(made, 3000.0)
    assert not events
