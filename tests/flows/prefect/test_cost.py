"""Prices, what jobs have cost, and what they will."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
from job_world import ask, write_record

from mswitch.flows.cli.main import main
from mswitch.flows.jobs.job import Job, Status
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Attempt, Record, read_record
from mswitch.flows.prefect import approval
from mswitch.flows.prefect.approval import Approval, approve
from mswitch.flows.prefect.cost import ASSUMED_UTILIZATION, CostGuard, OverBudgetError
from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.prefect.form_fields import JobCancelledError
from mswitch.flows.prefect.operators_toml import Operators, Price
from mswitch.flows.prefect.planned import Planned, make_training_job
from mswitch.models.config import EvaluateConfig
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.presets import preset
from mswitch.pipelines.errors import UserError

SETTINGS = PairSettings()
CONFIG = SETTINGS.training
MANIFEST = {"inputs_length": 64, "targets_length": 32, "vocabulary_size": 512}
HOUR = 3600.0


@pytest.fixture
def operators(tmp_path):
    return Operators(storage=tmp_path, prices={"local": Price(host_hour=2.0)})


@pytest.fixture
def planned(tmp_path):
    return [
        Planned(tmp_path / name, name, CONFIG, SETTINGS.mixture)
        for name in ("mt5-tiny", "mswitch-tiny")
    ]


def guard_of(operators, planned, limit=None, hosts=1, price=None, **beside):
    if price:
        operators = operators.model_copy(update={"prices": {"local": price}})
    settings = dataclasses.replace(SETTINGS, hosts=hosts, max_cost_usd=limit)
    return CostGuard(planned, settings, operators, MANIFEST, **beside)


def recorded(job, *attempts: Attempt):
    write_record(Record(job, Local().profile, attempts=list(attempts)))


def held(hours: float, number: int = 1, **more) -> Attempt:
    """An attempt that held its hosts for so many hours."""
    return Attempt(number, 0.0, 0, started=1000.0, ended=1000.0 + hours * HOUR, **more)


def train_some(
    one: Planned, examples: Path, steps: int, secs: float, device: str = "cpu", **changes
):
    """What a training leaves after some steps."""
    one.out.mkdir(exist_ok=True)
    model = dataclasses.replace(preset(one.preset).model, vocabulary_size=512, **changes)
    config = {
        "preset": one.preset,
        "model": dataclasses.asdict(model),
        "train": dataclasses.asdict(one.config),
        **{"examples": {}, "config_hash": "x", "device": device},
        "tokens_per_step": one.config.rows * (64 + 32) * one.config.pack,
    }
    (one.out / "config.json").write_text(json.dumps(config))
    lines = [json.dumps({"step": n + 1, "train/step_secs": secs}) for n in range(steps)]
    (one.out / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_hours_of_all_attempts_and_hosts_are_added_up(operators, planned, tmp_path):
    settings = dataclasses.replace(SETTINGS, hosts=2)
    train = make_training_job(planned[0], settings, tmp_path)
    recorded(train, held(1.5), held(0.5, 2, outcome="resume"), Attempt(3, 0.0, 0))
    recorded(planned[0].evaluation(tmp_path, EvaluateConfig(), watch=False), held(0.25))

    assert guard_of(operators, planned).spent() == pytest.approx(2 * (2 * 2.0 + 0.25))


def test_an_attempt_that_lives_costs_until_now(operators, planned, tmp_path):
    started = time.time() - HOUR
    recorded(make_training_job(planned[0], SETTINGS, tmp_path), Attempt(1, 0.0, 0, started=started))
    assert guard_of(operators, planned).spent() == pytest.approx(2.0, rel=1e-3)


def test_an_attempt_whose_end_nobody_recorded_costs_until_its_end(
    operators, planned, tmp_path, monkeypatch
):
    started = time.time() - 72 * HOUR
    recorded(make_training_job(planned[0], SETTINGS, tmp_path), Attempt(1, 0.0, 0, started=started))
    ended = Status("ended", codes=(75,), ended=started + 2 * HOUR)
    monkeypatch.setattr(Local, "poll", lambda self, job, attempt: ended)
    assert guard_of(operators, planned).spent() == pytest.approx(4.0, rel=1e-3)


def test_what_was_spent_stays_spent_when_an_option_changes(operators, planned, tmp_path):
    before = make_training_job(planned[0], SETTINGS, tmp_path)
    recorded(before, held(10, outcome="resume"))
    changed = dataclasses.replace(before, argv=(*before.argv, "--remat=layers"))
    ask(changed, Local(), "run", "a flow run")
    assert read_record(before.out).attempts == []
    assert guard_of(operators, planned).spent() == pytest.approx(20)


def test_a_job_of_a_launcher_without_a_price_costs_nothing_that_is_known(planned, tmp_path):
    recorded(make_training_job(planned[0], SETTINGS, tmp_path), held(3))
    other = Operators(
        storage=tmp_path,
        launchers={"gpu": {"launcher": "slurm"}},
        prices={"gpu": Price(chip_hour=1.0, chips=8)},
    )
    assert guard_of(other, planned).spent() == 0


def test_before_anything_is_measured_the_peak_rate_says_what_a_step_takes(operators, planned):
    price = Price(chip_hour=1.0, chips=4, chip="TPU v5e")
    model = dataclasses.replace(preset("mt5-tiny").model, vocabulary_size=512)
    flops = count_training_step_flops(model, CONFIG.rows, 64, 32)

    usd, basis = guard_of(operators, planned[:1], price=price, hosts=2).estimate_rest()

    secs = CONFIG.steps * flops / (197e12 * ASSUMED_UTILIZATION)
    assert usd == pytest.approx(secs / HOUR * 2 * 4)
    assert "mt5-tiny: 400 steps of " in basis
    assert "assuming 30% of the peak of 1 x TPU v5e" in basis


def test_without_a_chip_and_a_like_run_there_is_no_estimate(operators, planned):
    usd, basis = guard_of(operators, planned).estimate_rest()
    assert usd is None
    assert basis.startswith("mt5-tiny: 400 steps of unknown time; mswitch-tiny")


def test_a_like_run_on_the_same_launcher_says_what_a_step_takes(operators, planned, tmp_path):
    others = {"seed": 7, "steps": 900, "evaluations": 3}
    like = Planned(tmp_path / "like", "mt5-tiny", dataclasses.replace(CONFIG, **others), "all")
    train_some(like, tmp_path, 30, 0.5)
    recorded(make_training_job(like, SETTINGS, tmp_path), held(1))

    usd, basis = guard_of(operators, planned[:1]).estimate_rest()
    assert usd == pytest.approx(400 * 0.5 / HOUR * 2)
    assert basis == f"mt5-tiny: 400 steps of 0.5 s, as measured in {like.out}"

    for unlike, steps, model in (
        (dataclasses.replace(like, preset="mswitch-tiny"), 30, {}),
        (dataclasses.replace(like, config=dataclasses.replace(CONFIG, batch_size=16)), 30, {}),
        (dataclasses.replace(like, config=dataclasses.replace(CONFIG, dtype="float32")), 30, {}),
        (like, 30, {"d_ff": 8}),  # the preset, changed
        (like, 19, {}),  # too few steps
    ):
        train_some(unlike, tmp_path, steps, 0.5, **model)
        assert guard_of(operators, planned[:1]).estimate_rest()[0] is None
    assert guard_of(operators, planned[:1], hosts=2).estimate_rest()[0] is None


def test_measured_steps_take_the_place_of_the_estimate(operators, planned, tmp_path):
    price = Price(host_hour=1.0, chip="TPU v5e")
    train_some(planned[0], tmp_path, 100, 3.0)

    usd, basis = guard_of(operators, planned[:1], price=price).estimate_rest()

    assert usd == pytest.approx(300 * 3.0 / HOUR)
    assert basis == "mt5-tiny: 300 steps of 3 s, as measured"
    for steps in (400, 500):  # a run may have more steps than a plan that was shortened
        train_some(planned[0], tmp_path, steps, 3.0)
        assert guard_of(operators, planned[:1], price=price).estimate_rest() == (0.0, "")


def test_at_the_limit_nothing_more_is_computed_and_a_note_says_how_far_it_is(
    operators, planned, tmp_path
):
    recorded(make_training_job(planned[0], SETTINGS, tmp_path), held(2))
    assert guard_of(operators, planned).refuse() is None
    assert guard_of(operators, planned, limit=4.01).refuse() is None
    refused = guard_of(operators, planned, limit=4.0).refuse()
    assert isinstance(refused, OverBudgetError)
    assert str(refused) == "saved and paused: 4.00 USD are spent, and 4.00 is the limit"
    guard = guard_of(operators, planned[:1], limit=50)
    assert guard.note() == "4.00 USD for all, at most 50.00"
    train_some(planned[0], tmp_path, 100, 60.0)
    assert guard.note() == "4.00 of about 14.00 USD for all, at most 50.00"
    assert guard_of(Operators(storage=tmp_path), planned).note() == ""


class Person:
    """Answers questions, and remembers what was asked."""

    def __init__(self, monkeypatch, *answers: tuple[str, float]):
        self.asked: list[tuple[float, str, float]] = []
        self.answers = list(answers)
        monkeypatch.setattr(approval, "_ask", self.answer)
        monkeypatch.setattr(approval, "get_run_logger", lambda: self)

    def info(self, text: str):
        pass

    def answer(self, limit: float, text: str, proposed: float) -> Approval:
        self.asked.append((limit, text, proposed))
        decision, raised = self.answers.pop(0)
        return Approval(decision=decision, max_cost_usd=raised)


def test_an_estimate_below_the_limit_asks_nobody(operators, planned, tmp_path, monkeypatch):
    person = Person(monkeypatch)
    train_some(planned[0], tmp_path, 100, 60.0)  # 300 steps of a minute: 10 USD
    approve(guard_of(operators, planned[:1], limit=10.0))
    approve(guard_of(operators, planned[:1]))
    approve(guard_of(operators, planned, limit=0.01))  # of the other model nothing is known
    assert not person.asked


def test_an_estimate_above_the_limit_is_approved_with_a_higher_one(
    operators, planned, tmp_path, monkeypatch
):
    person = Person(monkeypatch, ("yes", 9.0), ("yes", 12.0))
    train_some(planned[0], tmp_path, 100, 60.0)
    guard = guard_of(operators, planned[:1], limit=8.0)

    approve(guard)

    assert guard.limit == 12
    assert [(limit, proposed) for limit, _, proposed in person.asked] == [(8.0, 12), (9.0, 12)]
    assert person.asked[0][1] == (
        "The limit is 8.00 USD: 0.00 USD spent, about 10.00 USD in all "
        "(mt5-tiny: 300 steps of 60 s, as measured)"
    )


def test_who_does_not_approve_cancels(operators, planned, tmp_path, monkeypatch):
    Person(monkeypatch, ("no", 100.0))
    train_some(planned[0], tmp_path, 100, 60.0)
    with pytest.raises(JobCancelledError, match=r"a cost above 8\.00 USD was not approved"):
        approve(guard_of(operators, planned[:1], limit=8.0))


def test_who_has_spent_all_is_asked_unless_nothing_is_left(
    operators, planned, tmp_path, monkeypatch
):
    person = Person(monkeypatch, ("yes", 6.0))
    one = planned[0]
    recorded(make_training_job(one, SETTINGS, tmp_path), held(2))
    one.out.mkdir()
    (one.out / "_COMPLETED").touch()
    watched = one.evaluation(tmp_path, EvaluateConfig(), watch=True)

    approve(guard_of(operators, [one], limit=4.0))  # it is still to be evaluated
    assert len(person.asked) == 1
    recorded(watched, held(1, outcome="done"))
    described = {"train": {"steps": one.config.steps}}
    (one.out / "config.json").write_text(json.dumps(described))
    approve(guard_of(operators, [one], limit=4.0))
    assert len(person.asked) == 1
    longer = dataclasses.replace(one.config, steps=one.config.steps + 1)
    assert not guard_of(operators, [dataclasses.replace(one, config=longer)], 4.0).is_finished()


def test_a_limit_without_a_price_is_refused():
    with pytest.raises(UserError, match=r"give host_hour in \[prices.local\] of operators.toml"):
        Operators().look_up_price("local", limited=True)
    assert Operators().look_up_price("local", limited=False) is None


def test_predictions_of_a_fine_tuned_run_cost_too(operators, planned, tmp_path):
    one = planned[0]
    recorded(Job(("finetune", f"--out={one.out}"), one.out), held(2, outcome="done"))
    recorded(Job(("predict",), one.out / "predictions", marked=False), held(1))
    guard = guard_of(operators, [one], 6.0, beside="predictions")
    assert str(guard.refuse()) == "saved and paused: 6.00 USD are spent, and 6.00 is the limit"
    train_some(one, tmp_path, 400, 1.0)
    (one.out / "_COMPLETED").touch()
    assert not guard.is_finished()


def test_runs_show_what_they_cost(tmp_path, planned, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recorded(make_training_job(planned[0], SETTINGS, tmp_path), held(1.5, outcome="failed"))
    assert main(["jobs", "list", "."]) == 0
    assert "1.50         -" in capsys.readouterr().out
    assert main(["jobs", "show", "mt5-tiny"]) == 0
    assert "hours        1.50 of hosts\n" in capsys.readouterr().out

    Path("operators.toml").write_text("[prices.local]\nchip_hour = 3\nchips = 8")
    assert main(["jobs", "list", "."]) == 0
    assert "1.50     36.00" in capsys.readouterr().out
    assert main(["jobs", "show", "mt5-tiny"]) == 0
    assert "1.50 of hosts, 12.00 of chips, 36.00 USD" in capsys.readouterr().out
    assert main(["jobs", "list", ".", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["jobs"]
    assert (run["host_hours"], run["chip_hours"], run["usd"]) == (1.5, 12.0, 36.0)
