"""Parts of flows that need no server."""

import contextlib
import dataclasses
import datetime
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from job_world import write_record
from prefect.client.schemas.objects import CreatedBy, FlowRun, State, StateType
from prefect.exceptions import Abort, ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from prefect.utilities.names import generate_slug
from processes import run_python

from mswitch.flows.jobs.job import Job, Status, Unreachable
from mswitch.flows.jobs.record import Attempt, Record, follow_alone, read_record
from mswitch.flows.prefect import artifacts, steps
from mswitch.flows.prefect.artifacts import key_of, last_metrics
from mswitch.flows.prefect.corpora import build_job
from mswitch.flows.prefect.flows import reconcile as reconciling
from mswitch.flows.prefect.flows.append_crawl import has_dump, options_of_build
from mswitch.flows.prefect.flows.examples import check_limit
from mswitch.flows.prefect.parameters import JobCancelledError
from mswitch.flows.prefect.profile import Dataflow, Operators
from mswitch.flows.prefect.run_names import is_made_up
from mswitch.flows.prefect.steps import SlowLog, cancel_jobs, flow_run_of, owner_of
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import lines_to, pass_on, say

NAMES = {StateType.PAUSED: "Suspended"}


def test_lines_are_logged_at_most_once_a_second_and_none_is_lost(monkeypatch):
    now = 100.0
    monkeypatch.setattr(steps.time, "monotonic", lambda: now)
    logged: list[str] = []
    log = SlowLog(logged.append)

    log(["a"])
    log(["b"])
    now += 0.5
    log(["c", "d"])
    assert logged == ["a"]
    now += 0.6
    log([])
    assert logged == ["a", "b\nc\nd"]
    log(["e"])
    log.flush()
    assert logged == ["a", "b\nc\nd", "e"]


def test_lines_go_to_the_listener_and_afterwards_to_standard_error_again(capsys):
    heard: list[str] = []
    with lines_to(heard.extend):
        say("train", "step 1")
        pass_on(["as it is"])
    say("train", "step 2")

    assert heard == ["[train] step 1", "as it is"]
    assert capsys.readouterr().err == "[train] step 2\n"


def test_the_last_metrics_are_those_of_the_last_whole_line(tmp_path):
    assert last_metrics(tmp_path) == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_metrics(tmp_path) == [{"step": 2}]
    assert last_metrics(tmp_path, 5) == [{"step": 1}, {"step": 2}]
    file.write_text('{"st')
    assert last_metrics(tmp_path) == []


def test_an_artifact_has_a_key_that_prefect_allows_and_numbers_that_one_can_read(monkeypatch):
    assert key_of("report", "My pair_1.2") == "report-my-pair-1-2"
    shown = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, *_: shown.extend(rows))
    artifacts.show_table("key", [{"lang": "af", "share": 0.07281553398058252, "n": 12345}])
    assert shown == [{"lang": "af", "share": 0.07282, "n": 12345}]


def test_the_gate_names_the_worst_language():
    rows = [
        {"lang": "de", "unknown_share": 0.001},
        {"lang": "sw", "unknown_share": 0.2},
        {"lang": "th", "unknown_share": None},
    ]
    check_limit(rows, "unknown_share", 0.2, "max_unknown_share")
    with pytest.raises(UserError, match=r"1 of 3 languages .* above 0.1, the most sw with 0.2"):
        check_limit(rows, "unknown_share", 0.1, "max_unknown_share")


def test_a_name_that_prefect_made_up_is_told_from_one_that_a_person_gave():
    made_up = ["", "zeta3-lyrae-vector", "mu-ursae-majoris", "Rustic-Zebu"]
    made_up += [generate_slug(2) for _ in range(100)]
    assert [name for name in made_up if not is_made_up(name)] == []
    given = ["second try", "second-try", "alpha", "lr-0.1", "Small", "alphabet-of-10", "pretrain a"]
    assert [name for name in given if is_made_up(name)] == []


