"""Evaluation that drops no token, against the forward pass with training's capacity, on CPU.

    python tests/benchmarks/dropless.py [--rounds 7]

32 sequences, float32. With the routers as they are initialised, and with all tokens sent to one
expert, which fills a single queue. All ways take a step each, in turn; printed are medians and the
median of the rounds' ratios.
"""

import dataclasses
import functools
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from model_steps import Side, batch, compare, timed
from timing import options

from mswitch.models.capacity import batch_groups, expert_capacity
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.evaluation.evaluator import fitting_capacity, make_evaluation_step
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.presets import preset
from mswitch.models.training.state import Skeleton

ROWS = 32
TINY = preset("mswitch-tiny").model
WIDE = dataclasses.replace(
    TINY,
    d_model=512,
    d_ff=1024,
    heads=8,
    d_kv=64,
    encoder_layers=4,
    decoder_layers=4,
    experts=32,
)


def sides(config: ModelConfig, inputs: int, targets: int, one_expert: bool) -> dict[str, Side]:
    """Queues, blocks, and what they are compared with: the capacity of training."""
    skeleton = Skeleton.of(config, TrainConfig(batch_size=ROWS, dtype="float32"))
    parameters = jax.jit(skeleton.initial_parameters)()
    if one_expert:  # of equal logits the first is chosen
        parameters = {
            name: jnp.zeros_like(value) if ".router." in name else value
            for name, value in parameters.items()
        }
    arrays = batch(config.vocabulary_size, ROWS, inputs, targets)
    groups = batch_groups(config, ROWS, inputs, targets)
    step = functools.partial(make_evaluation_step(skeleton), parameters, arrays, groups)
    positions = [ROWS * inputs // groups.encoder, ROWS * targets // groups.decoder]
    training = tuple(
        expert_capacity(config.capacity_factor, count, config.experts) for count in positions
    )
    queues = training
    while (found := jax.device_get(step(queues))).dropped:
        grown = zip(queues, map(int, found.peaks), positions, strict=True)
        queues = tuple(fitting_capacity(*one) for one in grown)
    ways = {"queues": queues, "blocks": (DROPLESS, DROPLESS), "training's capacity": training}
    return {name: functools.partial(timed, functools.partial(step, ways[name])) for name in ways}


def main() -> None:
    rounds = options(__doc__, rounds=7).rounds
    for name, config, lengths in (
        ("mswitch-tiny, 8 experts, 64 tokens", TINY, (64, 16)),
        ("width 512, 4+4 layers, 32 experts, 128 tokens", WIDE, (128, 29)),
    ):
        for one_expert in (False, True):
            print(f"{name}, {'all to one expert' if one_expert else 'as initialised'}")
            one = sides(config, *lengths, one_expert)
            for way in ("queues", "blocks"):
                usual = "training's capacity"
                compare({way: one[way], usual: one[usual]}, rounds)


if __name__ == "__main__":
    sys.exit(main())
