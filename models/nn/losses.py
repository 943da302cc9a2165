"""The training loss, the same for dense and sparse models.

Its parts are cross-entropy in nats over real target tokens, T5X's z-loss and, in sparse models, the
load-balance loss of every layer. All sums are divided by the number of real target tokens of the
whole batch. Adafactor would ignore another scale, but the balance loss would change its weight.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mswitch.models.config import BalanceScope

Losses = TypeVar("Losses", bound=tuple[Array, ...])


class Head(NamedTuple):
    """Factors of a model's logits, which are `(x * scale) @ kernel`."""

    x: Float[Array, "B T D"]
    kernel: Float[Array, "D V"]
    scale: float


def compute_token_losses(
    head: Head, targets: Int[Array, "B T"], chunks: int
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Compute cross-entropy in nats and squared log-partition of every position, in float32.

    The length is split into `chunks` parts, computed one after another, so that only one part's
    logits exist at a time. At 250,112 rows, a whole batch's logits would be gigabytes. The backward
    pass computes them again.
    """

    def compute_part(x: Array, targets: Array) -> tuple[Array, Array]:
        return _compute_each_loss(_compute_logits(x, head), targets)

    return _compute_in_chunks(compute_part, chunks, head.x, targets)


def compute_distilled_losses(
    student: Head,
    teacher: Head,
    targets: Int[Array, "B T"],
    temperature: float,
    chunks: int,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"], Float[Array, "B T"]]:
    """Compute the student's token losses, and its cross-entropy with the teacher's predictions.

    Both models predict at `temperature`. The cross-entropy is multiplied by its square, so that
    gradients keep their size (Hinton et al. 2015). Both logits are computed chunk by chunk, so only
    the teacher's hidden states are kept.
    """

    def compute_part(x: Array, taught: Array, targets: Array) -> tuple[Array, Array, Array]:
        logits = _compute_logits(x, student)
        log_probabilities = jax.nn.log_softmax(logits / temperature)
        wanted = jax.nn.softmax(_compute_logits(taught, teacher) / temperature)
        soft = -(wanted * log_probabilities).sum(axis=-1)
        return *_compute_each_loss(logits, targets), soft * temperature**2

    return _compute_in_chunks(compute_part, chunks, student.x, teacher.x, targets)


def _compute_logits(x: Array, head: Head) -> Float[Array, "B T V"]:
    return jnp.einsum("btd,dv->btv", x.astype(jnp.float32) * head.scale, head.kernel)


def _compute_each_loss(logits: Array, targets: Array) -> tuple[Array, Array]:
    log_z = jax.nn.logsumexp(logits, axis=-1)
    correct = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - correct, jnp.square(log_z)


def _compute_in_chunks(losses: Callable[..., Losses], chunks: int, *arrays: Array) -> Losses:
    batch, length = arrays[0].shape[:2]
    chunks = min(chunks, length)
    if chunks == 1:
        return losses(*arrays)
    part = -(-length // chunks)
    padding = part * chunks - length

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, padding), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(batch, chunks, part, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def compute_chunk(_, inputs):
        return None, losses(*inputs)

    _, chunked_losses = jax.lax.scan(compute_chunk, None, tuple(map(split, arrays)))
    return jax.tree.map(
        lambda y: y.swapaxes(0, 1).reshape(batch, -1, *y.shape[3:])[:, :length], chunked_losses
    )


def compute_balance_loss(
    counts: Int[Array, "G E"],
    mass: Float[Array, "G E"],
    tokens: Float[Array, " G"],
    scope: BalanceScope,
) -> Float[Array, ""]:
    """Compute a layer's balance loss: experts * sum(f_i * P_i), 1 for even routing (equation 4).

    Args:
        counts: tokens of each group that chose each expert, before capacity.
        mass: sums of the router's probabilities over the tokens of each group.
        tokens: routed tokens of each group.
        scope: `group`, a mean over groups; or `global`, f and P over all tokens.
    """
    experts = counts.shape[-1]
    if scope == "global":
        total = jnp.maximum(tokens.sum(), 1.0)
        return experts * (counts.sum(axis=0) * mass.sum(axis=0)).sum() / jnp.square(total)
    # No routing group is split between microbatches. So the mean of the microbatches' losses is the
    # batch's loss.
    in_group = jnp.maximum(tokens, 1.0)[:, None]
    fraction, mean_probability = counts / in_group, mass / in_group
    return experts * (fraction * mean_probability).sum(axis=-1).mean()


def compute_router_z_loss(
    log_z: Float[Array, "G S"], weight: Float[Array, "G S"]
) -> Float[Array, ""]:
    """Compute the mean square of log-sum-exp of a router's logits over routed tokens (ST-MoE)."""
    in_group = jnp.maximum(weight.sum(axis=1), 1.0)
    return ((jnp.square(log_z) * weight).sum(axis=1) / in_group).mean()
