import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_child as child

from mswitch.models.capacity import Groups, group_batch
from mswitch.models.config import TrainConfig
from mswitch.models.nn.losses import Head, compute_token_losses
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Skeleton, unroll
from mswitch.models.training.step import make_train_step
from mswitch.models.training.total_loss import compute_batch_loss

FLOAT32 = TrainConfig(steps=8, batch_size=8, warmup_steps=100, dtype="float32")


def batch_of_features() -> dict[str, np.ndarray]:
    batch = child.MemoryBatches(8).batch(0)
    del batch["language"]
    return batch


def gradients(config, train, batch, groups=None, key=None):
    skeleton = Skeleton.build(config, train)
    parameters = jax.jit(skeleton.initial_parameters)()
    groups = groups or group_batch(config, 8, 12, 8)

    def loss(parameters, batch):
        tokens = batch["decoder_loss_weights"].sum()
        how = {"groups": groups, "target_tokens": tokens, "key": key}
        return compute_batch_loss(skeleton, parameters, batch, **how)[0]

    return jax.jit(jax.value_and_grad(loss))(parameters, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({"scan_layers": True, "remat": "layers", "loss_chunks": 3}, True),
        ({"scan_layers": True}, False),
        ({"remat": "attention"}, True),
        ({"attention": "kernel"}, True),
        ({"attention": "kernel", "scan_layers": True, "remat": "layers"}, False),
    ],
)
def test_ways_to_save_memory_change_no_gradient(sparse, settings, shared):
    config = dataclasses.replace(
        sparse,
        encoder_layers=4,
        decoder_layers=2,
        sparse_every=2,
        shared_position_bias=shared,
        dropout_rate=0.1,
    )
    batch = batch_of_features()
    saving = dataclasses.replace(FLOAT32, **settings)
    key = jax.random.key(0)
    plain, plain_gradient = gradients(config, FLOAT32, batch, key=key)
    other, other_gradient = gradients(config, saving, batch, key=key)
    assert float(plain) == pytest.approx(float(other), rel=1e-6)
    other_gradient = unroll(other_gradient)
    assert plain_gradient.keys() == other_gradient.keys()
    for name, values in plain_gradient.items():
        np.testing.assert_allclose(values, other_gradient[name], atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_microbatches_give_the_step_of_the_whole_batch(sparse):
    """Two parts of the same batch: the same balance loss, the same routing, the same update."""
    config = dataclasses.replace(sparse, router_jitter=0.0, group_size=32)
    assert group_batch(config, 8, 12, 8) == (4, 2)
    batch = batch_of_features()
    batch["encoder_input_tokens"][:4, 2:] = 0  # one part has more tokens than the other
    results = []
    for parts in (1, 2):
        train = dataclasses.replace(FLOAT32, microbatches=parts)
        skeleton, optimizer = Skeleton.build(config, train), make_optimizer(train)
        step = make_train_step(skeleton, optimizer, group_batch(config, 8, 12, 8))
        results.append(step(skeleton.initial_state(optimizer), batch))
    (one, one_metrics), (two, two_metrics) = results
    assert {"router/max_load", "router/layer_drop_fraction", "router/load"} <= one_metrics.keys()
    for name in one_metrics:
        np.testing.assert_allclose(one_metrics[name], two_metrics[name], rtol=1e-4, err_msg=name)
    for name, values in one.moments.items():
        for mine, other in zip(values, two.moments[name], strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("kind", "dtype"), [("dense", "float32"), ("sparse", "bfloat16")])
def test_a_few_steps_lower_the_loss_of_a_fixed_batch(request, kind, dtype):
    config = request.getfixturevalue(kind)
    train = dataclasses.replace(FLOAT32, dtype=dtype)
    skeleton, optimizer = Skeleton.build(config, train), make_optimizer(train)
    step = make_train_step(skeleton, optimizer, group_batch(config, 8, 12, 8))
    state = skeleton.initial_state(optimizer)
    assert all(values.dtype == jnp.float32 for values in state.parameters.values())
    batch = batch_of_features()
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["train/loss"]))
    assert losses[-1] < losses[0] - 0.5
    assert int(state.step) == 12
    assert all(values.dtype == jnp.float32 for values in state.parameters.values())


def test_chunked_losses_equal_whole_ones():
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(2, 7, 5)), jnp.float32)
    kernel = jnp.array(rng.normal(size=(5, 11)), jnp.float32)
    head, targets = Head(x, kernel, 0.5), jnp.array(rng.integers(0, 11, (2, 7)))
    whole = compute_token_losses(head, targets, chunks=1)
    logits = np.asarray(x) @ np.asarray(kernel) * 0.5
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(whole[0], log_z - picked, rtol=1e-5)
    np.testing.assert_allclose(whole[1], log_z**2, rtol=1e-4)
    for chunks in (2, 3, 7):
        parts = compute_token_losses(head, targets, chunks)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_loss_is_normalised_by_real_targets_alone(dense):
    """Rows without any target (padding rows) change neither loss nor gradient."""
    batch = batch_of_features()
    for values in batch.values():
        values[4:] = 0
    half = {name: values[:4] for name, values in batch.items()}
    whole, whole_gradient = gradients(dense, FLOAT32, batch, groups=Groups(8, 8))
    part, part_gradient = gradients(dense, FLOAT32, half, groups=Groups(4, 4))
    assert float(whole) == pytest.approx(float(part), rel=1e-6)
    np.testing.assert_allclose(
        whole_gradient["logits.kernel"], part_gradient["logits.kernel"], atol=1e-6
    )
