"""Beam search as in T5X (`t5x.decoding.beam_search`).

The best 2 K continuations of K live outputs are considered: K of them are live even if the K best
have ended. Ended outputs are ranked by their log-probability over a brevity penalty. The search of
a row ends when no live output can become as good as its K ended ones. The row then does not change
while other rows of its batch continue.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mswitch.models.inference.decode import CachedDecoder, mask_choosable
from mswitch.models.nn.transformer import PADDING
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.pipelines.special_tokens import EOS_ID

#: Score of an output that does not exist (T5X's value).
NEVER = -1e7

State = TypeVar("State")


class Beams(NamedTuple):
    """Outputs of a beam search, the best first.

    Attributes:
        tokens: up to EOS, then 0; live outputs if no output of a row has ended.
        scores: log-probability in nats over the brevity penalty, which live outputs do not have;
            `NEVER` for a missing output.
    """

    tokens: Int[Array, "B K T"]
    scores: Float[Array, "B K"]


class _Search(NamedTuple):
    position: Int[Array, ""]
    live: Beams
    ended: Beams
    cache: Any


def compute_brevity_penalty(alpha: float, length: int | Array) -> Array:
    """Return the divisor of an output's log-probability, given its `length` (Wu et al. 2016)."""
    return ((5.0 + length) / 6.0) ** jnp.float32(alpha)


def beam_search(
    step: Callable[[State, Array, Array, Array], tuple[Array, State]],
    reorder: Callable[[State, Array], State],
    cache: State,
    running: Bool[Array, " B"],
    *,
    beams: int,
    length: int,
    alpha: float,
    choosable: Bool[Array, " V"],
) -> Beams:
    """Search for the likeliest outputs; JAX can trace this function.

    Args:
        step: `(cache, tokens [B K], position, real [B K]) -> (logits [B K, V], cache)`; `tokens`
            come from the position before, and are 0 at first.
        reorder: `(cache, index [B K]) -> cache`; output n then continues output index[n].
        cache: cache of B x K outputs, row by row.
        running: false for rows that get no output.
        beams: outputs of a row, K.
        length: most tokens of an output, T.
        alpha: exponent of the brevity penalty; 0 for none.
        choosable: tokens that may be written.
    """
    batch = running.shape[0]
    real = jnp.repeat(running, beams)

    def best(outputs: Beams, count: int) -> tuple[Beams, Array]:
        scores, index = jax.lax.top_k(outputs.scores, count)
        return Beams(_take(outputs.tokens, index), scores), index

    def unfinished(search: _Search) -> Array:
        # A live output's log-probability only falls, so this is its best possible score.
        hope = search.live.scores.max(axis=1) / compute_brevity_penalty(alpha, length)
        open_rows = running & (search.ended.scores.min(axis=1) <= hope)
        return (search.position < length) & open_rows.any()

    def extend(search: _Search) -> _Search:
        position, live, ended, cache = search
        before = jax.lax.dynamic_index_in_dim(
            live.tokens, jnp.maximum(position - 1, 0), axis=2, keepdims=False
        )
        logits, cache = step(cache, before.reshape(-1), position, real)
        log_probs = jnp.where(choosable, jax.nn.log_softmax(logits), -jnp.inf)
        candidates = live.scores[:, :, None] + log_probs.reshape(batch, beams, -1)
        scores, index = jax.lax.top_k(candidates.reshape(batch, -1), 2 * beams)
        beam, token = jnp.divmod(index, log_probs.shape[-1])
        tokens = jax.lax.dynamic_update_index_in_dim(
            _take(live.tokens, beam), token.astype(jnp.int32), position, axis=2
        )
        ends = token == EOS_ID
        live, chosen = best(Beams(tokens, scores + ends * NEVER), beams)
        parents = jnp.arange(batch)[:, None] * beams + jnp.take_along_axis(beam, chosen, axis=1)
        final = scores / compute_brevity_penalty(alpha, position + 1) + ~ends * NEVER
        both = (jnp.concatenate(pair, axis=1) for pair in zip(ended, (tokens, final), strict=True))
        ended, _ = best(Beams(*both), beams)
        return _Search(position + 1, live, ended, reorder(cache, parents.reshape(-1)))

    nothing = jnp.full((batch, beams, length), PADDING, jnp.int32)
    # All K outputs begin equal. Only the first has a score, so that no output is found K times.
    first = jnp.where(jnp.arange(beams) == 0, 0.0, NEVER) * jnp.ones((batch, 1))
    search = jax.lax.while_loop(
        unfinished,
        extend,
        _Search(
            jnp.zeros((), jnp.int32),
            Beams(nothing, first),
            Beams(nothing, jnp.full((batch, beams), NEVER)),
            cache,
        ),
    )
    any_ended = (search.ended.scores > NEVER / 2).any(axis=1)
    tokens = jnp.where(any_ended[:, None, None], search.ended.tokens, search.live.tokens)
    tokens = jnp.where(running[:, None, None], tokens, PADDING)
    return Beams(tokens, jnp.where(any_ended[:, None], search.ended.scores, search.live.scores))


def make_beam_decoder(
    skeleton: Skeleton,
    length: int,
    beams: int = 4,
    *,
    alpha: float = 0.6,
    pieces: int | None = None,
) -> Callable[[Parameters, Int[Array, "B M"]], Beams]:
    """Return a jitted `(parameters, inputs) -> Beams`; a row of only padding has empty outputs.

    `beams` and `alpha` are as in `beam_search`, other arguments as in `decode.make_decoder`.
    """
    assert skeleton.mesh is None
    choosable = mask_choosable(skeleton.config.vocabulary_size, pieces)

    @jax.jit
    def decode(parameters: Parameters, inputs: Array) -> Beams:
        decoder = CachedDecoder(skeleton.merge(parameters), length)
        with skeleton.matmul_precision():
            cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), decoder.begin(inputs))
            return beam_search(
                decoder.step,
                decoder.reorder,
                cache,
                (inputs != PADDING).any(axis=1),
                beams=beams,
                length=length,
                alpha=alpha,
                choosable=choosable,
            )

    return decode


def _take(values: Array, index: Int[Array, "B N"]) -> Array:
    """Return the N chosen outputs of each row: [B, N, T] out of [B, K, T]."""
    return jnp.take_along_axis(values, index[:, :, None], axis=1)