def test_a_corpus_knows_the_dumps_it_has(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    manifest = {
        "stage": "corpus",
        "inputs": [{"path": "../../crawls/CC-MAIN-2024-10/wet/a.gz"}],
        "additions": [{"inputs": [{"path": "../../crawls/CC-MAIN-2024-18.wet-2/wet/b.gz"}]}],
    }
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    (corpus / "_COMPLETED").write_text("")

    assert has_dump(corpus, "CC-MAIN-2024-10")
    assert has_dump(corpus, "CC-MAIN-2024-18")
    assert not has_dump(corpus, "CC-MAIN-2024-1")
    with pytest.raises(UserError, match="does not exist"):
        has_dump(tmp_path / "none", "CC-MAIN-2024-10")


def test_an_addition_takes_the_options_of_the_build(tmp_path):
    out = tmp_path / "corpus"
    with pytest.raises(UserError, match="was not built by flow corpus"):
        options_of_build(out)
    words = ("--input=a.gz", f"--out={out}", "--min-lines=1", "--languages=de", "--append")
    job = Job(("corpus", "build", *words, "--", "--project=p"), out)
    write_record(Record(job, {"launcher": "local"}))

    assert options_of_build(out) == ["--min-lines=1", "--languages=de"]
    by_hand = Job(("corpus", "build", "--input", "a.gz", "--out", str(out)), out)
    write_record(Record(by_hand, {"launcher": "local"}))
    with pytest.raises(UserError, match="was not built by flow corpus"):
        options_of_build(out)


def test_a_build_on_dataflow_goes_to_its_bucket_and_is_found_there(tmp_path):
    options = ["--min-lines=1", "--runner=dataflow"]
    place = tmp_path / "corpora" / "a"
    with pytest.raises(
        UserError, match=r"dataflow needs storage and options in \[dataflow\] of op"
    ):
        build_job(["gs://b/x"], place, options, Operators(), append=False)
    dataflow = Dataflow(storage="gs://b/mswitch/", options=("--project=p",))
    operators = Operators(storage=tmp_path, dataflow=dataflow)
    assert operators.output("corpora", "a") == place
    job = build_job(["gs://b/x"], place, options, operators, append=False)
    assert (job.out, job.place) == ("gs://b/mswitch/corpora/a", place)
    out = "--out=gs://b/mswitch/corpora/a"
    assert job.argv[2:] == ("--input=gs://b/x", out, *options, "--", "--project=p")

    write_record(Record(job, {"launcher": "local"}))

    assert read_record(place).job == job
    assert operators.output("corpora", "a") == job.out
    assert options_of_build(place) == options


@dataclasses.dataclass
class Launched:
    """A launcher whose attempts live until they are asked to stop."""

    profile: dict[str, Any] = dataclasses.field(default_factory=lambda: {"launcher": "here"})
    stopped: int = 0
    poll_secs: float = 0.1

    def poll(self, job: Job, attempt: int) -> Status:
        return Status("ended", codes=(75,)) if self.stopped else Status("running")

    def find(self, job: Job) -> list[int]:
        return [1]

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        return [], start

    def stop(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        self.stopped += 1


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """A launcher, and told events and flow runs that were started again."""
    launcher = Launched()
    monkeypatch.setattr("mswitch.flows.jobs.launchers.LAUNCHERS", {"here": lambda: launcher})
    events: list[str] = []
    monkeypatch.setattr(reconciling, "emit_event", lambda event, *_, **__: events.append(event))
    return launcher, events


@pytest.fixture
def server(monkeypatch):
    """Lets a client with these methods stand in for that of a server, and this be a flow run."""

    def answers(run: UUID | None = None, **methods: Callable[..., Any]) -> None:
        client = SimpleNamespace(**methods)
        for module in (steps, reconciling):
            monkeypatch.setattr(module, "get_client", lambda **_: contextlib.nullcontext(client))
        monkeypatch.setattr(steps, "this_flow_run", SimpleNamespace(id=str(run or uuid4())))
        monkeypatch.setattr(steps, "STATE_SECS", 0.0)

    return answers


def record(tmp_path: Path, run: FlowRun, **changes: Any) -> Record:
    job = Job(("train", f"--out={tmp_path / 'run'}"), tmp_path / "run")
    owner, attempts = owner_of(run.id), [Attempt(1, 0.0, 0)]
    made = Record(job, {"launcher": "here"}, owner=owner, wanted_by=[owner], attempts=attempts)
    return write_record(dataclasses.replace(made, **changes))


def flow_run(kind: StateType) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=State(type=kind, name=NAMES.get(kind, "Any")))


def test_the_owner_of_a_job_is_its_flow_run_or_a_person():
    run = uuid4()
    assert flow_run_of(owner_of(run)) == run
    assert flow_run_of("ada") is None


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "pair, by hand"),
        ({"tags": ["mswitch", "owner:ana"]}, "pair of ana, by hand"),
        ({"auto_scheduled": True}, "pair, by its schedule"),
        (
            {"created_by": CreatedBy(type="AUTOMATION", display_value="nights")},
            "pair, by the automation nights",
        ),
        ({"parent_task_run_id": uuid4()}, "pair, by another flow run"),
    ],
)
def test_who_started_a_flow_run(monkeypatch, known, said):
    run = FlowRun(flow_id=uuid4(), **known)
    context = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=run))
    monkeypatch.setattr(steps, "FlowRunContext", context)
    monkeypatch.setattr(steps, "this_deployment", SimpleNamespace(name="pair"))
    monkeypatch.setattr(steps, "this_flow_run", SimpleNamespace(flow_name="flow"))
    assert steps.started_by() == said


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
        # It could not be asked before.
        (StateType.FAILED, "cancel", "cancel", "mswitch.job.stopped"),
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


