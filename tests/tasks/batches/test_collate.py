import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.examples.span_corruption import SpanCorruption
from mswitch.tasks.batches.collate import Example, collate, pack_rows

INPUTS, TARGETS = 6, 4
LENGTHS = SpanCorruption(INPUTS, TARGETS, 7, 0.15, 3.0)


def example(inputs: list[int], targets: list[int], language: int = 0) -> Example:
    return np.array(inputs, np.int32), np.array(targets, np.int32), language


def test_decoder_inputs_are_targets_shifted_right():
    lengths = SpanCorruption(4, 7, 8, 0.15, 3.0)
    targets = np.array([3, 8, 9, 5, 1], np.int32)
    batch = collate([(np.array([7, 1], np.int32), targets, 2)], 2, lengths)
    assert batch["decoder_input_tokens"].tolist() == [[0, 3, 8, 9, 5, 1, 0], [0] * 7]
    assert batch["decoder_target_tokens"].tolist() == [[3, 8, 9, 5, 1, 0, 0], [0] * 7]
    assert batch["decoder_loss_weights"].sum(axis=1).tolist() == [5, 0]
    assert batch["language"].tolist() == [2, -1]


def test_published_example_of_packing():
    """t5x's and seqio's oracle, with rows of 2 x 6 and 2 x 4 in place of 10 and 7."""
    examples = [example([7, 8, 5, 1], [3, 9, 1], 5), example([8, 4, 9, 3, 1], [4, 1], 2)]
    packed = {name: a.tolist() for name, a in pack_rows(collate(examples, 2, LENGTHS), 2).items()}
    assert packed == {
        "language": [[5, 2]],
        "encoder_input_tokens": [[7, 8, 5, 1, 8, 4, 9, 3, 1, 0, 0, 0]],
        "encoder_segment_ids": [[1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]],
        "encoder_positions": [[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0]],
        "decoder_target_tokens": [[3, 9, 1, 4, 1, 0, 0, 0]],
        "decoder_input_tokens": [[0, 3, 9, 0, 4, 0, 0, 0]],
        "decoder_segment_ids": [[1, 1, 1, 2, 2, 0, 0, 0]],
        "decoder_positions": [[0, 1, 2, 0, 1, 0, 0, 0]],
        "decoder_loss_weights": [[1, 1, 1, 1, 1, 0, 0, 0]],
    }


TOKENS = st.integers(2, 99)
ENDED = st.tuples(
    st.lists(TOKENS, max_size=INPUTS - 1).map(lambda tokens: [*tokens, 1]),
    st.lists(TOKENS, max_size=TARGETS - 1).map(lambda tokens: [*tokens, 1]),
    st.integers(0, 106),
)


@given(st.lists(ENDED, min_size=1, max_size=12), st.sampled_from([1, 2, 3, 4]))
def test_packing_loses_and_moves_nothing(drawn, pack):
    """Rows filled up with padding examples, taken apart again by segment ids and positions."""
    rows = -(-len(drawn) // pack)
    padded = collate([example(*one) for one in drawn], rows * pack, LENGTHS)
    packed = pack_rows(padded, pack)
    assert packed["language"].ravel().tolist() == padded["language"].tolist()
    # The EOS that follows an example's last decoder input has no target, and is left out.
    padded["decoder_input_tokens"] *= padded["decoder_loss_weights"] > 0
    for side in ("encoder", "decoder"):
        segments, positions = packed[f"{side}_segment_ids"], packed[f"{side}_positions"]
        row, place = np.nonzero(segments)
        for name in padded:
            if not name.startswith(side):
                continue
            assert packed[name].shape == (rows, pack * padded[name].shape[1])
            assert packed[name].dtype == padded[name].dtype
            assert not packed[name][segments == 0].any()
            back = np.zeros_like(padded[name])
            back[row * pack + segments[row, place] - 1, positions[row, place]] = packed[name][
                row, place
            ]
            assert np.array_equal(back, padded[name])
        assert all(np.diff(segments > 0, axis=1).sum(axis=1) <= 1)
