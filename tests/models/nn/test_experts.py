import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from mswitch.models.nn.experts import (
    DROPLESS,
    MIN_BLOCK,
    SwitchFeedForward,
    assign_blocks,
    choose_block_rows,
    combine,
    compute_groups,
    dispatch,
)
from mswitch.models.nn.layers import activate
from mswitch.models.nn.router import assign
from mswitch.models.partitioning import AXES


def one_hot_switch(layer: SwitchFeedForward, x, real, groups: int, capacity: int):
    """The Mesh TensorFlow way: [tokens, experts, capacity] masks and einsums."""
    experts = layer.config.experts
    tokens = x.reshape(groups, -1, x.shape[-1])
    real = real.reshape(groups, -1)
    probabilities = jax.nn.softmax(
        jnp.einsum("gsd,de->gse", tokens, layer.router.kernel[...], precision="highest")
    )
    chosen = jax.nn.one_hot(probabilities.argmax(-1), experts) * real[..., None]
    position = jnp.cumsum(chosen, axis=1) * chosen - 1
    kept = chosen * (position < capacity)
    where = jax.nn.one_hot(position.max(-1).astype(int), capacity)
    mask = jnp.einsum("gse,gsc->gsec", kept, where)
    gate = (probabilities * chosen).sum(-1)
    queues = jnp.einsum("gsec,gsd->egcd", mask, tokens)
    kernels = [layer.wi_0] if layer.wi_1 is None else [layer.wi_0, layer.wi_1]
    hidden = activate([jnp.einsum("egcd,edf->egcf", queues, k[...]) for k in kernels])
    out = jnp.einsum("egcf,efd->egcd", hidden, layer.wo[...])
    return (jnp.einsum("gsec,egcd->gsd", mask, out) * gate[..., None]).reshape(x.shape)


def layer_of(config, seed: int = 0, mesh: Mesh | None = None) -> SwitchFeedForward:
    return SwitchFeedForward(config, dtype=jnp.dtype("float32"), mesh=mesh, rngs=nnx.Rngs(seed))


# Each operation on its own would be compiled on its own.
@functools.partial(nnx.jit, static_argnames=("groups", "capacity"))
def applied(layer: SwitchFeedForward, x, real, *, groups: int, capacity=None, key=None):
    return layer(x, real, groups=groups, capacity=capacity, key=key)


@pytest.mark.parametrize("capacity", [2, 3, 12])
@pytest.mark.parametrize("activation", ["geglu", "relu"])
def test_index_dispatch_equals_one_hot_einsums_with_gradients(sparse, capacity, activation):
    config = dataclasses.replace(sparse, activation=activation)
    layer = layer_of(config, 3)
    layer.router.kernel[...] = layer.router.kernel[...] * 50
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(6, 8, config.d_model)), jnp.float32)
    real = jnp.array(rng.random((6, 8)) < 0.8)
    weights = jnp.array(rng.normal(size=x.shape), jnp.float32)
    graph, state = nnx.split(layer)

    def by_index(state, x):
        y, _ = nnx.merge(graph, state)(x, real, groups=2, capacity=capacity)
        return (y * weights).sum(), y

    def by_one_hot(state, x):
        y = one_hot_switch(nnx.merge(graph, state), x, real, 2, capacity)
        return (y * weights).sum(), y

    made, wanted = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(state, x)
        for f in (by_index, by_one_hot)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), made, wanted)


