"""mswitch against logits that transformers 4.57.6 made of the same random weights.

`make test-parity` compares afresh, with models of full size as well; `make parity-fixtures` made
the files here.
"""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.config import TrainConfig
from models.huggingface.config import read_config
from models.huggingface.convert import _tensor, read_parameters
from models.huggingface.files import WeightFiles, read_json
from models.huggingface.tensors import pieces
from models.state import Skeleton

#: Of the largest logit.
TOLERANCE = 1e-5


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("mt5-tiny", {}),
        ("t5-tiny", {}),
        ("switch-tiny", {}),
        ("switch-untied-tiny", {}),
        ("switch-all-tiny", {}),
        # Hugging Face counts capacity in each sequence, and padding too: there is none here.
        ("switch-drops-tiny", {"groups": 3, "capacity": 9}),
    ],
)
def test_logits_equal_hugging_faces(fixtures, logits, name, setting):
    directory = fixtures / name
    model = read_config(read_json(directory / "config.json"), name)
    parameters = read_parameters(WeightFiles(directory), model)
    with np.load(directory / "expected.npz") as file:
        expected = dict(file)
    made = logits(model, parameters, expected, **setting)
    # Hugging Face routes padding, and mswitch does not; no real position sees the difference.
    real = expected["targets"] > 0
    bound = TOLERANCE * np.abs(expected["logits"]).max()
    assert np.abs(made - expected["logits"])[real].max() < bound
    if "cached_logits" in expected:
        assert np.abs(made - expected["cached_logits"])[real].max() < bound
    if not model.sparse:
        assert np.abs(made - expected["logits"]).max() < bound


@pytest.mark.parametrize(
    "name", ["mt5-tiny", "t5-tiny", "switch-tiny", "switch-untied-tiny", "switch-all-tiny"]
)
def test_cached_decoding_equals_hugging_faces_and_teacher_forcing(fixtures, cached_logits, name):
    directory = fixtures / name
    model = read_config(read_json(directory / "config.json"), name)
    parameters = read_parameters(WeightFiles(directory), model)
    with np.load(directory / "expected.npz") as file:
        expected = dict(file)
    made = cached_logits(model, parameters, expected)
    real = expected["targets"] > 0
    bound = TOLERANCE * np.abs(expected["logits"]).max()
    for kind in ("cached_logits", "logits"):
        assert np.abs(made - expected[kind])[real].max() < bound


@pytest.mark.parametrize(("groups", "capacity"), [(1, 20), (3, 7)])
def test_dropping_logits_equal_plain_numpy(fixtures, logits, reference, groups, capacity):
    """Hugging Face has no groups and routes padding: where tokens drop, NumPy is the reference."""
    directory = fixtures / "switch-tiny"
    model = read_config(read_json(directory / "config.json"), "switch-tiny")
    weights = load_file(directory / "model.safetensors")
    with np.load(directory / "expected.npz") as file:
        batch = {name: file[name] for name in ("inputs", "decoder_inputs", "targets")}
    real = batch["targets"] > 0
    wanted, dropped = reference.switch_logits(
        weights, batch, heads=model.heads, groups=groups, capacity=capacity
    )
    routed = model.encoder_layers // 2 * (batch["inputs"] > 0).sum() + 2 * real.sum()
    assert dropped > 0.2 * routed
    parameters = read_parameters(WeightFiles(directory), model)
    made = logits(model, parameters, batch, groups=groups, capacity=capacity)
    assert np.abs(made - wanted)[real].max() < TOLERANCE * np.abs(wanted).max()
    without, none = reference.switch_logits(
        weights, batch, heads=model.heads, groups=1, capacity=batch["inputs"].size
    )
    assert none == 0
    assert np.abs(without - wanted)[real].max() > 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize(("groups", "capacity"), [(3, 450), (3, 7)])
def test_mswitch_equals_plain_numpy(fixtures, logits, reference, groups, capacity):
    """GEGLU, and embeddings of their own: what Hugging Face's Switch has not."""
    config = read_config(read_json(fixtures / "switch-tiny" / "config.json"), "switch-tiny")
    model = dataclasses.replace(config, activation="geglu", tied_embeddings=False)
    with np.load(fixtures / "switch-tiny" / "expected.npz") as file:
        batch = {name: file[name] for name in ("inputs", "decoder_inputs", "targets")}
    drawn = np.random.default_rng(0)
    # Larger weights would make attention so sharp that what float32 rounds off grows to 1e-5.
    parameters = {
        name: np.float32(drawn.normal(value.ndim == 1, 0.2, value.shape))
        for name, value in Skeleton.of(model, TrainConfig(dtype="float32")).shapes.items()
    }
    weights = {piece.tensor: _tensor(piece, parameters) for piece in pieces(model)}
    wanted, dropped = reference.switch_logits(
        weights, batch, heads=model.heads, groups=groups, capacity=capacity
    )
    assert (dropped > 0) == (capacity == 7)
    made = logits(model, parameters, batch, groups=groups, capacity=capacity if dropped else None)
    real = batch["targets"] > 0
    assert np.abs(made - wanted)[real].max() < TOLERANCE * np.abs(wanted).max()


def test_plain_numpy_equals_hugging_face(fixtures, reference):
    for name in ("switch-tiny", "switch-untied-tiny", "switch-all-tiny"):
        with np.load(fixtures / name / "expected.npz") as file:
            batch = dict(file)
        weights = load_file(fixtures / name / "model.safetensors")
        made, _ = reference.switch_logits(weights, batch, heads=2, groups=1, capacity=450)
        real = batch["targets"] > 0
        bound = TOLERANCE * np.abs(batch["logits"]).max()
        assert np.abs(made - batch["logits"])[real].max() < bound


def test_fixtures_are_not_trivial(fixtures):
    """A model that ignores its input would pass a comparison of constants."""
    for directory in fixtures.iterdir():
        with np.load(directory / "expected.npz") as file:
            made = file["logits"]
            assert made.std(axis=1).mean() > 0.3
            padded = bool((file["inputs"] == 0).any())
        assert padded == ("drops" not in directory.name)
    assert len(list(fixtures.iterdir())) == 6
