import dataclasses

import jax
import pytest

from mswitch.models.capacity import group_batch
from mswitch.models.config import TrainConfig
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.presets import preset
from mswitch.models.training.state import Skeleton
from mswitch.models.training.total_loss import compute_batch_loss

ROWS, INPUTS, TARGETS = 8, 64, 16


@pytest.mark.parametrize("name", ["mt5-tiny", "mswitch-tiny"])
def test_analytic_flops_are_those_xla_counts(name):
    """Forward and backward pass, unrolled (XLA counts a loop's body once)."""
    model = dataclasses.replace(
        preset(name).model, vocabulary_size=1024, d_model=256, d_ff=512, d_kv=64, group_size=256
    )
    train = TrainConfig(batch_size=ROWS, dtype="float32")
    skeleton = Skeleton.build(model, train)

    def loss(parameters, batch):
        groups, tokens = group_batch(model, ROWS, INPUTS, TARGETS), batch["decoder_loss_weights"]
        return compute_batch_loss(
            skeleton, parameters, batch, groups=groups, target_tokens=tokens.sum()
        )[0]

    def tokens(length: int, dtype: str = "int32"):
        return jax.ShapeDtypeStruct((ROWS, length), dtype)

    batch = {
        "encoder_input_tokens": tokens(INPUTS),
        "decoder_input_tokens": tokens(TARGETS),
        "decoder_target_tokens": tokens(TARGETS),
        "decoder_loss_weights": tokens(TARGETS, "float32"),
    }
    compiled = jax.jit(jax.grad(loss)).lower(dict(skeleton.shapes), batch).compile()
    counted = compiled.cost_analysis()["flops"]
    analytic = count_training_step_flops(model, ROWS, INPUTS, TARGETS)
    assert counted == pytest.approx(analytic, rel=0.04)
