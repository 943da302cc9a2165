"""Make one training step: a compiled function of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mswitch.models.capacity import Groups
from mswitch.models.training.optimizer import Optimizer
from mswitch.models.training.routing_metrics import compute_routing_metrics
from mswitch.models.training.state import Parameters, Skeleton, TrainState
from mswitch.models.training.total_loss import (
    Batch,
    LossParts,
    Teaching,
    compute_batch_loss,
    scale_per_sequence,
)

Metrics = dict[str, Array]


def make_gradients(
    skeleton: Skeleton, groups: Groups, teaching: Teaching | None = None
) -> Callable[..., tuple[Parameters, LossParts]]:
    """Return `(parameters, batch, key, teacher) -> (gradients, losses)`, for JAX to trace.

    Gradients and losses are for the whole batch. Frozen parameters have no gradient.

    With microbatches, the rows are split into runs of whole routing groups, and every n-th run goes
    into the same part. So each part stays on the devices that hold its rows. The gradients of all
    parts add up to the whole batch's.
    """
    parts = skeleton.train.microbatches

    def gradients(
        parameters: Parameters, batch: Batch, key: Any, teacher: Parameters | None = None
    ):
        if skeleton.train.loss_per == "sequence":
            batch = {**batch, "decoder_loss_weights": scale_per_sequence(batch)}
        trained = skeleton.select_trained(parameters)
        target_tokens = jnp.maximum(batch["decoder_loss_weights"].sum(), 1.0)

        def loss(trained: Parameters, part: Batch, key: Any):
            return compute_batch_loss(
                skeleton,
                {**parameters, **trained},
                part,
                groups=groups.divide(parts),
                target_tokens=target_tokens,
                parts=parts,
                key=key,
                teaching=teaching,
                teacher=teacher,
            )

        differentiate = jax.value_and_grad(loss, has_aux=True)
        if parts == 1:
            (_, losses), gradient = differentiate(trained, batch, key)
            return gradient, losses

        def split(x: Array) -> Array:
            return x.reshape(groups.separable // parts, parts, -1, *x.shape[1:]).swapaxes(0, 1)

        def add(total: Parameters, inputs: tuple[Any, Array]):
            part, part_key = inputs
            rows = {name: x.reshape(-1, *x.shape[2:]) for name, x in part.items()}
            (_, losses), gradient = differentiate(trained, rows, part_key)
            return jax.tree.map(jnp.add, total, gradient), losses

        zeros = jax.tree.map(jnp.zeros_like, trained)
        split_batch = {name: split(x) for name, x in batch.items()}
        keys = jax.random.split(key, parts)
        gradient, losses = jax.lax.scan(add, zeros, (split_batch, keys))
        return gradient, jax.tree.map(lambda x: x.sum(axis=0), losses)

    return gradients


def make_train_step(
    skeleton: Skeleton,
    optimizer: Optimizer,
    groups: Groups,
    steps_counted: int = 0,
    teaching: Teaching | None = None,
) -> jax.stages.Wrapped:
    """Return a jitted `(state, batch, loss_limit, teacher) -> (state, metrics)`.

    A step reuses the old state's memory. With `teaching`, `teacher` are the values of the teacher's
    model, and do not change.

    With the policy `skip`, a bad step, or one with a loss above `loss_limit`, only increases the
    count of steps. The optimizer continues to count from `steps_counted`.
    """
    train = skeleton.train
    gradients = make_gradients(skeleton, groups, teaching)

    def train_step(
        state: TrainState,
        batch: Batch,
        loss_limit: float | Array = jnp.inf,
        teacher: Parameters | None = None,
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        gradient, losses = gradients(state.parameters, batch, key, teacher)
        count = state.step + steps_counted
        parameters, moments, gradient_norm = optimizer.update(
            skeleton.select_trained(state.parameters), gradient, state.moments, count, skeleton.axes
        )
        parameters = {**state.parameters, **parameters}
        metrics = {
            "train/loss": losses.loss,
            "train/z_loss": losses.z_loss,
            "train/gradient_norm": gradient_norm,
            "train/learning_rate": optimizer.learning_rate(count),
            "train/target_tokens": batch["decoder_loss_weights"].sum(),
        }
        if losses.soft_loss is not None:
            metrics["train/soft_loss"] = losses.soft_loss
        if skeleton.config.sparse:
            metrics["train/balance_loss"] = losses.balance_loss
            metrics["train/router_z_loss"] = losses.router_z_loss
            model = skeleton.config
            encoder_layers = model.encoder_layers // model.sparse_every
            routing = compute_routing_metrics(losses.routing, encoder_layers)
            metrics |= {f"router/{name}": value for name, value in routing.items()}
        if train.on_bad_loss == "skip":
            finite = jnp.isfinite(losses.loss) & jnp.isfinite(metrics["train/gradient_norm"])
            good = finite & (losses.loss <= loss_limit)
            parameters, moments = jax.tree.map(
                functools.partial(jnp.where, good),
                (parameters, moments),
                (state.parameters, state.moments),
            )
            metrics["train/skipped"] = ~good
        return TrainState(parameters, moments, state.step + 1), metrics

    shardings = skeleton.state_shardings(optimizer)
    # Metrics are replicated on every device, so that every process can read them.
    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=None if shardings is None else (shardings, shardings.step),
    )
