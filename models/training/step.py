"""One training step and one evaluation step, as compiled functions of a state and a batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from mswitch.models.capacity import Groups
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.losses import Head, chunked_token_losses, distilled_token_losses
from mswitch.models.nn.router import RoutingStats
from mswitch.models.training.optimizer import Optimizer
from mswitch.models.training.state import Parameters, Skeleton, TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


#: Features of a batch that reach the device.
FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
)
#: The one that does besides where an evaluation counts bytes.
BORDERS = "decoder_border_weights"
#: Those that do besides where rows are packed.
SEGMENTS = ("encoder_segment_ids", "decoder_segment_ids")


class LossParts(NamedTuple):
    """What a batch, or a part of it, adds to the loss and its metrics: sums, `routing_sums` too.

    Only with a teacher is there a soft loss.
    """

    loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    balance_loss: Float[Array, ""]
    router_z_loss: Float[Array, ""]
    routing: dict[str, Array]
    soft_loss: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True)
class Teaching:
    """A teacher without its values, and what its predictions weigh.

    Attributes:
        skeleton: its model, on the student's mesh; it draws nothing at random and drops no token.
        soft_weight: share of the cross-entropy with its predictions; the rest is of the targets.
        temperature: of both predictions, in that share.
    """

    skeleton: Skeleton
    soft_weight: float
    temperature: float

    def head(self, parameters: Parameters, batch: Batch) -> Head:
        """The hidden states of a batch, and what makes logits of them."""
        rows = batch["encoder_input_tokens"].shape[0]
        how = {"groups": Groups(rows, rows), "capacities": (DROPLESS, DROPLESS)}
        with self.skeleton.matmul_precision():
            return run_model(self.skeleton, parameters, batch, **how)[0]


def run_model(
    skeleton: Skeleton, parameters: Parameters, batch: Batch, **how: Any
) -> tuple[Head, tuple[RoutingStats, RoutingStats] | None]:
    """What makes logits of a batch, and how encoder and decoder of a sparse model routed it.

    Args:
        skeleton: the model.
        parameters: its values.
        batch: with `SEGMENTS` where rows are packed.
        how: the model's groups, capacities and key.
    """
    model = skeleton.merge(parameters)
    x, stats = model(
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        **{name: batch.get(name) for name in SEGMENTS},
        **how,
    )
    return Head(x, *model.logits_kernel()), stats


def batch_loss(
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
    """The loss of one of `parts` equal parts of a batch that has `target_tokens` in all.

    With `teaching`, `teacher` are the values of its model.
    """
    train = skeleton.train
    with skeleton.matmul_precision():
        head, stats = run_model(skeleton, parameters, batch, groups=groups, key=key)
        targets, soft = batch["decoder_target_tokens"], None
        if teaching is None:
            losses, log_z_squared = chunked_token_losses(*head, targets, train.loss_chunks)
        else:
            assert teacher is not None
            losses, log_z_squared, soft = distilled_token_losses(
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
        routing = routing_sums(stats)
    total = loss + z_loss + balance + router_z
    if teaching is not None and soft is not None:
        soft = (soft * weights).sum() / target_tokens
        total += teaching.soft_weight * (soft - loss)
    return total, LossParts(loss, z_loss, balance, router_z, routing, soft)


def routing_sums(stats: tuple[RoutingStats, RoutingStats]) -> dict[str, Array]:
    """Routing of all sparse layers, encoder's first: sums over the tokens that were routed.

    Parts of a batch may be added up; `routing_metrics` divides.
    """
    tokens = jnp.concatenate([(part.expert >= 0).sum(axis=(1, 2)) for part in stats])

    def times_tokens(name: str) -> Array:
        means = jnp.concatenate([getattr(part, name) for part in stats])
        return means * tokens.reshape(-1, *[1] * (means.ndim - 1))

    means = ("drop_fraction", "entropy", "confidence", "load")
    return {"tokens": tokens, **{name: times_tokens(name) for name in means}}


def routing_metrics(sums: dict[str, Array], encoder_layers: int) -> dict[str, Array]:
    """What is logged of routing; the first `encoder_layers` sparse layers are the encoder's.

    `drop_fraction`, `entropy` and `confidence` are means over layers, `drop_fraction_encoder` and
    `drop_fraction_decoder` those of one stack, `max_load` the largest share any layer gives one
    expert, as a multiple of an even share. `layer_...` has a value of each layer, and `load` its
    experts' shares.
    """
    tokens = jnp.maximum(sums["tokens"], 1)
    load = sums["load"] / tokens[:, None]
    layers = {name: sums[name] / tokens for name in ("drop_fraction", "entropy", "confidence")}
    layers["max_load"] = load.max(axis=-1) * load.shape[-1]
    return {
        **{name: values.mean() for name, values in layers.items()},
        "drop_fraction_encoder": layers["drop_fraction"][:encoder_layers].mean(),
        "drop_fraction_decoder": layers["drop_fraction"][encoder_layers:].mean(),
        "max_load": layers["max_load"].max(),
        **{f"layer_{name}": values for name, values in layers.items()},
        "load": load,
    }


def make_gradients(
    skeleton: Skeleton, groups: Groups, teaching: Teaching | None = None
) -> Callable[..., tuple[Parameters, LossParts]]:
    """Traceable `(parameters, batch, key, teacher) -> (gradients, losses)` of the whole batch.

    Frozen parameters have no gradient.

    With microbatches, every n-th run of rows that holds whole routing groups goes into the same
    part: parts then stay on the devices that hold their rows, and their gradients add up to the
    whole batch's.
    """
    parts = skeleton.train.microbatches

    def gradients(
        parameters: Parameters, batch: Batch, key: Any, teacher: Parameters | None = None
    ):
        if skeleton.train.loss_per == "sequence":
            batch = {**batch, "decoder_loss_weights": weights_per_sequence(batch)}
        trained = skeleton.trained(parameters)
        target_tokens = jnp.maximum(batch["decoder_loss_weights"].sum(), 1.0)

        def loss(trained: Parameters, part: Batch, key: Any):
            return batch_loss(
                skeleton,
                {**parameters, **trained},
                part,
                groups=groups.of_part(parts),
                target_tokens=target_tokens,
                parts=parts,
                key=key,
                teaching=teaching,
                teacher=teacher,
            )

        of_part = jax.value_and_grad(loss, has_aux=True)
        if parts == 1:
            (_, losses), gradient = of_part(trained, batch, key)
            return gradient, losses

        def split(x: Array) -> Array:
            return x.reshape(groups.separable // parts, parts, -1, *x.shape[1:]).swapaxes(0, 1)

        def add(total: Parameters, inputs: tuple[Any, Array]):
            part, part_key = inputs
            rows = {name: x.reshape(-1, *x.shape[2:]) for name, x in part.items()}
            (_, losses), gradient = of_part(trained, rows, part_key)
            return jax.tree.map(jnp.add, total, gradient), losses

        zeros = jax.tree.map(jnp.zeros_like, trained)
        split_batch = {name: split(x) for name, x in batch.items()}
        keys = jax.random.split(key, parts)
        gradient, losses = jax.lax.scan(add, zeros, (split_batch, keys))
        return gradient, jax.tree.map(lambda x: x.sum(axis=0), losses)

    return gradients


def weights_per_sequence(batch: Batch) -> Float[Array, "B T"]:
    """Loss weights of a batch, padded or packed, that add up to 1 over each target sequence."""
    weights, segments = batch["decoder_loss_weights"], batch.get("decoder_segment_ids")
    if segments is None:
        in_sequence = weights.sum(axis=-1, keepdims=True)
    else:
        same = segments[:, :, None] == segments[:, None, :]
        in_sequence = (same * weights[:, None, :]).sum(axis=-1)
    return weights / jnp.maximum(in_sequence, 1.0)


def make_train_step(
    skeleton: Skeleton,
    optimizer: Optimizer,
    groups: Groups,
    steps_counted: int = 0,
    teaching: Teaching | None = None,
) -> jax.stages.Wrapped:
    """Compile-ready `(state, batch) -> (state, metrics)`; the old state's memory is reused.

    With a teacher's model, the step also takes its parameters, which stay.

    With the policy `skip`, a step that is bad, or has a loss above `loss_limit`, only counts.
    The optimizer counts on from `steps_counted`.
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
            skeleton.trained(state.parameters), gradient, state.moments, count, skeleton.axes
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
            routing = routing_metrics(losses.routing, encoder_layers)
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
    # Metrics are whole on every device, so that each of several processes can read them.
    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=None if shardings is None else (shardings, shardings.step),
    )


