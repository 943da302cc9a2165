"""The training loss, the same for dense and sparse models.

Cross-entropy in nats over real target tokens, T5X's z-loss, and, for sparse models, the
load-balance loss of every layer. All sums are divided by the number of real target tokens of the
whole batch: Adafactor would forgive any other scale, the balance loss would change its weight.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import BalanceScope


def token_losses(
    x: Float[Array, "B T D"], kernel: Float[Array, "D V"], scale: float, targets: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Cross-entropy in nats and squared log-partition of every position, in float32."""
    logits = jnp.einsum("btd,dv->btv", x.astype(jnp.float32) * scale, kernel)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    correct = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - correct, jnp.square(log_z)


def chunked_token_losses(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    scale: float,
    targets: Int[Array, "B T"],
    chunks: int,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """`token_losses` of `chunks` parts of the length, one after another.

    The logits of one part exist at a time, in the backward pass too, where they are computed
    again: at 250,112 rows the logits of a whole batch would be gigabytes.
    """
    batch, length, d_model = x.shape
    chunks = min(chunks, length)
    if chunks == 1:
        return token_losses(x, kernel, scale, targets)
    part = -(-length // chunks)
    padding = part * chunks - length
    x = jnp.pad(x, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))

    @jax.checkpoint
    def one(_, inputs):
        return None, token_losses(inputs[0], kernel, scale, inputs[1])

    parts = (
        x.reshape(batch, chunks, part, d_model).swapaxes(0, 1),
        targets.reshape(batch, chunks, part).swapaxes(0, 1),
    )
    _, losses = jax.lax.scan(one, None, parts)

    def whole(y: Array) -> Array:
        return y.swapaxes(0, 1).reshape(batch, -1)[:, :length]

    return whole(losses[0]), whole(losses[1])


def balance_loss(
    counts: Int[Array, "G E"],
    mass: Float[Array, "G E"],
    tokens: Float[Array, " G"],
    scope: BalanceScope,
) -> Float[Array, ""]:
    """Load-balance loss of a sparse layer: experts * sum(f_i * P_i), 1 when even (equation 4).

    Args:
        counts: tokens of each group that chose each expert, before capacity.
        mass: sums of the router's probabilities over the tokens of each group.
        tokens: routed tokens of each group.
        scope: `group`, a mean over groups, or `global`, of f and P over all tokens.
    """
    experts = counts.shape[-1]
    if scope == "global":
        total = jnp.maximum(tokens.sum(), 1.0)
        return experts * (counts.sum(axis=0) * mass.sum(axis=0)).sum() / jnp.square(total)
    # Mean over groups, so that microbatches of whole groups add up to the full batch.
    in_group = jnp.maximum(tokens, 1.0)[:, None]
    fraction, mean_probability = counts / in_group, mass / in_group
    return experts * (fraction * mean_probability).sum(axis=-1).mean()


def router_z_loss(log_z: Float[Array, "G S"], weight: Float[Array, "G S"]) -> Float[Array, ""]:
    """Mean square of log-sum-exp of a router's logits over its routed tokens (ST-MoE)."""
    in_group = jnp.maximum(weight.sum(axis=1), 1.0)
    return ((jnp.square(log_z) * weight).sum(axis=1) / in_group).mean()
