import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import train_child as child
from jax.sharding import AbstractMesh

from mswitch.models.capacity import group_batch
from mswitch.models.config import TrainConfig
from mswitch.models.training import optimizer as module
from mswitch.models.training.optimizer import AdamMoments, AdamW, find_moment_axes, make_optimizer
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_train_step
from mswitch.models.training.total_loss import FEATURES
from mswitch.pipelines.errors import UserError

AXES = {
    "kernel": ("layers", "expert", "embed", "mlp"),
    "norm": ("layers", "embed"),
    "bias": ("heads", "buckets"),
}
SHAPES = {"kernel": (2, 3, 4, 5), "norm": (2, 4), "bias": (2, 8)}


def steps(optimizer: AdamW, count: int):
    """Parameters before, gradients of every step, parameters after."""
    rng = np.random.default_rng(0)
    before = {n: jnp.array(rng.normal(size=shape), jnp.float32) for n, shape in SHAPES.items()}
    made, moments, gradients = before, optimizer.init(before, AXES), []
    for step in range(count):
        gradient = {
            n: jnp.array(rng.normal(size=shape) * 10.0 ** rng.integers(-4, 3), jnp.float32)
            for n, shape in SHAPES.items()
        }
        gradients.append(gradient)
        made, moments, norm = optimizer.update(made, gradient, moments, jnp.int32(step), AXES)
        wanted = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in gradient.values()))
        assert float(norm) == pytest.approx(wanted, rel=1e-5)
    return before, gradients, made


def test_update_equals_optax_adamw():
    optimizer = AdamW(base_learning_rate=0.5, warmup_steps=3, weight_decay=0.2)
    before, gradients, made = steps(optimizer, 6)
    peer = optax.adamw(
        optimizer.learning_rate,
        b2=module.SQUARE_DECAY,
        weight_decay=0.2,
        mask={"kernel": True, "norm": False, "bias": False},
    )
    theirs, state = before, peer.init(before)
    for gradient in gradients:
        updates, state = peer.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    for name, values in made.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-6, atol=1e-7)


def test_moments_lie_where_their_parameters_do(sparse):
    model = dataclasses.replace(sparse, d_model=64, d_ff=128, heads=4)
    train = TrainConfig(optimizer="adamw", data_parallel=2, expert_parallel=2, model_parallel=2)
    mesh = AbstractMesh((2, 2, 2), ("data", "expert", "model"))
    skeleton = Skeleton.build(model, train, mesh)
    shardings = skeleton.state_shardings(make_optimizer(train))
    assert shardings is not None
    sharded = 0
    for name, where in shardings.parameters.items():
        assert shardings.moments[name] == AdamMoments(where, where)
        sharded += not where.is_fully_replicated
    assert sharded >= 20
    moments = AdamMoments(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    assert find_moment_axes(moments, ("embed", "mlp")) == (("embed", "mlp"), ("embed", "mlp"))


def test_optimizers_and_what_belongs_to_them_are_checked():
    with pytest.raises(UserError, match="--optimizer sgd is unknown: choose adafactor or adamw"):
        TrainConfig(optimizer="sgd")
    with pytest.raises(UserError, match="needs --optimizer adamw"):
        TrainConfig(weight_decay=0.1)
    assert make_optimizer(TrainConfig(optimizer="adamw", weight_decay=0.1)) == AdamW(
        weight_decay=0.1
    )
    for name in ("adamw", "adafactor"):
        decaying = make_optimizer(TrainConfig(optimizer=name, steps=200, decay=50), 1000)
        assert (decaying.decay, decaying.end) == (50, 1200)


@pytest.mark.slow
def test_a_step_learns(sparse, train_config):
    """One batch, seen again and again, is learned by heart."""
    adamw = {"optimizer": "adamw", "base_learning_rate": 0.03, "warmup_steps": 1}
    train = dataclasses.replace(train_config, **adamw)
    skeleton, optimizer = Skeleton.build(sparse, train), make_optimizer(train)
    groups = group_batch(sparse, 8, child.INPUTS, child.TARGETS)
    step = make_train_step(skeleton, optimizer, groups)
    batch = child.MemoryBatches(8).batch(0)
    batch = {name: jnp.asarray(batch[name]) for name in FEATURES}
    state, losses = skeleton.initial_state(optimizer), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(jax.device_get(metrics["train/loss"])))
    assert losses[-1] < losses[0] - 1
