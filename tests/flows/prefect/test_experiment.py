"""What an experiment trains, what it shares with others, and where its reports go."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import example_files
import pytest
from job_world import write_record

from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Attempt, Record
from mswitch.flows.jobs.slurm import Slurm
from mswitch.flows.prefect import trainings
from mswitch.flows.prefect.flows.comparisons import plan_reports, plan_runs, split_sides
from mswitch.flows.prefect.form_defaults import ExperimentSettings, PairSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.preflight import check_trainings
from mswitch.models.config import EvaluateConfig
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.models.training.run_directory import CONFIG
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER

SETTINGS = ExperimentSettings(
    candidates=("mswitch-tiny", "mswitch-small"), seeds=(0, 1), mixtures=("mswitch", "mc4.unimax.1")
)


@pytest.fixture
def operators(tmp_path):
    made = Operators(storage=tmp_path)
    example_files.write_examples(made.locate_directory("examples", "sample"), {"sw": (4,)}, 64, 500)
    return made


def test_each_preset_is_trained_with_each_seed_on_each_mixture(operators):
    planned = plan_runs(SETTINGS, operators)

    trained = {(one.preset, one.config.seed, one.mixture) for one in planned}
    assert len(planned) == len(trained) == len({one.out for one in planned}) == 12
    # With the first seed alone, every comparison can be made.
    assert [one.config.seed for one in planned] == [0] * 6 + [1] * 6
    # All candidates are compared with the baseline.
    baselines, candidates = split_sides(planned, "mt5-tiny")
    assert {out.name.partition("-seed-")[0] for out in baselines} == {"mt5-tiny"}
    assert [len(baselines), len(candidates)] == [4, 8]


def test_a_mixture_is_what_it_says_and_not_what_it_is_called(operators, tmp_path):
    file = tmp_path / "even.toml"

    def runs(text):
        file.write_text(text)
        settings = dataclasses.replace(SETTINGS, mixtures=(str(file),))
        return {one.out for one in plan_runs(settings, operators)}

    named = dataclasses.replace(SETTINGS, mixtures=("mc4.unimax.1",))
    same = "mc4_only = true\nalpha = 0\nmax_epochs = 1"
    assert runs(same) == {one.out for one in plan_runs(named, operators)}
    assert not runs(same) & runs("mc4_only = true\nalpha = 0\nmax_epochs = 2")


def test_what_is_given_twice_is_refused(operators, tmp_path):
    file = tmp_path / "even.toml"
    file.write_text("mc4_only = true\nalpha = 0\nmax_epochs = 1")
    examples = operators.locate_directory("examples", "sample")
    for changes in (
        {"seeds": (0, 0)},
        {"candidates": ("mt5-tiny",)},
        {"mixtures": ("mc4.unimax.1", str(file))},
    ):
        settings = dataclasses.replace(SETTINGS, **changes)
        planned = plan_runs(settings, operators)
        with pytest.raises(UserError, match="would be trained twice: leave out a preset, seed or"):
            check_trainings._task.fn.__wrapped__(settings, planned, examples, Local())


def test_each_mixture_has_a_report_of_its_name(operators, tmp_path):
    file = tmp_path / "even.toml"
    settings = dataclasses.replace(SETTINGS, mixtures=("mc4.de", str(file)))

    assert plan_reports(settings, operators) == {
        "mc4.de": tmp_path / "experiments" / "sample" / "mc4.de",
        str(file): tmp_path / "experiments" / "sample" / "even",
    }
    twice = dataclasses.replace(SETTINGS, mixtures=("a/even.toml", str(file)))
    with pytest.raises(UserError, match=r"two of the mixtures a/even\.toml, .* have one name"):
        plan_reports(twice, operators)


def test_a_machine_trains_one_at_a_time_and_a_scheduler_gets_all():
    operators = Operators(trainings=2)
    assert operators.count_trainings_at_a_time(Local()) == 2
    assert operators.count_trainings_at_a_time(Slurm()) >= 1000
    assert operators.find_launcher("local") == Local(trainings=2)


def test_a_finished_run_is_not_evaluated_again_in_the_same_way(operators, monkeypatch):
    settings = PairSettings()
    one = Planned(operators.storage / "run", "mt5-tiny", settings.training, settings.mixture)
    job = one.evaluation("examples", settings.evaluation, watch=True)
    of_run = evaluation_steps(one.config)
    steps = [one.out / "eval" / f"{step}.parquet" for step in of_run]
    one.out.mkdir(parents=True)
    described = {"train": {"steps": one.config.steps}, "eval_steps": of_run}
    (one.out / CONFIG).write_text(json.dumps(described))
    for file in (one.out / MARKER, *steps):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    attempt = Attempt(1, 0.0, 0, ended=1.0, outcome="done")
    write_record(Record(job, Local().profile, attempts=[attempt]))
    started = []
    monkeypatch.setattr(trainings, "follow_job", lambda title, job, *_: started.append(job.argv))

    def evaluate(settings: PairSettings) -> int:
        guard: Any = SimpleNamespace(launcher=Local(), refuse=None)
        planned = trainings.Trainings([one], settings, "examples", Local(), {}, guard)
        planned.evaluate()
        return len(started)

    assert evaluate(settings) == 0
    other = dataclasses.replace(settings, evaluation=EvaluateConfig(dtype="bfloat16"))
    assert evaluate(other) == 1
    steps[0].unlink()
    assert evaluate(settings) == 2
    steps[0].touch()
    longer = dataclasses.replace(one.config, steps=2 * one.config.steps)
    one = dataclasses.replace(one, config=longer)
    assert evaluate(settings) == 3
