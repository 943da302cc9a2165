import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.examples.span_corruption import (
    EOS_ID,
    SpanCorruption,
    append_eos_after_trim,
    corrupt,
    draws,
    noise_counts,
    noise_mask_from_orders,
    random_mask,
    random_spans_helper,
    restore,
    span_corruption,
    spans_to_sentinels,
    stream_key,
)

VOCABULARY_SIZE = 1000


@pytest.mark.parametrize(
    ("inputs_length", "expected"),
    [
        (32, (34, 8)),
        (64, (70, 14)),
        (114, (126, 26)),
        (128, (141, 29)),
        (200, (221, 45)),
        (229, (253, 52)),
        (256, (284, 58)),
        (512, (568, 114)),
        (1024, (1137, 229)),
        (2048, (2274, 456)),
        (4096, (4550, 910)),
    ],
)
def test_lengths_are_those_of_t5(inputs_length: int, expected: tuple[int, int]):
    assert random_spans_helper(inputs_length) == expected


@pytest.mark.parametrize(
    ("inputs_length", "density", "mean", "expected"),
    [
        (512, 0.15, 10.0, (591, 99)),
        (512, 0.15, 8.0, (588, 100)),
        (512, 0.5, 3.0, (766, 512)),
        (512, 0.5, 32.0, (990, 512)),
        (512, 0.25, 2.0, (584, 220)),
        (64, 0.2, 2.0, (70, 22)),
        (64, 0.2, 1.0, (63, 27)),
        (1024 - 100, 0.15, 3.0, (1026, 206)),
    ],
)
def test_lengths_of_other_noise(inputs_length, density, mean, expected):
    assert random_spans_helper(inputs_length, density, mean) == expected


@pytest.mark.parametrize(
    ("inputs_length", "counts"),
    [(128, (21, 7)), (256, (43, 14)), (512, (85, 28)), (1024, (171, 57)), (2048, (341, 114))],
)
def test_noise_of_full_segments(inputs_length: int, counts: tuple[int, int]):
    raw_length, _ = random_spans_helper(inputs_length)
    assert noise_counts(raw_length, 0.15, 3.0) == counts


@pytest.mark.parametrize(
    ("length", "counts"),
    [(2, (1, 1)), (10, (2, 1)), (20, (3, 1)), (32, (5, 2)), (50, (8, 3)), (100, (15, 5))],
)
def test_noise_of_short_segments_rounds_half_to_even(length: int, counts: tuple[int, int]):
    assert noise_counts(length, 0.15, 3.0) == counts


def test_published_example_of_nineteen_tokens_has_two_spans():
    assert noise_counts(19, 0.3, 3.0) == (6, 2)


def test_too_many_spans_for_the_sentinels():
    with pytest.raises(UserError, match=r"114 spans .* 100 sentinels"):
        span_corruption(2048)
    assert span_corruption(1024) == SpanCorruption(1024, 229, 1137, 0.15, 3.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((64, 0.15, 3.0), (70, 14)), ((352, 0.15, 3.0), (390, 80)), ((8, 0.15, 3.0), (7, 3))],
)
def test_no_segment_loses_its_end(arguments, expected: tuple[int, int]):
    lengths = span_corruption(*arguments)
    assert (lengths.raw_length, lengths.targets_length) == expected


@given(st.integers(8, 300), st.floats(0.01, 0.6), st.floats(1.0, 20.0))
def test_every_length_fits(inputs_length: int, density: float, mean: float):
    try:
        lengths = span_corruption(inputs_length, density, mean)
    except UserError as error:
        assert "sentinels" in str(error)  # noqa: PT017 (most parameters are fine)
        return
    for length in range(1, lengths.raw_length + 1):
        tokens = np.full(length, 7, np.int32)
        inputs, targets = corrupt(tokens, some_mask(length, lengths, 0), VOCABULARY_SIZE, lengths)
        assert restore(inputs, targets, VOCABULARY_SIZE).size == length


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((4, 0.15, 3.0), "inputs_length"),
        ((64, 0.0, 3.0), "noise_density"),
        ((64, 1.0, 3.0), "noise_density"),
        ((64, 0.1, 0.5), "mean_noise_span_length"),
    ],
)
def test_parameters_out_of_range(arguments, named: str):
    with pytest.raises(UserError, match=f"^{named} is"):
        span_corruption(*arguments)