@pytest.mark.parametrize(("experts", "capacity"), [(2, 1), (2, 5), (5, 3), (5, 16)])
def test_dispatch_and_combine_are_inverse_for_kept_tokens(experts, capacity):
    """And whatever is in a place that no token takes, it has no gradient."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 3)).astype(np.float32)
    logits = rng.normal(size=(2, 16, experts)).astype(np.float32)
    real = rng.random((2, 16)) < 0.8

    @jax.jit
    def there_and_back(x, logits, real):
        slot = assign(logits, real, capacity).slot
        queues = dispatch(x, slot, experts, capacity)
        back, pull = jax.vjp(lambda queues: combine(queues, slot, capacity), queues)
        return slot, back, pull(jnp.ones_like(back))[0]

    slot, back, gradient = map(np.asarray, there_and_back(x, logits, real))
    kept = slot < experts * capacity
    np.testing.assert_array_equal(back[kept], x[kept])
    assert not back[~kept].any()
    taken = np.zeros(experts * 2 * capacity, bool)
    group = np.broadcast_to(np.arange(2)[:, None], slot.shape)
    taken[((slot // capacity * 2 + group) * capacity + slot % capacity)[kept]] = True
    assert gradient.reshape(taken.size, -1)[taken].all()
    assert not gradient.reshape(taken.size, -1)[~taken].any()


def test_expert_dropout_acts_in_training_only(sparse):
    config = dataclasses.replace(sparse, expert_dropout_rate=0.4, router_jitter=0.0)
    layer = layer_of(config)
    x = jax.random.normal(jax.random.key(0), (2, 8, config.d_model))
    real = jnp.ones((2, 8), bool)
    calm = [applied(layer, x, real, groups=1, capacity=16)[0] for _ in range(2)]
    np.testing.assert_array_equal(calm[0], calm[1])
    # With this kernel a feature of the intermediate is a feature of the output.
    kernel = jnp.eye(config.d_ff, config.d_model)
    layer.wo[...] = jnp.broadcast_to(kernel, layer.wo.shape)
    whole, _ = applied(layer, x, real, groups=1, capacity=16)
    zeros = []
    for seed in range(40):
        dropped, _ = applied(layer, x, real, groups=1, capacity=16, key=jax.random.key(seed))
        gone = np.asarray(dropped == 0) & np.asarray(whole != 0)
        np.testing.assert_allclose(dropped, np.where(gone, 0, whole / 0.6), rtol=1e-5, atol=1e-8)
        zeros.append(gone[np.asarray(whole != 0)].mean())
    assert np.mean(zeros) == pytest.approx(0.4, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(
    # Each triple is compiled once.
    st.sampled_from([(1, 2, 1), (40, 2, 8), (40, 5, 4), (33, 16, 1)]),
    st.floats(0.0, 1.0),
    st.floats(0.1, 30.0),
    st.integers(0, 2**32 - 1),
)
def test_blocks_hold_every_token_once_however_uneven(sizes, share, skew, seed):
    tokens, experts, rows = sizes
    rng = np.random.default_rng(seed)
    weights = np.exp(skew * rng.normal(size=experts))
    expert = rng.choice(experts, tokens, p=weights / weights.sum())
    expert = np.where(rng.random(tokens) < share, expert, -1)
    row, of_block = jitted_blocks(jnp.array(expert), experts, rows)
    row, of_block = np.asarray(row), np.asarray(of_block)
    assert len(set(row.tolist())) == tokens
    assert of_block.shape == (min(tokens // rows + experts, tokens),)
    real = expert >= 0
    assert (row[~real] >= of_block.size * rows).all()
    assert (row[real] < of_block.size * rows).all()
    np.testing.assert_array_equal(of_block[row[real] // rows], expert[real])
    # Blocks without tokens come last, and are not computed.
    used = len(set((row[real] // rows).tolist()))
    assert (of_block[:used] >= 0).all()
    assert (of_block[used:] == -1).all()
    for number in range(experts):
        assert (np.diff(row[expert == number]) > 0).all()  # in the order of the tokens


jitted_blocks = jax.jit(assign_blocks, static_argnums=(1, 2))


@pytest.mark.parametrize("activation", ["geglu", "relu"])
@pytest.mark.parametrize("sharpness", [1.0, 1e4])
def test_dropless_blocks_equal_queues_that_fit(sparse, activation, sharpness):
    """Also when nearly all tokens go to one expert."""
    config = dataclasses.replace(sparse, activation=activation)
    layer = layer_of(config, 3)
    layer.router.kernel[...] = layer.router.kernel[...] * sharpness
    x = jax.random.normal(jax.random.key(0), (6, 8, config.d_model)) + 0.5
    real = jax.random.bernoulli(jax.random.key(1), 0.8, (6, 8))
    queues, wanted = applied(layer, x, real, groups=2, capacity=24)
    blocks, made = applied(layer, x, real, groups=2, capacity=DROPLESS)
    np.testing.assert_allclose(queues, blocks, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, made, wanted)
    assert int(made.dropped) == 0
    assert not np.asarray(blocks)[~np.asarray(real)].any()


@pytest.mark.parametrize("sharpness", [1.0, 1e4])
def test_grouped_products_equal_blocks(sparse, sharpness, monkeypatch):
    """Megablox' kernel, interpreted; rows of no expert are never written, and never read."""
    monkeypatch.setattr("mswitch.models.nn.experts.ROW_TILE", 16)
    layer = layer_of(sparse, 3)
    layer.router.kernel[...] = layer.router.kernel[...] * sharpness
    x = jax.random.normal(jax.random.key(0), (6, 8, sparse.d_model)) + 0.5
    real = jax.random.bernoulli(jax.random.key(1), 0.8, (6, 8))
    expert = layer.router(x, real, 8).stats.expert
    into = [layer.wi_0[...], layer.wi_1[...]]
    groups = compute_groups(x, expert, into, layer.wo[...], interpret=True)
    blocks = layer._compute_blocks(x, expert, into, layer.wo[...], None)
    np.testing.assert_allclose(groups, blocks, atol=1e-6)
    assert not np.asarray(groups)[~np.asarray(real)].any()


def test_on_a_mesh_blocks_are_those_of_one_device(sparse):
    """Types of shards are checked however few devices there are."""
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES)
    x = jax.random.normal(jax.random.key(0), (6, 8, sparse.d_model))
    made = []
    for where in (None, mesh):
        layer = layer_of(sparse, 3, where)
        made.append(applied(layer, x, jnp.ones((6, 8), bool), groups=2, capacity=DROPLESS))
    jax.tree.map(np.testing.assert_array_equal, *made)


@given(st.integers(1, 100_000), st.integers(1, 256))
def test_blocks_cost_at_most_half_more_than_their_tokens_or_little(tokens, experts):
    rows = choose_block_rows(tokens, experts)
    assert rows & (rows - 1) == 0
    extra = experts * rows
    assert extra <= max(tokens / 2, experts * MIN_BLOCK)


def test_few_tokens_fetch_the_kernels_of_an_expert_once():
    """A step of decoding: 32 rows among 8 experts, up to a block's rows each."""
    expert = np.repeat([0, 2, 3, 5, 6, 7], [3, 8, 7, 1, 8, 5])
    rows = choose_block_rows(32, 8)
    _, of_block = jitted_blocks(jnp.array(np.random.default_rng(0).permutation(expert)), 8, rows)
    assert np.asarray(of_block).tolist() == [0, 2, 3, 5, 6, 7, *[-1] * 6]
