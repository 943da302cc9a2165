import numpy as np
import pytest
from example_files import restore
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    SpanCorruption,
    append_eos_after_trim,
    corrupt,
    count_draws,
    count_noise,
    draw,
    draw_masks,
    hash_stream,
    random_spans_helper,
    random_spans_noise_mask,
    span_corruption,
    spans_to_sentinels,
)
from mswitch.pipelines.special_tokens import EOS_ID

VOCABULARY_SIZE = 1000
#: TensorFlow's `random.stateless_uniform` of 7 and 23 numbers for the seeds (1, 2) and (3, 4).
# fmt: off
NOISE = (0.8440604, 0.19204533, 0.9962232, 0.1603874, 0.27199018, 0.649346, 0.10694444)
OTHER = (
    0.24328744, 0.9835063, 0.22041726, 0.46792018, 0.77385795, 0.83544147, 0.9809334, 0.06940031,
    0.49205303, 0.98623216, 0.7055876, 0.7460623, 0.1474458, 0.3178364, 0.2536006, 0.096863985,
    0.45720553, 0.040995955, 0.65678716, 0.18955743, 0.6414814, 0.79999554, 0.951612,
)
# fmt: on


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        *(((32,), (34, 8)), ((64,), (70, 14)), ((114,), (126, 26)), ((128,), (141, 29))),
        *(((200,), (221, 45)), ((229,), (253, 52)), ((256,), (284, 58)), ((512,), (568, 114))),
        *(((1024,), (1137, 229)), ((2048,), (2274, 456)), ((4096,), (4550, 910))),
        # Of other noise.
        *(((512, 0.15, 10.0), (591, 99)), ((512, 0.15, 8.0), (588, 100))),
        *(((512, 0.5, 3.0), (766, 512)), ((512, 0.5, 32.0), (990, 512))),
        *(((512, 0.25, 2.0), (584, 220)), ((64, 0.2, 2.0), (70, 22)), ((64, 0.2, 1.0), (63, 27))),
        ((1024 - 100, 0.15, 3.0), (1026, 206)),
    ],
)
def test_lengths_are_those_of_t5(arguments, expected):
    assert random_spans_helper(*arguments) == expected


@pytest.mark.parametrize(
    ("length", "counts"),  # full segments, and short ones, which round half to even
    [
        *((141, (21, 7)), (284, (43, 14)), (568, (85, 28)), (1137, (171, 57)), (2274, (341, 114))),
        *((2, (1, 1)), (10, (2, 1)), (20, (3, 1)), (32, (5, 2)), (50, (8, 3)), (100, (15, 5))),
    ],
)
def test_noise_of_segments(length, counts):
    assert count_noise(length, 0.15, 3.0) == counts


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        *(((64, 0.15, 3.0), (70, 14)), ((352, 0.15, 3.0), (390, 80)), ((8, 0.15, 3.0), (7, 3))),
        ((1024,), (1137, 229)),
    ],
)
def test_no_segment_loses_its_end(arguments, expected):
    assert span_corruption(*arguments) == SpanCorruption(arguments[0], *expected[::-1], 0.15, 3.0)


@given(st.integers(8, 300), st.floats(0.01, 0.6), st.floats(1.0, 20.0))
def test_every_length_fits(inputs_length, density, mean):
    try:
        lengths = span_corruption(inputs_length, density, mean)
    except UserError as error:
        assert "sentinels" in str(error)  # noqa: PT017 (most parameters are fine)
        return
    for length in range(1, lengths.raw_length + 1):
        tokens = np.full(length, 7, np.int32)
        inputs, targets = corrupted(tokens, some_mask(length, lengths, 0), lengths)
        assert restore(inputs, targets, VOCABULARY_SIZE).size == length


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((4, 0.15, 3.0), "^inputs_length is"),
        ((64, 0.0, 3.0), "^noise_density is"),
        ((64, 1.0, 3.0), "^noise_density is"),
        ((64, 0.1, 0.5), "^mean_noise_span_length is"),
        ((2048,), r"114 spans .* 100 sentinels"),
    ],
)
def test_parameters_out_of_range(arguments, named):
    with pytest.raises(UserError, match=named):
        span_corruption(*arguments)