def test_the_job_of_a_flow_run_that_ended_is_left_to_another(launched, tmp_path, server):
    launcher, events = launched
    run, other = flow_run(StateType.FAILED), flow_run(StateType.RUNNING)
    wanted_by = [owner_of(one) for one in (other.id, uuid4(), run.id)]

    def read(run_id: UUID) -> FlowRun:
        if run_id != other.id:
            raise ObjectNotFound(Exception("deleted"))
        return other

    server(read_flow_run=read)
    reconciling.settle(record(tmp_path, run, wanted_by=wanted_by), run)

    after = read_record(tmp_path / "run")
    assert (after.owner, after.wanted_by) == (owner_of(other.id), [owner_of(other.id)])
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
        run, [dataclasses.replace(made, wanted_by=[owner_of(uuid4())], intent="cancel")]
    )
    assert again == [run, run, run]


def test_flow_runs_are_lost_that_crashed_or_got_no_process(server):
    ages = {("CRASHED", 0): True, ("PENDING", 30): False, ("PENDING", 200): True}
    runs = []
    for kind, secs in ages:
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=secs)
        state = State(type=StateType(kind), name="Submitting", timestamp=then)
        runs.append(FlowRun(flow_id=uuid4(), state=state))
    server(read_flow_runs=lambda **_: runs)

    lost = reconciling.lost_flow_runs()

    assert lost == [run for run, wanted in zip(runs, ages.values(), strict=True) if wanted]


def test_a_flow_run_that_cancels_without_a_process_is_cancelled(launched, tmp_path, monkeypatch):
    ended: list[FlowRun] = []
    monkeypatch.setattr(reconciling, "finish_cancelling", lambda run, _: ended.append(run))
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
    monkeypatch.setattr("mswitch.flows.jobs.controller.call", call)
    run = flow_run(StateType.CANCELLING)
    build = Job(("corpus", "build", "--runner=dataflow"), tmp_path / "run")
    record(tmp_path, run, job=build, attempts=[Attempt(1, 0.0, 0, outcome="resume")])

    cancel_jobs(Operators(storage=tmp_path), run.id)
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

    reconciling.report_stall(made, 1000 + 1799)
    assert not events
    reconciling.report_stall(made, 1000 + 1801)
    reconciling.report_stall(made, 1000 + 1900)
    assert events == [reconciling.STALLED]

    # A newer file of the output is progress; what follows is told anew.
    made.job.out.mkdir()
    (made.job.out / "metrics.jsonl").touch()
    os.utime(made.job.out / "metrics.jsonl", (2500, 2500))
    reconciling.report_stall(made, 2500 + 1799)
    assert len(events) == 1
    reconciling.report_stall(made, 2500 + 1801)
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
    reconciling.report_stall(made, 3000.0)
    assert not events


