import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mswitch.models.nn.attention import Attention, relative_position_buckets


def bucket(relative_position: int, bidirectional: bool) -> int:
    """The rule of T5's paper for one pair, relative position = key - query; 32 buckets, 128."""
    buckets, start = 32, 0
    if bidirectional:
        buckets = 16
        start = buckets if relative_position > 0 else 0
        distance = abs(relative_position)
    else:
        distance = max(-relative_position, 0)
    half = buckets // 2
    if distance < half:
        return start + distance
    logarithm = math.log(distance / half) / math.log(128 / half) * (buckets - half)
    return start + min(half + int(logarithm), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_follow_the_paper(bidirectional):
    length = 300
    made = relative_position_buckets(
        length, length, bidirectional=bidirectional, buckets=32, max_distance=128
    )
    for query in (0, 7, 150, 299):
        wanted = [bucket(key - query, bidirectional) for key in range(length)]
        # At exact powers the logarithm of a float32 may fall on either side.
        on_edge = [abs(key - query) in (8, 16, 32, 64, 128) for key in range(length)]
        differs = np.array(wanted) != made[query]
        assert not (differs & ~np.array(on_edge)).any()


def test_bucket_landmarks():
    both, causal = (
        relative_position_buckets(400, 400, bidirectional=way, buckets=32, max_distance=128)
        for way in (True, False)
    )
    places = ((200, 200), (200, 193), (200, 192), (200, 201), (399, 0), (0, 399))
    assert [both[place] for place in places] == [0, 7, 8, 17, 15, 31]
    assert [causal[place] for place in ((0, 399), (399, 0), (20, 5))] == [0, 31, 15]


def test_attention_is_unscaled_softmax_of_products(dense):
    attention = Attention(dense, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(2, 3, 32)), rng.normal(size=(2, 5, 32))
    mask = rng.random((2, 3, 5)) < 0.7
    mask[..., 0] = True
    bias = rng.normal(size=(1, 2, 3, 5))
    made = attention(jnp.array(x), jnp.array(memory), jnp.array(mask), bias=jnp.array(bias))

    def heads(values: np.ndarray, kernel: nnx.Param) -> np.ndarray:
        return (values @ np.asarray(kernel[...])).reshape(*values.shape[:2], 2, 16)

    q, k = heads(x, attention.query.kernel), heads(memory, attention.key.kernel)
    v = heads(memory, attention.value.kernel)
    wanted = np.zeros((2, 3, 2, 16))
    for b, i, h in np.ndindex(2, 3, 2):
        logits = np.array([q[b, i, h] @ k[b, j, h] + bias[0, h, i, j] for j in range(5)])
        weights = np.where(mask[b, i], np.exp(logits - logits.max()), 0.0)
        wanted[b, i, h] = (weights / weights.sum()) @ v[b, :, h]
    wanted = wanted.reshape(2, 3, 32) @ np.asarray(attention.out.kernel[...])
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_query_starts_smaller_in_place_of_the_scaling(dense):
    wide = dataclasses.replace(dense, d_model=512, d_kv=64, heads=8, init_scale=1.0)
    attention = Attention(wide, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    spread = {
        name: float(jnp.std(getattr(attention, name).kernel[...]))
        for name in ("query", "key", "value", "out")
    }
    assert spread["key"] == pytest.approx(512**-0.5, rel=0.02)
    assert spread["query"] == pytest.approx(512**-0.5 / 8, rel=0.02)
    assert spread["out"] == pytest.approx(512**-0.5, rel=0.02)
    small = dataclasses.replace(wide, init_scale=0.1)
    tenth = Attention(small, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    assert float(jnp.std(tenth.key.kernel[...])) == pytest.approx(spread["key"] / 10**0.5, rel=0.01)


def test_bfloat16_attention_has_a_float32_softmax(dense):
    """Weights of 1,024 equal keys are 1/1024 each; a bfloat16 sum of them would stop early."""
    attention = Attention(dense, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 1, 32), jnp.bfloat16)
    memory = jnp.ones((1, 1024, 32), jnp.bfloat16)
    mask = jnp.ones((1, 1, 1024), bool)
    jaxpr = jax.make_jaxpr(lambda q, m: attention(q, m, mask))(x, memory)
    exponentials = [line for line in str(jaxpr).splitlines() if "= exp " in line]
    assert exponentials
    assert all("f32" in line for line in exponentials)
