"""mswitch against logits that transformers 4.57.6 made of the same random weights.

`make test-parity` compares afresh, with models of full size as well; `make parity-fixtures` made
the files here.
"""

import dataclasses
import functools
from types import EllipsisType

import jax
import numpy as np
import numpy_switch as reference
import pytest
from hf_logits import FIXTURES, compute_cached_logits, compute_logits
from safetensors.numpy import load_file

from mswitch.models.capacity import Groups, expert_capacity
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.huggingface.config import read_config
from mswitch.models.huggingface.convert import _read_tensor, read_parameters
from mswitch.models.huggingface.files import WeightFiles
from mswitch.models.huggingface.tensors import list_pieces
from mswitch.models.training.state import Skeleton
from mswitch.models.training.total_loss import compute_batch_loss
from mswitch.pipelines.outputs import read_json_object

#: Of the largest logit.
TOLERANCE = 1e-5


def load(name: str) -> tuple[ModelConfig, dict, dict]:
    """A model, its parameters, and a batch with its logits."""
    model = read_config(read_json_object(FIXTURES / name / "config.json"), name)
    with np.load(FIXTURES / name / "expected.npz") as file:
        return model, read_parameters(WeightFiles(FIXTURES / name), model), dict(file)


def differ(made: np.ndarray, wanted: np.ndarray, where: np.ndarray | EllipsisType = ...) -> float:
    """The largest difference there, as a share of what is allowed."""
    return np.abs(made - wanted)[where].max() / (TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("mt5-tiny", {}),
        ("umt5-tiny", {}),
        ("t5-tiny", {}),
        ("t5.1.1-tiny", {}),
        ("switch-tiny", {}),
        ("switch-untied-tiny", {}),
        ("switch-all-tiny", {}),
        # Hugging Face counts capacity in each sequence, and padding too: there is none here.
        ("switch-drops-tiny", {"groups": 3, "capacity": 9}),
    ],
)
def test_logits_equal_hugging_faces(name, setting):
    model, parameters, expected = load(name)
    made = compute_logits(model, parameters, expected, **setting)
    # Hugging Face routes padding, and mswitch does not; no real position sees the difference.
    real = expected["targets"] > 0
    assert differ(made, expected["logits"], real) < 1
    if "cached_logits" in expected:
        assert differ(made, expected["cached_logits"], real) < 1
    if not model.sparse:
        assert differ(made, expected["logits"]) < 1


@pytest.mark.parametrize(
    "name",
    ["mt5-tiny", "umt5-tiny", "t5-tiny", "switch-tiny", "switch-untied-tiny", "switch-all-tiny"],
)
def test_cached_decoding_equals_hugging_faces_and_teacher_forcing(name):
    model, parameters, expected = load(name)
    made = compute_cached_logits(model, parameters, expected)
    for kind in ("cached_logits", "logits"):
        assert differ(made, expected[kind], expected["targets"] > 0) < 1


@pytest.mark.parametrize(("groups", "capacity"), [(1, 20), (3, 7)])
def test_dropping_logits_equal_plain_numpy(groups, capacity):
    """Hugging Face has no groups and routes padding: where tokens drop, NumPy is the reference."""
    model, parameters, batch = load("switch-tiny")
    weights = load_file(FIXTURES / "switch-tiny" / "model.safetensors")
    real = batch["targets"] > 0
    outcome = reference.switch_model(
        weights, batch, heads=model.heads, groups=groups, capacities=(capacity, capacity)
    )
    wanted, dropped = outcome.logits, sum(outcome.dropped)
    routed = model.encoder_layers // 2 * (batch["inputs"] > 0).sum() + 2 * real.sum()
    assert dropped > 0.2 * routed
    made = compute_logits(model, parameters, batch, groups=groups, capacity=capacity)
    assert differ(made, wanted, real) < 1
    everything = (batch["inputs"].size,) * 2
    without = reference.switch_model(
        weights, batch, heads=model.heads, groups=1, capacities=everything
    )
    assert sum(without.dropped) == 0
    assert np.abs(without.logits - wanted)[real].max() > 1e-2 * np.abs(wanted).max()