def sentinels(tokens: np.ndarray, mask: np.ndarray, vocabulary_size: int) -> list[int]:
    return spans_to_sentinels(tokens[None], mask[None], vocabulary_size)[0].tolist()


def test_sentinels_of_t5():
    tokens = np.arange(10, 16, dtype=np.int32)
    mask = np.array([1, 1, 0, 0, 1, 0], bool)
    assert sentinels(tokens, mask, 1000) == [999, 12, 13, 998, 15]
    assert sentinels(tokens, ~mask, 1000) == [10, 11, 999, 14, 998]


def test_published_example_of_t5():
    assert count_noise(19, 0.3, 3.0) == (6, 2)
    text = [3, 2, 20, 4, 3, 2, 8, 13, 2, 3, 2, 23, 7, 19, 22, 3, 2, 7, 2]
    tokens, mask = np.array(text, np.int32), np.zeros(19, bool)
    mask[[1, *range(14, 19)]] = True
    assert sentinels(tokens, mask, 26) == [3, 25, 20, 4, 3, 2, 8, 13, 2, 3, 2, 23, 7, 19, 24]
    assert sentinels(tokens, ~mask, 26) == [25, 2, 24, 22, 3, 2, 7, 2]


def test_mask_of_the_published_sample():
    # TensorFlow's stateless_uniform of the seeds (1, 2) and (3, 4), as float32.
    noise = np.array(NOISE, np.float32).view(np.uint32)
    other = np.array(OTHER, np.float32).view(np.uint32)
    mask = random_spans_noise_mask(32, 0.25, 2.0, noise[None], other[None])
    assert np.flatnonzero(mask[0]).tolist() == [6, 7, 8, 10, 11, 12, 28, 31]


def test_no_noise_leaves_one_sentinel_of_targets():
    tokens = np.arange(3, 22, dtype=np.int32)
    empty = np.zeros((1, 0), np.uint32)
    mask = random_spans_noise_mask(19, 0.0, 3.0, empty, empty)
    assert not mask.any()
    assert sentinels(tokens, ~mask[0], 26) == [25]
    assert sentinels(tokens, mask[0], 26) == tokens.tolist()


def test_eos_after_trim():
    tokens = np.array([[5, 6, 7]], np.int32)
    assert append_eos_after_trim(tokens, 10).tolist() == [[5, 6, 7, EOS_ID]]
    assert append_eos_after_trim(tokens, 4).tolist() == [[5, 6, 7, EOS_ID]]
    assert append_eos_after_trim(tokens, 3).tolist() == [[5, 6, EOS_ID]]


def some_mask(length: int, lengths: SpanCorruption, seed: int) -> np.ndarray:
    return draw_masks(length, lengths, [ExampleKey(seed, 5, 2, 1)])[0]


def corrupted(tokens: np.ndarray, mask: np.ndarray, lengths: SpanCorruption):
    inputs, targets = corrupt(tokens[None], mask[None], VOCABULARY_SIZE, lengths)
    return inputs[0], targets[0]


@given(st.integers(8, 1024), st.data())
def test_corruption_is_invertible_and_fits(inputs_length, data):
    lengths = span_corruption(inputs_length)
    length = data.draw(st.integers(1, lengths.raw_length))
    tokens = np.random.default_rng(length).integers(3, 900, length).astype(np.int32)
    mask = some_mask(length, lengths, data.draw(st.integers(0, 2**32 - 1)))
    inputs, targets = corrupted(tokens, mask, lengths)
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
        inputs, targets = corrupted(tokens, mask, lengths)
        assert (inputs.size, targets.size) == (inputs_length, lengths.targets_length)


