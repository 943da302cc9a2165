"""Hugging Face's weights and logits, and the logits mswitch makes of the same."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mswitch.models.capacity import Groups
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.inference.decode import CachedDecoder
from mswitch.models.training.state import Skeleton

FIXTURES = Path(__file__).parents[1] / "models/huggingface/fixtures"
FLOAT32 = TrainConfig(dtype="float32")


def compute_logits(
    model: ModelConfig,
    parameters: dict,
    batch: dict[str, np.ndarray],
    *,
    groups: int = 1,
    capacity: int | None = None,
) -> np.ndarray:
    """Logits of a batch; by default no token is dropped."""
    skeleton = Skeleton.build(model, FLOAT32)
    positions = [batch[name].size // groups for name in ("inputs", "targets")]
    capacities = tuple(positions) if capacity is None else (capacity, capacity)

    @jax.jit
    def compiled(parameters, source, decoder_inputs, targets):
        module = skeleton.merge(parameters)
        both = Groups(groups, groups)
        x, stats = module(source, decoder_inputs, targets, groups=both, capacities=capacities)
        kernel, scale = module.find_logits_kernel()
        dropped = jnp.zeros(()) if stats is None else sum(part.dropped.sum() for part in stats)
        return x * scale @ kernel, dropped

    arrays = (batch[name] for name in ("inputs", "decoder_inputs", "targets"))
    made, dropped = compiled(parameters, *arrays)
    assert (capacity is not None) == (int(dropped) > 0)
    return np.asarray(made)


def compute_cached_logits(
    model: ModelConfig, parameters: dict, batch: dict[str, np.ndarray]
) -> np.ndarray:
    """Logits of a batch by decoding it a position at a time."""
    skeleton = Skeleton.build(model, FLOAT32)

    @jax.jit
    def compiled(parameters, source, decoder_inputs, targets):
        length = targets.shape[1]
        decoder = CachedDecoder(skeleton.merge(parameters), length)

        def step(cache, inputs):
            tokens, position, target = inputs
            logits, cache = decoder.step(cache, tokens, position, target > 0)
            return cache, logits

        positions = (decoder_inputs.T, jnp.arange(length), targets.T)
        return jax.lax.scan(step, decoder.begin(source), positions)[1].swapaxes(0, 1)

    arrays = (batch[name] for name in ("inputs", "decoder_inputs", "targets"))
    return np.asarray(compiled(parameters, *arrays))