class EvaluationResult(NamedTuple):
    """Sums per sequence, and whether routing fitted.

    Attributes:
        nats: cross-entropy over the sequence's real target tokens.
        target_tokens: their number.
        peaks: most tokens a group gave one expert, in encoder and decoder.
        dropped: tokens without a slot, over all layers.
        loads: tokens per sequence and expert, in every sparse layer, encoder's first.
        border_nats: the part of `nats` that is of sentinels and ends, where the batch has BORDERS.
    """

    nats: Float[Array, " B"]
    target_tokens: Float[Array, " B"]
    peaks: Int[Array, "2"]
    dropped: Int[Array, ""]
    loads: Int[Array, "layers B E"]
    border_nats: Float[Array, " B"] | None = None


def make_evaluation_step(skeleton: Skeleton) -> jax.stages.Wrapped:
    """Compile-ready `(parameters, batch, groups, capacities) -> EvaluationResult`."""

    def evaluation_step(
        parameters: Parameters, batch: Batch, groups: Groups, capacities: tuple[int, int] | None
    ) -> EvaluationResult:
        with skeleton.matmul_precision():
            head, stats = run_model(
                skeleton, parameters, batch, groups=groups, capacities=capacities
            )
            losses, _ = chunked_token_losses(
                *head, batch["decoder_target_tokens"], skeleton.train.loss_chunks
            )
        weights = batch["decoder_loss_weights"]
        nats, target_tokens = (losses * weights).sum(axis=-1), weights.sum(axis=-1)
        rows = head.x.shape[0]
        borders = (losses * batch[BORDERS]).sum(axis=-1) if BORDERS in batch else None
        if stats is None:
            none = jnp.zeros((), jnp.int32)
            return EvaluationResult(
                nats,
                target_tokens,
                jnp.zeros(2, jnp.int32),
                none,
                jnp.zeros((0, rows, 0), int),
                borders,
            )
        return EvaluationResult(
            nats,
            target_tokens,
            peaks=jnp.stack([part.peak.max() for part in stats]),
            dropped=jnp.asarray(sum(part.dropped.sum() for part in stats)),
            loads=jnp.concatenate(
                [sequence_loads(part.expert, rows, skeleton.config.experts) for part in stats]
            ),
            border_nats=borders,
        )

    # On a mesh too each device, and so each process, has the whole result.
    whole = None if skeleton.mesh is None else NamedSharding(skeleton.mesh, PartitionSpec())
    return jax.jit(evaluation_step, static_argnums=(2, 3), out_shardings=whole)


def sequence_loads(
    expert: Int[Array, "layers G S"], rows: int, experts: int
) -> Int[Array, "layers B E"]:
    """Count the tokens of every sequence that chose each expert."""
    of_rows = expert.reshape(expert.shape[0], rows, -1)
    return jax.nn.one_hot(of_rows, experts, dtype=jnp.int32).sum(axis=2)
