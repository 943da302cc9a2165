import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy_switch import buckets

from mswitch.models.nn.attention import Attention, relative_position_buckets


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_follow_the_paper(bidirectional):
    length = 300
    signed = np.subtract.outer(np.arange(length), np.arange(length))
    made = relative_position_buckets(
        signed, bidirectional=bidirectional, buckets=32, max_distance=128
    )
    differs = made != buckets(length, bidirectional=bidirectional)
    distances = np.abs(signed)
    # At exact powers the logarithm of a float32 may fall on either side.
    assert {*distances[differs].tolist()} <= {16, 32, 64, 128}


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
