import dataclasses

import jax
import jax.numpy as jnp
from hypothesis import given
from hypothesis import strategies as st

from mswitch.models.capacity import (
    count_groups,
    expert_capacity,
    group_batch,
    warn_of_small_groups,
)
from mswitch.models.nn.router import assign
from mswitch.models.presets import preset


@given(st.integers(1, 200), st.integers(1, 300), st.integers(1, 5000))
def test_groups_are_whole_sequences_that_fit(batch_size, inputs_length, group_size):
    groups = count_groups(batch_size, inputs_length, group_size)
    assert batch_size % groups == 0
    sequences = batch_size // groups
    assert sequences == 1 or sequences * inputs_length <= group_size


def test_group_count_of_the_published_setting():
    assert count_groups(1024, 1024, 4096) == 256
    assert count_groups(1024, 229, 4096) == 64
    assert count_groups(32, 64, 4096) == 1
    assert count_groups(64, 64, 2048) == 2


def test_random_routing_drops_few_tokens_of_either_stack():
    """mswitch-base's 128 experts at the paper's lengths: 4 inputs a group, and 16 targets."""
    model, lengths, batch_size = preset("mswitch-base").model, (1024, 229), 64
    assert not list(warn_of_small_groups(model, batch_size, *lengths))
    groups = group_batch(model, batch_size, *lengths)
    for stack, (count, length) in enumerate(zip(groups, lengths, strict=True)):
        positions = batch_size * length // count
        # Four groups are as good as all.
        logits = jax.random.normal(jax.random.key(stack), (4, positions, model.experts))
        capacity = expert_capacity(model.capacity_factor, positions, model.experts)
        real = jnp.ones((4, positions), bool)
        stats = jax.jit(assign, static_argnums=2)(logits, real, capacity).stats
        assert 0.001 < float(stats.drop_fraction) < 0.015


def test_groups_with_few_positions_an_expert_are_told_with_the_remedy():
    model = preset("mswitch-base").model

    def warnings(batch_size, **changes):
        changed = dataclasses.replace(model, **changes)
        return list(warn_of_small_groups(changed, batch_size, 1024, 229))

    (decoder,) = warnings(8)
    assert decoder == (
        "warning: a routing group of the decoder has 1,832 positions, 14.3 for each of 128 "
        "experts; below 16 many tokens get no slot: raise --batch-size"
    )
    encoder, decoder = warnings(64, group_size=1024)
    assert "of the encoder has 1,024 positions, 8.0 for each" in encoder
    assert decoder.endswith("raise --group-size")
    assert not warnings(8, experts=0)
