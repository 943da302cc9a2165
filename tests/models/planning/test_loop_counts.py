"""Steps compiled here, scanned and unrolled: the FLOPs counted in them are the analytic ones."""

import dataclasses

import jax
import pytest

from mswitch.models.capacity import expert_capacity, group_batch
from mswitch.models.config import TrainConfig
from mswitch.models.nn.flops import (
    count_feed_forward_flops,
    count_logits_flops,
    count_recomputed_flops,
    count_training_step_flops,
)
from mswitch.models.planning.compile import CompileRequest, lower_step
from mswitch.models.planning.costs import Costs, count_costs
from mswitch.models.planning.topology import parse_topology

pytestmark = pytest.mark.training

ROWS, INPUTS, TARGETS = 8, 32, 16


def step_costs(model, **settings) -> Costs:
    train = TrainConfig(batch_size=ROWS, dtype="float32", **settings)
    request = CompileRequest("cpu", model, train, INPUTS, TARGETS)
    text = lower_step(request, jax.devices()[:1]).compile().as_text()
    return count_costs(text, parse_topology("v5p:2x2x1"))


@pytest.fixture(scope="module")
def deep_sparse(sparse):
    return dataclasses.replace(
        sparse, encoder_layers=4, decoder_layers=6, sparse_every=2, group_size=INPUTS
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"scan_layers": True},
        {"scan_layers": False},
        {"scan_layers": True, "microbatches": 4, "loss_chunks": 4, "remat": "layers"},
        {"scan_layers": True, "remat": "attention"},
    ],
)
def test_a_loops_body_counts_as_often_as_it_runs(deep_sparse, settings):
    """Scanned, unrolled, in parts: the analytic FLOPs (the rest are sums over probabilities)."""
    lengths = (ROWS, INPUTS, TARGETS)
    train = TrainConfig(batch_size=ROWS, **settings)
    again = count_recomputed_flops(deep_sparse, train, INPUTS, TARGETS)
    analytic = count_training_step_flops(deep_sparse, *lengths) + again
    assert step_costs(deep_sparse, **settings).flops == pytest.approx(analytic, rel=1e-4)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_the_products_of_each_part_are_its_analytic_ones(deep_sparse, scan_layers):
    model, stacks = deep_sparse, (deep_sparse.encoder_layers, deep_sparse.decoder_layers)
    parts = step_costs(model, scan_layers=scan_layers).parts
    pairs = stacks[0] * INPUTS**2 + stacks[1] * TARGETS * (TARGETS + INPUTS)
    rows = [(INPUTS, INPUTS), (TARGETS, TARGETS), (TARGETS, INPUTS)]
    projected = sum(
        layers * 2 * (queries + keys)
        for layers, (queries, keys) in zip((*stacks, stacks[1]), rows, strict=True)
    )
    positions, slots = 0, 0
    groups = group_batch(model, ROWS, INPUTS, TARGETS)
    for layers, length, count in zip(stacks, (INPUTS, TARGETS), groups, strict=True):
        sparse = layers // model.sparse_every
        capacity = expert_capacity(model.capacity_factor, ROWS * length // count, model.experts)
        positions += (layers - sparse) * ROWS * length
        slots += sparse * count * model.experts * capacity
    forward = {
        "attention": 2 * 2 * ROWS * model.joined_kv * pairs,
        "projections": 2 * ROWS * model.d_model * model.joined_kv * projected,
        "feed-forward": (positions + slots) * count_feed_forward_flops(model),
        "loss": count_logits_flops(model, ROWS, TARGETS),
    }
    for part, flops in forward.items():
        assert parts[part]["flops"] == pytest.approx(3 * flops, rel=1e-3), part
    assert {"dispatch", "norms", "optimizer"} <= parts.keys()
    assert all(part["memory_bytes"] for part in parts.values())
