"""Gradients in bfloat16: those of float32, but for what single values are rounded by."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_child import features

from mswitch.models.capacity import group_batch
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.evaluation.evaluator import make_evaluation_step
from mswitch.models.inference.decode import make_decoder
from mswitch.models.nn.experts import apply_gate
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_gradients

ROWS, INPUTS, TARGETS = 32, 128, 16


def skewed_batch(vocabulary_size: int) -> dict[str, np.ndarray]:
    """Tokens of which one makes up nearly all, as a space or a comma does in a large batch."""
    rng = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        rare = rng.integers(4, vocabulary_size, (ROWS, length))
        return np.where(rng.random((ROWS, length)) < 0.1, rare, 3).astype(np.int32)

    targets = tokens(TARGETS)
    return features(tokens(INPUTS), targets)


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_sums_over_positions_are_not_rounded_on_the_way(name, request):
    config: ModelConfig = request.getfixturevalue(name)
    # A token that changes its expert would change more than rounding does.
    config = dataclasses.replace(config, router_jitter=0.0, group_size=ROWS * INPUTS)
    batch = skewed_batch(config.vocabulary_size)
    gradients: dict[str, dict[str, np.ndarray]] = {}
    for dtype in ("float32", "bfloat16"):
        skeleton = Skeleton.build(config, TrainConfig(batch_size=ROWS, dtype=dtype))
        parameters = jax.jit(skeleton.initial_parameters)()
        groups = group_batch(config, ROWS, INPUTS, TARGETS)
        gradient = jax.jit(make_gradients(skeleton, groups))(parameters, batch, jax.random.key(0))
        gradients[dtype] = jax.device_get(gradient[0])
    errors = {
        key: float(np.linalg.norm(gradients["bfloat16"][key] - exact) / np.linalg.norm(exact))
        for key, exact in gradients["float32"].items()
    }
    assert max(errors.values()) < 0.02, sorted(errors.items(), key=lambda item: -item[1])[:5]


def lowered(skeleton: Skeleton) -> dict[str, str]:
    """What a step's gradient, an evaluation and decoding are made of, as StableHLO."""
    batch = skewed_batch(skeleton.config.vocabulary_size)
    groups = group_batch(skeleton.config, ROWS, INPUTS, TARGETS)
    parameters, key = dict(skeleton.shapes), jax.random.key(0)
    gradients = jax.jit(make_gradients(skeleton, groups)).lower(parameters, batch, key)
    evaluation = make_evaluation_step(skeleton).lower(parameters, batch, groups, None)
    decode = jax.jit(make_decoder(skeleton, 4)).lower(parameters, batch["encoder_input_tokens"])
    programs = {"gradients": gradients, "evaluation": evaluation, "decoding": decode}
    return {name: program.as_text() for name, program in programs.items()}


def test_float32_products_are_so_on_accelerators(sparse):
    """Without a precision a TPU would take one bfloat16 pass, a GPU TF32."""
    for name, text in lowered(Skeleton.build(sparse, TrainConfig(dtype="float32"))).items():
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert len(products) > 10, name
        for line in products:
            assert "precision = [HIGHEST, HIGHEST]" in line, (name, line)


def test_in_bfloat16_the_router_alone_takes_three_passes(sparse):
    text = lowered(Skeleton.build(sparse, TrainConfig()))["gradients"]
    products = [line for line in text.splitlines() if "dot_general" in line]
    precise = [line for line in products if "precision = [DEFAULT, DEFAULT]" not in line]
    # In encoder and decoder; the gradients take one pass.
    assert len(precise) == 2
    assert all("precision = [HIGH, HIGH]" in line for line in precise)


def test_the_gates_gradient_is_a_sum_in_float32():
    rng = np.random.default_rng(0)
    y, upstream = (jnp.array(rng.normal(1.0, 0.3, (1, 4, 768)), jnp.bfloat16) for _ in range(2))
    gate = jnp.array(rng.random((1, 4)), jnp.float32)
    _, pull = jax.vjp(lambda gate: apply_gate(y, gate), gate)
    exact = (np.asarray(y, np.float64) * np.asarray(upstream, np.float64)).sum(axis=-1)
    np.testing.assert_allclose(jax.jit(pull)(upstream)[0], exact, rtol=1e-5)