def test_sentinels_of_t5():
    tokens = np.arange(10, 16, dtype=np.int32)
    mask = np.array([1, 1, 0, 0, 1, 0], bool)
    assert spans_to_sentinels(tokens, mask, 1000).tolist() == [999, 12, 13, 998, 15]
    assert spans_to_sentinels(tokens, ~mask, 1000).tolist() == [10, 11, 999, 14, 998]


def test_no_noise_leaves_one_sentinel_of_targets():
    tokens = np.arange(3, 22, dtype=np.int32)
    empty = np.zeros(0, np.intp)
    mask = noise_mask_from_orders(19, 0.0, 3.0, empty, empty)
    assert not mask.any()
    assert spans_to_sentinels(tokens, ~mask, 26).tolist() == [25]


def test_eos_after_trim():
    tokens = np.array([5, 6, 7], np.int32)
    assert append_eos_after_trim(tokens, 10).tolist() == [5, 6, 7, EOS_ID]
    assert append_eos_after_trim(tokens, 3).tolist() == [5, 6, EOS_ID]


def some_mask(length: int, lengths: SpanCorruption, seed: int) -> np.ndarray:
    return random_mask(length, lengths, seed=seed, stream=5, index=2, epoch=1)


@given(st.integers(1, 2000), st.integers(0, 2**32 - 1), st.floats(0.01, 0.9), st.floats(1, 20))
def test_mask_has_the_promised_noise(length: int, seed: int, density: float, mean: float):
    lengths = SpanCorruption(0, 0, 0, density, mean)
    mask = some_mask(length, lengths, seed)
    assert mask.size == length
    assert not mask[0]
    if length > 1:
        noise, spans = noise_counts(length, density, mean)
        assert mask[-1]
        assert mask.sum() == noise
        assert (np.diff(mask.astype(int)) == 1).sum() == spans


@given(st.integers(8, 1024), st.data())
def test_corruption_is_invertible_and_fits(inputs_length: int, data: st.DataObject):
    lengths = span_corruption(inputs_length)
    length = data.draw(st.integers(1, lengths.raw_length))
    tokens = np.random.default_rng(length).integers(3, 900, length).astype(np.int32)
    mask = some_mask(length, lengths, data.draw(st.integers(0, 2**32 - 1)))
    inputs, targets = corrupt(tokens, mask, VOCABULARY_SIZE, lengths)
    assert inputs.size <= inputs_length
    assert targets.size <= lengths.targets_length
    assert inputs[-1] == targets[-1] == EOS_ID
    assert targets[0] == VOCABULARY_SIZE - 1
    assert restore(inputs, targets, VOCABULARY_SIZE).tolist() == tokens.tolist()


def test_full_segments_fill_their_lengths_exactly():
    for inputs_length in range(16, 1025, 8):
        lengths = span_corruption(inputs_length)
        tokens = np.full(lengths.raw_length, 7, np.int32)
        mask = some_mask(lengths.raw_length, lengths, 0)
        inputs, targets = corrupt(tokens, mask, VOCABULARY_SIZE, lengths)
        assert (inputs.size, targets.size) == (inputs_length, lengths.targets_length)


def test_every_gap_is_as_likely_as_any_other():
    lengths = span_corruption(64)
    masks = [
        random_mask(70, lengths, seed=3, stream=5, index=index, epoch=0) for index in range(4000)
    ]
    share = np.mean(masks, axis=0)[20:50]
    # Expected noise is about 11/70; the middle of a segment shows no trend.
    assert np.all(np.abs(share - share.mean()) < 0.04)
    assert 0.1 < share.mean() < 0.2


def test_draws_belong_to_seed_stream_index_and_epoch():
    keys = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    drawn = [draws(*key, 64) for key in keys]
    assert np.array_equal(drawn[0], draws(*keys[0], 64))
    for other in drawn[1:]:
        assert not np.isin(other, drawn[0]).any()


def test_masks_do_not_change_between_versions():
    mask = random_mask(34, span_corruption(32), seed=7, stream=stream_key("de"), index=1, epoch=0)
    assert np.flatnonzero(mask).tolist() == [11, 12, 31, 32, 33]
