"""Names of compared models."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.chains.machine_settings import SETTINGS
from mswitch.flows.reports.names import describe_model, name_models
from mswitch.flows.reports.runs import CompletedRun
from mswitch.models.config import ModelConfig

MODELS = st.builds(
    dict,
    experts=st.sampled_from([0, 1, 16, 32]),
    routing=st.sampled_from(["learned", "token", "hash"]),
    d_ff=st.sampled_from([64, 75]),
    capacity_factor=st.sampled_from([1.0, 1.25]),
)
TRAININGS = st.builds(
    dict, base_learning_rate=st.sampled_from([0.04, 0.08]), decay=st.sampled_from([None, 0, 100])
)
PRESETS = st.sampled_from(["mt5-tiny", "mswitch-tiny"])


def make_run(model, train=None, preset="mswitch-tiny", role="candidate", examples=""):
    config = {"preset": preset, "model": model, "train": train or {}}
    config["examples"] = {"config_hash": examples}
    return CompletedRun(option=f"--{role} run", config=config)


@given(st.lists(st.builds(make_run, MODELS, TRAININGS, PRESETS), min_size=1, max_size=6))
def test_different_models_have_different_names(runs):
    settings = {str(run.settings): name for run, name in zip(runs, name_models(runs), strict=True)}
    assert len(set(settings.values())) == len(settings)
    names = name_models(runs)
    assert len(set(names)) == len(names) or len(settings) < len(runs)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (
            [{}, {"experts": 32, "routing": "token"}],
            ["dense", "32 experts, token router"],
        ),
        (
            [{"d_ff": 75}, {"experts": 32, "routing": "hash"}],
            ["dense, d_ff 75", "32 experts, hash"],
        ),
        (
            [{}, {"d_ff": 75}, {"experts": 1}],
            ["dense, d_ff 64", "dense, d_ff 75", "1 expert, learned router"],
        ),
        (
            [{"experts": 8, "capacity_factor": 1.0}, {"experts": 8}],
            [f"8 experts, learned router, capacity factor {each}" for each in (1.0, 1.25)],
        ),
    ],
)
def test_a_name_has_experts_router_and_what_distinguishes(models, names):
    configs = [dataclasses.asdict(ModelConfig(**{"d_ff": 64, **model})) for model in models]
    assert name_models([make_run(config) for config in configs]) == names


def test_runs_that_differ_in_training_preset_or_nothing():
    rates = [make_run({}, {"base_learning_rate": rate}) for rate in (0.04, 0.08)]
    assert name_models(rates) == [f"dense, base learning rate {rate}" for rate in (0.04, 0.08)]
    presets = [make_run({}, preset=preset) for preset in ("a", "b")]
    assert name_models(presets) == ["dense (a)", "dense (b)"]
    vocabularies = [make_run({"vocabulary_size": size}, examples=str(size)) for size in (512, 640)]
    assert name_models(vocabularies) == [f"dense, vocabulary size {size}" for size in (512, 640)]
    roles = [make_run({}, role=role) for role in ("baseline", "candidate")]
    assert name_models(roles) == ["dense (baseline)", "dense (candidate)"]


@pytest.mark.parametrize("name", SETTINGS)
def test_no_model_of_evidence_has_its_bare_name(name):
    models = SETTINGS[name].models
    runs = [make_run(dataclasses.asdict(model.config(2048))) for model in models.values()]
    names = name_models(runs)
    assert len(set(names)) == len(models)
    for run, full in zip(runs, names, strict=True):
        assert full.startswith(describe_model(run.config["model"]))
