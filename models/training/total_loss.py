"""The loss of a batch: cross-entropy, z-loss, the routers' losses and a distillation loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mswitch.models.capacity import Groups
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.losses import Head, compute_distilled_losses, compute_token_losses
from mswitch.models.nn.router import RoutingStats
from mswitch.models.training.routing_metrics import sum_routing
from mswitch.models.training.state import Parameters, Skeleton

Batch = Mapping[str, Array]
#: Features of a batch that reach the device.
FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
)
#: Extra feature of a batch for losses per byte. It is 1 for sentinels and end tokens of
#: targets, else 0.
BORDERS = "decoder_border_weights"
SEGMENTS = ("encoder_segment_ids", "decoder_segment_ids")


class LossParts(NamedTuple):
    """Contributions of a batch, or of its part, to loss and metrics; they add up over parts.

    `routing` are `sum_routing`; only a student has a soft loss.
    """

    loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    balance_loss: Float[Array, ""]
    router_z_loss: Float[Array, ""]
    routing: dict[str, Array]
    soft_loss: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Teacher model of a distillation, and the weight of its predictions in the student's loss.

    Attributes:
        skeleton: its model, on the student's mesh; it draws nothing at random and drops no token.
        soft_weight: share of the cross-entropy with its predictions; the rest is with the targets.
        temperature: temperature of both models' predictions in that share.
    """

    skeleton: Skeleton
    soft_weight: float
    temperature: float

    def head(self, parameters: Parameters, batch: Batch) -> Head:
        """Compute a batch's hidden states; return them with the kernel that computes logits."""
        rows = batch["encoder_input_tokens"].shape[0]
        how = {"groups": Groups(rows, rows), "capacities": (DROPLESS, DROPLESS)}
        with self.skeleton.matmul_precision():
            return run_model(self.skeleton, parameters, batch, **how)[0]


def run_model(
    skeleton: Skeleton, parameters: Parameters, batch: Batch, **how: Any
) -> tuple[Head, tuple[RoutingStats, RoutingStats] | None]:
    """Compute a batch's hidden states and, in a sparse model, the routing of encoder and decoder.

    The batch has `SEGMENTS` if rows are packed; `how` are the model's groups, capacities and key.
    """
    model = skeleton.merge(parameters)
    x, stats = model(
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        **{name: batch.get(name) for name in SEGMENTS},
        **how,
    )
    return Head(x, *model.find_logits_kernel()), stats


def compute_batch_loss(
    skeleton: Skeleton,
    parameters: Parameters,
    batch: Batch,
    *,
    groups: Groups,
    target_tokens: Float[Array, ""],
    parts: int = 1,
    key: Any = None,
    teaching: Teaching | None = None,
    teacher: Parameters | None = None,
) -> tuple[Float[Array, ""], LossParts]:
    """Compute the loss of a microbatch, as its share of the whole batch's loss.

    The whole batch has `parts` equal microbatches, and `target_tokens` target tokens. With
    `teaching`, `teacher` are the values of the teacher's model.
    """
    train = skeleton.train
    with skeleton.matmul_precision():
        head, stats = run_model(skeleton, parameters, batch, groups=groups, key=key)
        targets, soft = batch["decoder_target_tokens"], None
        if teaching is None:
            losses, log_z_squared = compute_token_losses(head, targets, train.loss_chunks)
        else:
            assert teacher is not None
            losses, log_z_squared, soft = compute_distilled_losses(
                head,
                teaching.head(teacher, batch),
                targets,
                teaching.temperature,
                train.loss_chunks,
            )
    weights = batch["decoder_loss_weights"]
    loss = (losses * weights).sum() / target_tokens
    z_loss = train.z_loss * (log_z_squared * weights).sum() / target_tokens
    balance, router_z, routing = jnp.zeros(()), jnp.zeros(()), {}
    if stats is not None:
        config, (encoder, decoder) = skeleton.config, stats
        balance = encoder.balance_loss.sum() + decoder.balance_loss.sum()
        balance = config.balance_weight * balance / parts
        router_z = encoder.z_loss.sum() + decoder.z_loss.sum()
        router_z = config.router_z_weight * router_z / parts
        routing = sum_routing(stats)
    total = loss + z_loss + balance + router_z
    if teaching is not None and soft is not None:
        soft = (soft * weights).sum() / target_tokens
        total += teaching.soft_weight * (soft - loss)
    return total, LossParts(loss, z_loss, balance, router_z, routing, soft)


def scale_per_sequence(batch: Batch) -> Float[Array, "B T"]:
    """Scale a batch's loss weights to add up to 1 in each target sequence, even in packed rows."""
    weights, segments = batch["decoder_loss_weights"], batch.get("decoder_segment_ids")
    if segments is None:
        in_sequence = weights.sum(axis=-1, keepdims=True)
    else:
        same = segments[:, :, None] == segments[:, None, :]
        in_sequence = (same * weights[:, None, :]).sum(axis=-1)
    return weights / jnp.maximum(in_sequence, 1.0)