@pytest.mark.parametrize("slow", [True, False])
def test_a_flow_run_that_is_resumed_while_it_is_suspended_stays_resumed(
    slow, launched, tmp_path, monkeypatch, server
):
    """Another process may run it by then, also before the job has ended."""
    launcher, _ = launched
    run = flow_run(StateType.RUNNING)
    made = record(tmp_path, run)
    if slow:
        monkeypatch.setattr(launcher, "poll", lambda *_: Status("running"))
    states = [State(type=StateType.PAUSED, name="Suspended"), State(type=StateType.RUNNING)]
    server(
        run.id,
        read_flow_run=lambda _: SimpleNamespace(state=states.pop(0)),
        set_flow_run_state=lambda *_, **__: pytest.fail("the state was replaced"),
    )

    with pytest.raises(Abort, match="Running again: another process continues it"):
        steps.follow(made.job, launcher)

    assert launcher.stopped
    assert not states
    assert read_record(tmp_path / "run").intent == "pause"


def test_a_server_that_does_not_answer_is_told_once_and_so_is_its_return(
    launched, tmp_path, monkeypatch, server
):
    """Its client would try again for a minute, in which nobody looked at the job."""
    launcher, _ = launched
    answers = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), StateType.RUNNING]
    retries: list[int] = []

    def read(_: UUID) -> SimpleNamespace:
        retries.append(PREFECT_CLIENT_MAX_RETRIES.value())
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(state=State(type=answer))

    server(read_flow_run=read)
    monkeypatch.setattr(
        launcher, "poll", lambda *_: Status("running") if answers else Status("ended", codes=(0,))
    )
    said: list[str] = []
    with lines_to(said.extend):
        steps.follow(Job(("evaluate",), tmp_path / "eval", marked=False), launcher)

    told = [line for line in said if "server" in line]
    assert (
        told[0] == "[evaluate] the Prefect server does not answer (ConnectError); the job goes on"
    )
    assert re.fullmatch(
        r"\[evaluate\] the Prefect server answers again, .* \d\d:\d\d:\d\d", told[1]
    )
    assert len(told) == 2
    assert retries == [0, 0, 0]


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_job_is_asked_for_once_its_scheduler_answers(
    cancelled, launched, tmp_path, monkeypatch, server
):
    launcher, _ = launched
    silent = [Unreachable("no route")] * 2

    def find(_: Job) -> list[int]:
        if silent:
            raise silent.pop()
        return []

    monkeypatch.setattr(launcher, "find", find)
    monkeypatch.setattr(launcher, "submit", lambda *_: None, raising=False)
    monkeypatch.setattr(launcher, "poll", lambda *_: Status("ended", codes=(0,)))
    state = State(type=StateType.CANCELLING if cancelled else StateType.RUNNING)
    server(read_flow_run=lambda _: SimpleNamespace(state=state))
    job = Job(("evaluate",), tmp_path / "eval", marked=False)
    with pytest.raises(JobCancelledError) if cancelled else contextlib.nullcontext():
        steps.follow(job, launcher)
    assert not silent
    assert read_record(job.place).intent == ("cancel" if cancelled else "run")


def test_every_flow_is_loaded_without_what_only_its_jobs_need():
    """A flow run is a process: what it imports, each run waits for."""
    script = (
        "import importlib, pkgutil, sys, mswitch.flows.prefect.flows as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'mswitch.flows.prefect.flows.{module.name}')\n"
        "print(sorted({'jax', 'apache_beam', 'tensorflow', 'seqio'} & sys.modules.keys()))"
    )
    assert run_python("-c", script).stdout == "[]\n"