def rename(own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of the modelling file under the names of Hugging Face's Switch."""
    weights = {}
    for tensor, value in own.items():
        name = tensor.replace("DenseReluDense", "mlp").replace(
            "mlp.router", "mlp.router.classifier"
        )
        layer, _, kernel = name.rpartition(".")
        if value.ndim == 3:
            names = [f"{layer}.experts.expert_{n}.{kernel}.weight" for n in range(len(value))]
            weights |= dict(zip(names, value.swapaxes(1, 2), strict=True))
        else:
            weights[name] = value
    return weights


@pytest.mark.parametrize(("groups", "capacity"), [(3, 450), (3, 7)])
def test_mswitch_equals_plain_numpy(groups, capacity):
    """GEGLU, and embeddings of their own: what Hugging Face's Switch has not."""
    config, _, batch = load("switch-tiny")
    model = dataclasses.replace(config, activation="geglu", tied_embeddings=False)
    drawn = np.random.default_rng(0)
    # Larger weights would make attention so sharp that what float32 rounds off grows to 1e-5.
    parameters = {
        name: np.float32(drawn.normal(value.ndim == 1, 0.2, value.shape))
        for name, value in Skeleton.build(model, TrainConfig(dtype="float32")).shapes.items()
    }
    weights = rename({p.tensor: _read_tensor(p, parameters) for p in list_pieces(model)})
    outcome = reference.switch_model(
        weights, batch, heads=model.heads, groups=groups, capacities=(capacity, capacity)
    )
    wanted, dropped = outcome.logits, sum(outcome.dropped)
    assert (dropped > 0) == (capacity == 7)
    made = compute_logits(
        model, parameters, batch, groups=groups, capacity=capacity if dropped else None
    )
    assert differ(made, wanted, batch["targets"] > 0) < 1


@pytest.mark.parametrize("capacity_factor", [0.5, 8.0])
def test_the_training_loss_equals_plain_numpy(capacity_factor):
    """Cross-entropy with its z-loss, and of every sparse layer a balance and a z-loss, summed."""
    model, parameters, batch = load("switch-tiny")
    weights = {"balance_weight": 0.3, "router_z_weight": 0.05, "router_jitter": 0.0}
    model = dataclasses.replace(model, capacity_factor=capacity_factor, **weights)
    train = TrainConfig(dtype="float32", z_loss=0.02)
    groups, real = 3, batch["targets"] > 0
    sizes = [batch[name].size // groups for name in ("inputs", "targets")]
    capacities = [expert_capacity(capacity_factor, size, model.experts) for size in sizes]
    outcome = reference.switch_model(
        load_file(FIXTURES / "switch-tiny" / "model.safetensors"),
        batch,
        heads=model.heads,
        groups=groups,
        capacities=capacities,
    )
    assert (sum(outcome.dropped) > 0) == (capacity_factor < 1)
    assert len(outcome.z_losses) > 2
    log_z = np.log(np.exp(outcome.logits).sum(-1))
    correct = np.take_along_axis(outcome.logits, batch["targets"][..., None], -1)[..., 0]
    parts = {
        "loss": (log_z - correct)[real].mean(),
        "z_loss": 0.02 * (log_z**2)[real].mean(),
        "balance_loss": 0.3 * sum(outcome.balance_losses),
        "router_z_loss": 0.05 * sum(outcome.z_losses),
    }
    loss = functools.partial(
        compute_batch_loss,
        Skeleton.build(model, train),
        groups=Groups(groups, groups),
        target_tokens=real.sum(),
    )
    total, made = jax.jit(loss)(
        parameters,
        {
            "encoder_input_tokens": batch["inputs"],
            "decoder_input_tokens": batch["decoder_inputs"],
            "decoder_target_tokens": batch["targets"],
            "decoder_loss_weights": np.float32(real),
        },
    )
    for name, value in parts.items():
        assert value > 1e-3
        assert float(getattr(made, name)) == pytest.approx(value, rel=1e-5)
    assert float(total) == pytest.approx(sum(parts.values()), rel=1e-5)


def test_plain_numpy_equals_hugging_face():
    for name in ("switch-tiny", "switch-untied-tiny", "switch-all-tiny"):
        _, _, batch = load(name)
        weights = load_file(FIXTURES / name / "model.safetensors")
        made = reference.switch_model(weights, batch, heads=2, groups=1, capacities=(450, 450))
        assert differ(made.logits, batch["logits"], batch["targets"] > 0) < 1


def test_fixtures_are_not_trivial():
    """A model that ignores its input would pass a comparison of constants."""
    for directory in FIXTURES.iterdir():
        with np.load(directory / "expected.npz") as file:
            made = file["logits"]
            assert made.std(axis=1).mean() > 0.3
            padded = bool((file["inputs"] == 0).any())
        assert padded == ("drops" not in directory.name)
    assert len(list(FIXTURES.iterdir())) == 8
