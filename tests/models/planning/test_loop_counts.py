"""Steps compiled here, scanned and unrolled: the FLOPs counted in them are the analytic ones."""

import dataclasses

import jax
import pytest

from mswitch.models.config import TrainConfig
from mswitch.models.nn.flops import recomputed_flops, training_step_flops
from mswitch.models.planning.compile import CompileRequest, lower_step
from mswitch.models.planning.costs import costs_of

pytestmark = pytest.mark.training

ROWS, INPUTS, TARGETS = 8, 32, 16


def step_flops(model, **settings) -> int:
    train = TrainConfig(batch_size=ROWS, dtype="float32", **settings)
    request = CompileRequest("cpu", model, train, INPUTS, TARGETS)
    return costs_of(lower_step(request, jax.devices()[:1]).compile().as_text()).flops


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
    again = recomputed_flops(
        deep_sparse,
        *lengths,
        remat=settings.get("remat", "none"),
        loss_chunks=settings.get("loss_chunks", 1),
    )
    analytic = training_step_flops(deep_sparse, *lengths) + again
    assert step_flops(deep_sparse, **settings) == pytest.approx(analytic, rel=1e-4)
