"""What a flow does beside its trainings, and when one of them fails."""

import dataclasses
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from corpus_files import read_json
from job_world import write_record
from report_runs import Scenario, edit_config, write_runs
from trees import data_bytes

from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Record, read_record
from mswitch.flows.prefect import show, trainings
from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.trainings import Trainings
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import lines_to


@pytest.fixture
def shown(monkeypatch):
    """The Markdown artifacts that were made."""
    made: list[str] = []
    monkeypatch.setattr(show, "create_markdown_artifact", lambda text, _: made.append(text))
    monkeypatch.setattr(trainings, "REPORT_SECS", 0.0)
    return made


def trainings_of(runs, out) -> Trainings:
    settings = PairSettings(training=dataclasses.replace(PairSettings.training, steps=100))
    planned = [Planned(run, run.name, settings.training, settings.mixture) for run in runs]
    reports = {out: ([runs[0]], [runs[1]])}
    guard: Any = SimpleNamespace(launcher=Local(), note=str, refuse=lambda: None)
    return Trainings(planned, settings, out, Local(), reports, guard)


def test_what_is_evaluated_is_reported_while_runs_train(tmp_path, shown):
    runs = write_runs(tmp_path, Scenario({"de": 6, "sw": 6}, {"de": 2.0, "sw": 2.0}, steps=100))
    (runs[1] / "_COMPLETED").unlink()
    made = trainings_of(runs, tmp_path / "report")
    made._report_so_far()
    made._report_so_far()
    verdict, page = shown
    assert verdict.startswith("Up to step 100 of 100, ")
    assert str(tmp_path / "report-so-far" / "report.html") in page
    assert "![Loss curves](data:image/svg+xml;base64," in page


def test_a_finished_report_stays_until_the_next_is_finished(tmp_path, shown, monkeypatch):
    def runs_of(name, steps):
        (tmp_path / name).mkdir()
        return write_runs(tmp_path / name, Scenario({"de": 6}, {"de": 2.0}, steps=steps))

    def written(runs) -> str:
        write = show.write_page._task.fn.__wrapped__
        return write(([runs[0]], [runs[1]]), out, ReportConfig(resamples=100))

    monkeypatch.setattr(show, "read_operators", lambda: Operators(storage=tmp_path))
    out = tmp_path / "pairs" / "nightly" / "report"
    before = written(runs_of("first", 50))
    finished = data_bytes(out)
    runs = runs_of("longer", 100)
    marker = (runs[1] / "_COMPLETED").rename(tmp_path / "marker")
    trainings_of(runs, out)._report_so_far()
    assert data_bytes(out) == finished
    assert read_json(out.with_name("report-so-far") / "report.json")["summary"]["unfinished"]

    marker.rename(runs[1] / "_COMPLETED")
    after = written(runs)
    assert data_bytes(out) != finished
    assert not out.with_name("report-so-far").exists()
    for verdict in (before, after):
        assert verdict.endswith(f" {out}/report.html")


def test_a_run_that_is_to_be_extended_is_not_reported_on_yet(tmp_path, shown):
    runs = write_runs(tmp_path, Scenario({"de": 6}, {"de": 2.0}, steps=50))
    trainings_of(runs, tmp_path / "report")._report_so_far()
    assert not shown
    assert not list(tmp_path.glob("report*"))


def test_a_report_that_goes_wrong_is_logged_once_and_stops_nothing(tmp_path, shown):
    runs = write_runs(tmp_path, Scenario({"de": 6}, {"de": 2.0}, steps=100))
    edit_config(runs[1], eval_steps=["x"])
    made = trainings_of(runs, tmp_path / "report")
    said: list[str] = []
    with lines_to(said.extend):
        made._report_so_far()
        made._report_so_far()
    [line] = said
    assert line.startswith("[report] no report on the steps so far: ValueError(")
    assert not shown


def test_a_training_that_fails_says_why_though_no_scheduler_answers(tmp_path, monkeypatch):
    """And every evaluation that watches is to stop, once its scheduler answers."""
    runs = [tmp_path / "mt5-tiny", tmp_path / "mswitch-tiny"]

    class Silent(Local):
        def find(self, job: Job) -> list[int]:
            raise Unreachable("no route")

    class Failed:
        state = SimpleNamespace(is_failed=lambda: True)

        def wait(self) -> None: ...

        def result(self) -> None:
            raise UserError("the loss is not a number")

    futures = SimpleNamespace(submit=lambda *_, **__: Failed())
    monkeypatch.setattr("mswitch.flows.jobs.launchers.LAUNCHERS", {"local": Silent})
    monkeypatch.setattr(trainings, "follow_job", futures)
    monkeypatch.setattr(trainings, "wait", lambda these, **_: SimpleNamespace(done={*these}))
    monkeypatch.setattr(trainings, "this_flow_run", SimpleNamespace(id=str(uuid4())))
    made = trainings_of(runs, tmp_path / "report")
    for one in made.planned:
        made.evaluations[one.path] = Failed()
        write_record(Record(made._evaluation(one, watch=True), Local().profile))

    with pytest.raises(UserError, match="the loss is not a number"):
        made.train(2)

    assert [read_record(run / "eval").intent for run in runs] == ["cancel", "cancel"]
