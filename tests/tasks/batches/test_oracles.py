"""What t5, seqio and TensorFlow make of the same input: masks, sentinels, packed rows, files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines.examples import span_corruption as numpy_corruption
from mswitch.pipelines.examples.example_proto import decode_example, encode_example
from mswitch.pipelines.examples.segments import reduce_concat_tokens
from mswitch.pipelines.examples.tfrecord import write_tfrecord
from mswitch.tasks.batches.collate import collate, pack_rows

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=20),
    st.integers(1, 7),
)
def test_documents_are_joined_as_by_t5s_padded_batches(documents, count):
    import tensorflow as tf

    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant([t for tokens in documents for t in tokens]), [len(t) for t in documents]
    )
    batches = tf.data.Dataset.from_tensor_slices(ragged).map(lambda x: x).padded_batch(count)
    flat = (tf.reshape(batch, [-1]) for batch in batches)
    theirs = [tf.boolean_mask(batch, batch != 0).numpy().tolist() for batch in flat]
    arrays = [np.array(tokens, np.int32) for tokens in documents]
    ours = [np.concatenate(group).tolist() for group in reduce_concat_tokens(arrays, count)]
    assert ours == theirs


def tf_mask(length: int, seeds, density: float, mean: float) -> np.ndarray:
    import tensorflow as tf

    from mswitch.tasks.seqio.preprocessors import random_spans_noise_mask

    return random_spans_noise_mask(tf.constant(length), tf.constant(seeds), density, mean).numpy()


def test_without_noise_nothing_is_masked():
    assert not tf_mask(32, [[1, 2], [3, 4]], 0.0, 2.0).any()


@settings(max_examples=60)
@given(
    st.integers(1, 1500),
    st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4),
    st.sampled_from([(0.15, 3.0), (0.25, 2.0), (0.5, 3.0), (0.3, 3.0), (0.15, 1.0), (0.9, 1.0)]),
)
def test_both_masks_are_equal_for_the_same_draws(length, numbers, noise):
    import tensorflow as tf

    density, mean = noise
    seeds = np.array(numbers, np.int32).reshape(2, 2)
    counts = numpy_corruption.count_draws(length, density, mean)
    draws = [
        tf.random.stateless_uniform([count], seed=seed).numpy().view(np.uint32)[None]
        for count, seed in zip(counts, seeds, strict=True)
    ]
    mask = numpy_corruption.random_spans_noise_mask(length, density, mean, *draws)
    assert np.array_equal(tf_mask(length, seeds, density, mean), mask[0])


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_both_put_the_same_sentinels(bits):
    import tensorflow as tf

    from mswitch.tasks.seqio.preprocessors import spans_to_sentinels

    tokens, mask = np.arange(10, 10 + len(bits), dtype=np.int32), np.array(bits)
    found = spans_to_sentinels(tf.constant(tokens), tf.constant(mask), 1000).numpy()
    [expected] = numpy_corruption.spans_to_sentinels(tokens[None], mask[None], 1000)
    assert np.array_equal(found, expected)
    assert found.dtype == np.int32


@settings(max_examples=40)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.binary(), min_size=1),
    st.text(min_size=1),
)
def test_examples_are_tensorflows(integers, values, name):
    import tensorflow as tf

    features = {name: np.array(integers, np.int64), f"{name}2": values}
    theirs = tf.train.Example()
    theirs.features.feature[name].int64_list.value.extend(integers)
    theirs.features.feature[f"{name}2"].bytes_list.value.extend(values)
    assert tf.train.Example.FromString(encode_example(features)) == theirs
    decoded = decode_example(theirs.SerializeToString())
    found = {key: list(value) for key, value in decoded.items()}
    assert found == {name: integers, f"{name}2": values}
    alone = tf.train.Example()
    alone.features.feature[name].int64_list.value.extend(integers)
    assert encode_example({name: features[name]}) == alone.SerializeToString()


def test_files_are_tensorflows(tmp_path):
    import tensorflow as tf

    records = [b"", b"one", b"two" * 5000]
    write_tfrecord(tmp_path / "ours", records)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


ENDED = st.lists(st.integers(2, 99), max_size=7).map(lambda tokens: [*tokens, 1])


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(ENDED, ENDED), min_size=3, max_size=3))
def test_packed_rows_are_seqios(drawn):
    """seqio packs greedily: given one row's examples and room for all, it makes that row."""
    import seqio
    import tensorflow as tf

    size, pack = 8, len(drawn)
    lengths = numpy_corruption.SpanCorruption(size, size, size, 0.15, 3.0)
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"inputs": inputs, "targets": targets} for inputs, targets in drawn),
        output_signature=dict.fromkeys(("inputs", "targets"), tf.TensorSpec([None], tf.int32)),
    )
    converter = seqio.EncDecFeatureConverter(pack=True)
    room = {"inputs": pack * size, "targets": pack * size}
    [theirs] = converter(dataset, task_feature_lengths=room).as_numpy_iterator()
    arrays = [(*(np.array(part, np.int32) for part in parts), 0) for parts in drawn]
    ours = pack_rows(collate(arrays, pack, lengths), pack)
    assert set(ours) == {*theirs, "language"}
    for name, values in theirs.items():
        assert np.array_equal(ours[name][0], values), name
