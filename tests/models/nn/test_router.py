import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_switch import route

from mswitch.models.capacity import expert_capacity
from mswitch.models.nn.router import Router, assign, hash_to_expert

BFLOAT16 = jnp.dtype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("factor", "positions", "experts", "capacity"),
    [
        (1.25, 4096, 128, 40),
        (1.0, 4096, 128, 32),
        (1.25, 2048, 8, 320),
        (2.0, 8192, 128, 128),
        (1.25, 64, 128, 4),  # at least 4
        (1.25, 3, 8, 3),  # never more than there are positions
        (1.0, 100, 16, 6),  # 6.25
        (1.0, 108, 16, 7),  # 6.75
        (100.0, 50, 2, 50),
    ],
)
def test_capacity(factor, positions, experts, capacity):
    assert expert_capacity(factor, positions, experts) == capacity


# Each operation on its own would be compiled on its own.
jitted_assign = jax.jit(assign, static_argnums=(2, 3))
jitted_slope = jax.jit(
    jax.grad(lambda *arguments: assign(*arguments).stats.balance_loss), static_argnums=(2, 3)
)


@functools.partial(nnx.jit, static_argnums=3)
def jitted_router(router: Router, x, real, capacity: int, key=None):
    return router(x, real, capacity, key=key)


@settings(max_examples=80, deadline=None)
@given(
    # Each triple is compiled once.
    st.sampled_from([(1, 1, 2), (3, 20, 2), (2, 24, 6), (2, 150, 5)]),
    st.sampled_from([1, 4, 24]),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32 - 1),
)
def test_assignment_equals_one_token_at_a_time(shape, capacity, share, seed):
    groups, positions, experts = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape).astype(np.float32)
    real = rng.random((groups, positions)) < share
    routing = jitted_assign(logits, real, capacity)
    slots, gates, stats = route(logits, real, capacity)
    made = np.asarray(routing.slot)
    kept = slots >= 0
    np.testing.assert_array_equal(made[kept], slots[kept])
    assert (made[~kept] >= experts * capacity).all()
    for row in made:
        assert len(set(row.tolist())) == positions
    np.testing.assert_allclose(routing.gate, gates, rtol=1e-5)
    for name, wanted in stats.items():
        made = getattr(routing.stats, name)
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(1, 1, 2), (3, 20, 2), (2, 24, 6), (2, 150, 5)]),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_global_balance_is_that_of_one_large_group(shape, share, seed):
    """And routing itself takes no notice of the scope."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape).astype(np.float32)
    real = rng.random(shape[:2]) < share
    made = jitted_assign(logits, real, 4, "global")
    by_group = jitted_assign(logits, real, 4, "group")
    wanted = route(logits.reshape(1, -1, shape[-1]), real.reshape(1, -1), 4)[2]["balance_loss"]
    assert float(made.stats.balance_loss) == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(made.slot, by_group.slot)
    if shape[0] == 1:
        assert float(by_group.stats.balance_loss) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_the_balance_loss_pushes_an_overfull_expert_down():
    """Its gradient goes through the probabilities alone, on assignments before capacity."""
    logits = jnp.array(np.random.default_rng(2).normal(size=(1, 12, 3)), jnp.float32)
    logits = logits.at[..., 1].add(1.5)
    real = (jnp.arange(12) < 9)[None]
    for scope in ("group", "global"):
        slopes = [jitted_slope(logits, real, c, scope) for c in (1, 12)]
        np.testing.assert_array_equal(*slopes)
        assert not slopes[0][0, 9:].any()
        assert (np.asarray(slopes[0])[0, :9, 1] > 0).all()


def test_a_bfloat16_router_rounds_what_a_float32_router_does_not(sparse):
    x = jax.random.normal(jax.random.key(0), (2, 8, sparse.d_model), jnp.bfloat16)
    real = jnp.ones((2, 8), bool)
    routed = {}
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(sparse, router_dtype=dtype)
        router = Router(config, dtype=BFLOAT16, rngs=nnx.Rngs(0))
        routed[dtype] = jitted_router(router, x, real, 8, key=jax.random.key(1))
    fine, coarse = routed["float32"].gate, routed["bfloat16"].gate
    assert fine.dtype == coarse.dtype == jnp.float32
    np.testing.assert_array_equal(coarse, coarse.astype(jnp.bfloat16))
    assert not np.array_equal(fine, fine.astype(jnp.bfloat16))
    np.testing.assert_allclose(fine, coarse, rtol=0.03)


def test_router_is_float32_inside_bfloat16(sparse):
    router = Router(sparse, dtype=BFLOAT16, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 8, sparse.d_model), jnp.bfloat16)
    routing = jitted_router(router, x, jnp.ones((1, 8), bool), 4)
    assert routing.gate.dtype == jnp.float32
    # Two logits that bfloat16 could not tell apart (256 and 257 become equal).
    router.kernel[...] = jnp.zeros_like(router.kernel[...]).at[0, 2].set(257.0).at[0, 1].set(256.0)
    routing = jitted_router(router, x, jnp.ones((1, 8), bool), 8)
    assert (np.asarray(routing.stats.expert) == 2).all()
    config = dataclasses.replace(sparse, router_dtype="bfloat16")
    coarse = Router(config, dtype=BFLOAT16, rngs=nnx.Rngs(0))
    coarse.kernel[...] = router.kernel[...]
    routing = jitted_router(coarse, x, jnp.ones((1, 8), bool), 8)
    assert (np.asarray(routing.stats.expert) == 1).all()


def test_jitter_multiplies_the_input_in_training_only(sparse):
    noisy = dataclasses.replace(sparse, router_jitter=0.3)
    router = Router(noisy, dtype=BFLOAT16, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 16, noisy.d_model))

    def gate(x, seed=None):
        key = None if seed is None else jax.random.key(seed)
        return jitted_router(router, x, jnp.ones((2, 16), bool), 16, key=key).gate

    np.testing.assert_array_equal(gate(x), gate(x))
    assert not np.array_equal(gate(x, 1), gate(x, 2))
    assert not np.array_equal(gate(x, 1), gate(x))
    np.testing.assert_array_equal(gate(x, 1), gate(x, 1))
    # 0 times noise is 0.
    np.testing.assert_allclose(gate(jnp.zeros_like(x), 1), 1 / noisy.experts, rtol=1e-6)


@pytest.mark.parametrize("d_model", [32, 768, 2048])
def test_the_papers_init_gives_logits_the_same_deviation_at_any_width(sparse, d_model):
    def kernel(init):
        config = dataclasses.replace(sparse, d_model=d_model, experts=64, router_init=init)
        return np.asarray(Router(config, dtype=BFLOAT16, rngs=nnx.Rngs(0)).kernel[...])

    paper, flaxformer = kernel("paper"), kernel("flaxformer")
    assert paper.std() * d_model**0.5 == pytest.approx(0.316, rel=0.05)
    assert np.abs(paper).max() < 2.3 * paper.std()  # cut at two deviations of the whole normal
    assert flaxformer.std() == pytest.approx(0.02, rel=0.05)


def test_a_token_router_begins_as_the_hash_and_learns_from_token_and_context(sparse):
    config = dataclasses.replace(sparse, routing="token")
    router = Router(config, dtype=BFLOAT16, rngs=nnx.Rngs(0))
    ids = jnp.arange(2 * 64).reshape(2, 64) % 96
    x = jax.random.normal(jax.random.key(0), (2, 64, sparse.d_model), jnp.bfloat16)

    graph, state = nnx.split(router)

    @jax.jit
    def route(table, kernel):
        changed = state | {"table": nnx.Param(table), "kernel": nnx.Param(kernel)}
        return nnx.merge(graph, nnx.State(changed))(x, ids > 0, 64, ids=ids)

    values = router.table[...], router.kernel[...]
    routing = route(*values)
    hashed = np.asarray(hash_to_expert(ids, sparse.experts))
    np.testing.assert_array_equal(routing.stats.expert, np.where(ids > 0, hashed, -1))
    np.testing.assert_allclose(routing.gate, 0.7, rtol=1e-5)
    rows, kernel = jax.grad(lambda *values: route(*values).gate.sum(), argnums=(0, 1))(*values)
    used = np.isin(np.arange(sparse.vocabulary_size), np.asarray(ids))
    assert np.asarray(rows)[used].any(axis=1).all()
    assert not np.asarray(rows)[~used].any()
    assert np.asarray(kernel).any()
    # What the hidden states say may outweigh the token.
    aside = jnp.zeros_like(values[1]).at[0, 1].set(1e4)
    expert = np.asarray(route(values[0], aside).stats.expert)
    assert (expert == 1)[np.asarray((ids > 0) & (x[..., 0] > 0))].all()


def test_a_hash_routes_every_occurrence_of_a_token_alike(sparse):
    """And has nothing to learn: no parameters, a gate of 1, no gradient of its losses."""
    router = Router(dataclasses.replace(sparse, routing="hash"), dtype=BFLOAT16, rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.state(router))
    ids = jnp.arange(2 * 512).reshape(2, 512) % 128
    x = jnp.zeros((2, 512, sparse.d_model), jnp.bfloat16)
    routing = router(x, ids > 0, 512, ids=ids, key=jax.random.key(0))
    expert = np.asarray(routing.stats.expert)
    assert (expert[np.asarray(ids) == 0] == -1).all()
    for token in range(1, 128):
        assert len(set(expert[np.asarray(ids) == token].tolist())) == 1
    np.testing.assert_array_equal(routing.gate, 1.0)
    assert float(routing.stats.entropy) == 0.0
    load = np.bincount(np.asarray(hash_to_expert(jnp.arange(250_112), 128)), minlength=128)
    assert load.max() / load.mean() < 1.1
