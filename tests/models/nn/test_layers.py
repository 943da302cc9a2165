"""The dense feed-forward layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mswitch.models.config import ModelConfig
from mswitch.models.nn.layers import FeedForward

ROWS, LENGTH, D_MODEL, D_FF = 3, 5, 4, 8
RATE = 0.25


@pytest.fixture(params=["relu", "geglu"])
def layer(request) -> FeedForward:
    config = ModelConfig(d_model=D_MODEL, d_ff=D_FF, activation=request.param, dropout_rate=RATE)
    return FeedForward(config, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))


@pytest.fixture
def x() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (ROWS, LENGTH, D_MODEL))


def test_dropout_of_a_row_is_the_same_at_every_position(layer, x):
    key = jax.random.key(2)
    keep = jax.random.bernoulli(key, 1 - RATE, (ROWS, 1, D_FF))

    def dropped(layer: FeedForward, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(layer.wi_0(x))
        if layer.wi_1 is not None:
            hidden = jax.nn.gelu(layer.wi_0(x), approximate=True) * layer.wi_1(x)
        return layer.wo(hidden * keep / (1 - RATE))

    def gradients(call):
        loss = nnx.grad(lambda layer, x: jnp.sum(call(layer, x) ** 2), argnums=(0, 1))
        return nnx.jit(loss)(layer, x)

    np.testing.assert_allclose(layer(x, key=key), dropped(layer, x), rtol=1e-5, atol=1e-6)
    ours = gradients(lambda layer, x: layer(x, key=key))
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5),
        ours,
        gradients(dropped),
    )


@pytest.mark.parametrize(("platform", "axes"), [("cpu", 2), ("tpu", 3)])
def test_products_with_dropout_have_the_shape_that_the_platform_is_fast_at(
    layer, x, platform, axes
):
    graph, state = nnx.split(layer)

    def output(state, x):
        return nnx.merge(graph, state)(x, key=jax.random.key(2))

    program = jax.jit(output).trace(state, x).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert products
    for product in products:
        operand = product.split(": (tensor<")[1].split(">")[0]
        assert operand.count("x") == axes
