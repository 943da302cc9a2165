"""Beam search on chains small enough to look at all outputs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mswitch.models.inference.beam import Beams, beam_search

STATES = ("", "-END", "A", "B", "START-")
END, A, B, START = 1, 2, 3, 4


def search(potentials: np.ndarray, rows: int, beams: int, alpha: float) -> Beams:
    """Search a chain whose logits at each step, [T, V, V], depend on the token before."""
    length, pieces, _ = potentials.shape
    table = jnp.asarray(potentials, jnp.float32)

    def step(cache, tokens, position, real):
        return table[position][tokens], cache

    found = beam_search(
        step,
        lambda cache, rows: cache,
        None,
        jnp.ones(rows, bool),
        beams=beams,
        length=length,
        alpha=alpha,
        choosable=jnp.arange(pieces) != 0,
    )
    return jax.tree.map(np.asarray, found)


def test_t5xs_chain():
    """`test_beam_search` of t5x/decoding_test.py."""
    stay, change = [[1, -1], [-1, 1]], [[-1, 1], [1, -1]]
    potentials = np.full((7, 5, 5), -1e7)
    potentials[0, :, START] = 0
    potentials[1, START, [A, B]] = 0
    for position, edges in enumerate((stay, change, stay, change), start=2):
        potentials[position, A : B + 1, A : B + 1] = edges
    potentials[6, [A, B], END] = 0
    found = search(potentials, 2, 2, alpha=0.0)
    for row in found.tokens:
        strings = {"".join(STATES[token] for token in tokens) for tokens in row}
        assert strings == {"START-AABBA-END", "START-BBAAB-END"}


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_with_enough_beams_it_finds_all_there_is(alpha, seed):
    length, pieces = 4, 4
    rng = np.random.default_rng(seed)
    potentials = rng.normal(0, 2, (length, pieces, pieces))
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(potentials, jnp.float32)))
    scores = {}
    for size in range(1, length + 1):
        for inner in itertools.product((2, 3), repeat=size - 1):
            tokens = (*inner, END)
            before = (0, *tokens)
            total = sum(log_probs[t, before[t], token] for t, token in enumerate(tokens))
            scores[tokens + (0,) * (length - size)] = total / ((5 + size) / 6) ** alpha
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    found = search(potentials, 1, 20, alpha)
    count = len(scores)
    assert [tuple(tokens) for tokens in found.tokens[0][:count].tolist()] == best
    np.testing.assert_allclose(
        found.scores[0][:count], [scores[tokens] for tokens in best], rtol=1e-5
    )
    assert (found.scores[0][count:] < -1e6).all()


def test_where_nothing_ends_the_live_outputs_are_given():
    potentials = np.zeros((3, 4, 4))
    potentials[:, :, END] = -1e9
    potentials[:, :, 2] = 1
    found = search(potentials, 1, 2, alpha=0.6)
    assert found.tokens[0, 0].tolist() == [2, 2, 2]
    find_likeliest = np.asarray(jax.nn.log_softmax(jnp.array([0.0, 0.0, 1.0, -1e9])))[2]
    assert found.scores[0, 0] == pytest.approx(3 * find_likeliest, rel=1e-5)
