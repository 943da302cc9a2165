"""A run directory that is damaged is named with what to do."""

import dataclasses

import numpy as np
import pytest
import train_child as child

from mswitch.models.config import TrainConfig
from mswitch.models.training.evaluation_steps import evaluation_steps, space_steps
from mswitch.models.training.run_directory import (
    CONFIG,
    Claim,
    claim_run,
    describe_run,
    parse_model,
    parse_train_config,
    read_run,
)
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER

#: What describes a run beside its settings.
MEASURED = {"attention": "xla"}


@pytest.fixture
def plan():
    return child.plan("mt5-tiny", 7)


@pytest.fixture
def run(plan, tmp_path):
    out = tmp_path / "run"
    describe_run(out, plan, tmp_path / "examples", MEASURED)
    assert claim_run(out, plan) == Claim()
    return out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json is not JSON"),
        ('{"model": {', "config.json is not JSON"),
        ("[]", "config.json does not hold a JSON object"),
        ('{"model": {}, "examples": null}', "does not belong .*lacks 'train'.*import-hf"),
    ],
)
def test_a_damaged_description_is_named(run, plan, text, message):
    (run / CONFIG).write_text(text)
    for act in (lambda: read_run(run), lambda: claim_run(run, plan)):
        with pytest.raises(UserError, match=message):
            act()


@pytest.mark.parametrize(
    ("text", "message"), [("done", "is not JSON"), ("{}", "does not belong to a training run")]
)
def test_a_damaged_marker_is_named(run, plan, text, message):
    (run / MARKER).write_text(text)
    with pytest.raises(UserError, match=f"{MARKER} {message}"):
        claim_run(run, plan)


def test_unknown_settings_are_named(run):
    described = read_run(run)
    described["train"]["telepathy"] = described["model"]["telepathy"] = True
    for of in (parse_train_config, parse_model):
        with pytest.raises(UserError, match=r"has unknown settings .*telepathy.*restore it"):
            of(described)


@pytest.mark.parametrize("part", ["model", "train"])
def test_a_setting_that_is_added_is_a_change_only_if_it_is_set(run, plan, part):
    config = getattr(plan, part)
    field = ("shared_expert", int, dataclasses.field(default=0, kw_only=True))
    ours = {"__module__": type(config).__module__}
    kind = dataclasses.make_dataclass(
        "Grown", [field], bases=(type(config),), namespace=ours, frozen=True
    )

    def changed(value):
        grown = kind(**vars(config), shared_expert=value)
        return dataclasses.replace(plan, **{part: grown})

    assert changed(0).hash == plan.hash
    assert claim_run(run, changed(0)) == Claim()
    describe_run(run, changed(0), run.parent / "examples", MEASURED)
    assert "shared_expert" not in read_run(run)[part]
    message = rf"other settings \({part}.shared_expert changed\)"
    with pytest.raises(UserError, match=message):
        claim_run(run, changed(1))
    other = run.with_name("other")
    describe_run(other, changed(1), run.parent / "examples", MEASURED)
    with pytest.raises(UserError, match=message):
        claim_run(other, changed(0))


@pytest.mark.parametrize(
    ("newest", "steps", "extends"),
    [(4, 9, True), (4, 6, False), (5, 9, False), (3, 6, True), (7, 9, False)],
)
def test_a_run_whose_rate_decays_ends_elsewhere_only_before_it_begins(
    tmp_path, newest, steps, extends
):
    """Of seven steps, the last three are of another rate: those after step 4."""
    run = tmp_path / "run"
    describe_run(run, child.plan("mt5-tiny", 7, decay=3), tmp_path / "examples", MEASURED)
    (run / "checkpoints" / str(newest)).mkdir(parents=True)
    other = child.plan("mt5-tiny", steps, decay=3)
    if extends:
        assert claim_run(run, other).extends
    else:
        begun = r" whose learning rate has begun .*\(--decay 3\)" if newest > 4 else ""
        message = rf"of 7 steps{begun}: give --steps 7, or"
        with pytest.raises(UserError, match=message):
            claim_run(run, other)


def test_steps_of_an_extended_run_are_as_far_apart_as_before():
    train = TrainConfig(steps=3200, evaluations=16)
    steps = evaluation_steps(train, (400, 800))
    assert steps[:16] == space_steps(400, 16)
    assert {800, 3200} <= set(steps)
    distances = np.diff(np.log(steps))
    assert 0.8 < distances[-7:].min() / distances[8:15].mean() < 1.2
    assert evaluation_steps(dataclasses.replace(train, evaluations=1), (400,)) == (400, 3200)
    every = dataclasses.replace(train, eval_every=1000)
    assert evaluation_steps(every, (2500,)) == (1000, 2000, 2500, 3000, 3200)


@pytest.mark.parametrize(
    ("steps", "rate", "message"),
    [
        (6, 1.0, "a run of 7 steps: give --steps 7, or more to extend it"),
        (14, 0.5, r"the rates of its languages depend \(max_epochs\): other steps need another --"),
    ],
)
def test_a_run_that_cannot_be_extended(run, plan, steps, rate, message):
    languages = {lang: {**counts, "rate": rate} for lang, counts in plan.languages.items()}
    other = child.plan("mt5-tiny", steps)
    (run / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        claim_run(run, dataclasses.replace(other, languages=languages))
