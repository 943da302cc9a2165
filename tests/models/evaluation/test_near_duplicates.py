"""Clusters of near-duplicate documents, from examples whose masks differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.models.evaluation.near_duplicates import number_clusters, restore_tokens, sign
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    corrupt,
    draw_masks,
    span_corruption,
)
from mswitch.pipelines.examples.ul2 import ul2
from mswitch.pipelines.special_tokens import SENTINELS

SIZE = 5000
LENGTHS = (span_corruption(512), *ul2(512).kinds)


def tokens_of(length: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(3, SIZE - SENTINELS, length).astype(np.int32)


def signature_of(tokens: np.ndarray, seed: int = 0, lengths=LENGTHS[0]) -> np.ndarray:
    """The signature of an example of these tokens, padded as in a batch."""
    mask = draw_masks(tokens.size, lengths, [ExampleKey(seed, 5, 2, 1)])
    [inputs], [targets] = corrupt(tokens[None], mask, SIZE, lengths)
    inputs, targets = (np.pad(part, (0, 7)) for part in (inputs, targets))
    return sign(restore_tokens(inputs, targets, SIZE - SENTINELS))


@given(st.sampled_from(LENGTHS), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_what_was_masked_does_not_matter(lengths, length, seed):
    tokens = tokens_of(length, seed)
    mask = draw_masks(length, lengths, [ExampleKey(seed, 5, 2, 1)])
    [inputs], [targets] = corrupt(tokens[None], mask, SIZE, lengths)
    assert restore_tokens(inputs, targets, SIZE - SENTINELS).tolist() == tokens.tolist()
    np.testing.assert_array_equal(signature_of(tokens, seed, lengths), sign(tokens))


def test_pairs_that_share_nine_tenths_are_clusters_and_others_are_none():
    signatures = {}
    for number in range(40):
        tokens = tokens_of(500, number)
        changed = np.concatenate([tokens_of(50, 1000 + number), tokens[50:]])
        signatures["en", f"{number:02}"] = signature_of(tokens)
        signatures["en", f"{number + 40:02}"] = signature_of(changed, seed=1)
        # Only documents of one language are compared.
        signatures["ha", f"{number:02}"] = signature_of(tokens)
    found = number_clusters(signatures)
    for number in range(40):
        of_pair = [found["en", f"{number + side:02}"] for side in (0, 40)]
        assert of_pair == [number] * 2
        assert found["ha", f"{number:02}"] == 80 + number
    assert number_clusters(dict(reversed(signatures.items()))) == found


@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_texts_match_if_they_are_equal(length):
    texts = {"a": tokens_of(length), "b": tokens_of(length + 1, 1), "c": tokens_of(length)}
    found = number_clusters({("en", name): sign(tokens) for name, tokens in texts.items()})
    assert list(found.values()) == [0, 1, 0]


def test_the_least_of_parts_is_nearly_the_whole():
    tokens = tokens_of(2000)
    parts = np.minimum.reduce([sign(part) for part in np.split(tokens, [700, 1400])])
    assert np.mean(parts == sign(tokens)) > 0.9