def reference_mask(length: int, density: float, mean: float, noise_draws, other_draws):
    """t5's `random_spans_noise_mask` word for word, one segment at a time."""

    def lengths_of(items: int, parts: int, order) -> np.ndarray:
        first_in_segment = np.concatenate([[0], (order < parts - 1).astype(int)])
        return np.bincount(np.cumsum(first_in_segment), minlength=parts)

    padded = max(length, 2)
    noise, spans = count_noise(padded, density, mean)
    noise_lengths = lengths_of(noise, spans, np.argsort(noise_draws, kind="stable"))
    other_lengths = lengths_of(padded - noise, spans, np.argsort(other_draws, kind="stable"))
    starts = np.cumsum(np.stack([other_lengths, noise_lengths], axis=1).ravel())[:-1]
    number = np.zeros(padded, int)
    np.add.at(number, starts, 1)
    return (np.cumsum(number) % 2 == 1)[:length]


@given(
    st.integers(1, 600),
    st.floats(0.01, 0.9),
    st.floats(1, 20),
    st.integers(1, 5),
    st.sampled_from([3, 1 << 8, 1 << 32]),
    st.integers(0, 2**32 - 1),
)
def test_masks_are_those_of_t5_row_by_row(length, density, mean, rows, kinds, seed):
    """Equal draws included: with few kinds of draws, ties decide most of the order."""
    generator = np.random.default_rng(seed)
    noise, other = (
        generator.integers(kinds, size=(rows, count), dtype=np.uint32)
        for count in count_draws(length, density, mean)
    )
    masks = random_spans_noise_mask(length, density, mean, noise, other)
    assert masks.shape == (rows, length)
    for row in range(rows):
        expected = reference_mask(length, density, mean, noise[row], other[row])
        assert np.array_equal(masks[row], expected)


@given(st.integers(1, 141), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_an_example_does_not_depend_on_its_neighbours(length, streams):
    lengths = span_corruption(128)
    keys = [ExampleKey(7, stream, index, 3) for index, stream in enumerate(streams)]
    tokens = np.random.default_rng(0).integers(3, 900, (len(keys), length)).astype(np.int32)
    together = draw_masks(length, lengths, keys)
    inputs, targets = corrupt(tokens, together, VOCABULARY_SIZE, lengths)
    assert inputs.dtype == targets.dtype == np.int32
    for row, key in enumerate(keys):
        alone = draw_masks(length, lengths, [key])
        assert np.array_equal(together[row], alone[0])
        one = corrupt(tokens[row : row + 1], alone, VOCABULARY_SIZE, lengths)
        assert np.array_equal(inputs[row], one[0][0])
        assert np.array_equal(targets[row], one[1][0])


def philox_words(seed: int, stream: int, index: int, epoch: int, words: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011) in plain integers, as `draw` documents it."""
    low = (1 << 64) - 1
    out: list[int] = []
    for block in range(1, words // 4 + 2):
        counter, key = [block, 0, index, epoch], [seed, stream]
        for _ in range(10):
            one, two = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (two >> 64) ^ counter[1] ^ key[0],
                two & low,
                (one >> 64) ^ counter[3] ^ key[1],
                one & low,
            ]
            key = [(key[0] + 0x9E3779B97F4A7C15) & low, (key[1] + 0xBB67AE8584CAA73B) & low]
        out += counter
    return out[:words]


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 4), st.integers(1, 30))
def test_draws_are_the_halves_of_philoxs_words(fields, count):
    words = philox_words(*fields, (count + 1) // 2)
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    assert draw(ExampleKey(*fields), count).tolist() == halves[:count]


def test_masks_do_not_change_between_versions():
    key = ExampleKey(seed=7, stream=hash_stream("de"), number=1, epoch=0)
    mask = draw_masks(34, span_corruption(32), [key])[0]
    assert np.flatnonzero(mask).tolist() == [8, 9, 31, 32, 33]
