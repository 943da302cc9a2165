"""Gradients in bfloat16: those of float32, but for what single values are rounded by."""

import dataclasses

import jax
import numpy as np
import pytest

from models.config import ModelConfig, TrainConfig
from models.groups import batch_groups
from models.state import Skeleton
from models.step import make_gradients

ROWS, INPUTS, TARGETS = 32, 128, 16


def skewed_batch(vocabulary_size: int) -> dict[str, np.ndarray]:
    """Tokens of which one makes up nearly all, as a space or a comma does in a large batch."""
    rng = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        rare = rng.integers(4, vocabulary_size, (ROWS, length))
        return np.where(rng.random((ROWS, length)) < 0.1, rare, 3).astype(np.int32)

    targets = tokens(TARGETS)
    return {
        "encoder_input_tokens": tokens(INPUTS),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_sums_over_positions_are_not_rounded_on_the_way(name: str, request: pytest.FixtureRequest):
    config: ModelConfig = request.getfixturevalue(name)
    # A token that changes its expert would change more than rounding does.
    config = dataclasses.replace(config, router_jitter=0.0, group_size=ROWS * INPUTS)
    batch = skewed_batch(config.vocabulary_size)
    gradients: dict[str, dict[str, np.ndarray]] = {}
    for dtype in ("float32", "bfloat16"):
        skeleton = Skeleton.of(config, TrainConfig(batch_size=ROWS, dtype=dtype))
        parameters = jax.jit(skeleton.initial_parameters)()
        groups = batch_groups(config, ROWS, INPUTS, TARGETS)
        gradient = jax.jit(make_gradients(skeleton, groups))(parameters, batch, jax.random.key(0))
        gradients[dtype] = jax.device_get(gradient[0])
    errors = {
        key: float(np.linalg.norm(gradients["bfloat16"][key] - exact) / np.linalg.norm(exact))
        for key, exact in gradients["float32"].items()
    }
    assert max(errors.values()) < 0.02, sorted(errors.items(), key=lambda item: -item[1])[:5]
