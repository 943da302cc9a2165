"""Rows of short examples: planned from lengths, the same for whoever makes them."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervised_files import ALL_KINDS, write_kinds, write_task

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.tasks.batches.examples import VOCABULARY_PATH
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import TaskMixture, WeightedTask
from mswitch.tasks.batches.packing import pack_next_fit, read_lengths
from mswitch.tasks.batches.training import TaskBatches, TrainBatches

ROOM = (20, 12)


@pytest.fixture(scope="module")
def short(small_examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Supervised examples that are short for their lengths."""
    folder = tmp_path_factory.mktemp("short")
    write_kinds(folder)
    config = SupervisedConfig(inputs_length=192, targets_length=64)
    vocabulary = small_examples / VOCABULARY_PATH
    build_supervised(write_task(folder, ALL_KINDS), vocabulary, folder / "short", config)
    return folder / "short"


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=60))
def test_rows_take_records_in_order_until_one_does_not_fit(drawn):
    lengths = np.array(drawn, np.uint32)
    starts = pack_next_fit(lengths, *ROOM).tolist()
    rows = [drawn[start:stop] for start, stop in itertools.pairwise(starts)]
    assert list(itertools.chain(*rows)) == drawn

    def fits(row):
        return sum(i for i, _ in row) <= 20 and sum(t for _, t in row) <= 12

    assert all(row and fits(row) for row in rows)
    assert not any(fits([*row, after[0]]) for row, after in itertools.pairwise(rows))


def test_rows_of_256_are_filled_over_90_percent():
    # Lengths of translated messages in the demo's vocabulary: means of 31 inputs and 24
    # targets, medians of 25 and 17, 99th percentiles of 113 and 127.
    rng = np.random.default_rng(0)
    both = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 100_000)
    lengths = np.clip(np.exp(both * [0.656, 0.83]) * [25, 17], 3, 128).round().astype(np.uint32)
    rows = len(pack_next_fit(lengths, 256, 256)) - 1
    assert lengths[:, 0].sum() / (rows * 256) > 0.9


def test_lengths_beside_the_shards_are_those_of_the_records(short):
    for source in TrainBatches(short, 1).opened[""].sources["test"].values():
        records = (source.read(index) for index in range(len(source)))
        expected = [(record["inputs"].size, record["targets"].size) for record in records]
        assert read_lengths(source).tolist() == [list(one) for one in expected]


def examples(batch) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Row, inputs and targets of each example of a packed batch."""
    found = []
    for row, (of_inputs, of_targets) in enumerate(
        zip(batch["encoder_segment_ids"], batch["decoder_segment_ids"], strict=True)
    ):
        assert of_inputs.max() == of_targets.max() > 0
        for number in range(1, of_inputs.max() + 1):
            inputs = batch["encoder_input_tokens"][row, of_inputs == number]
            targets = batch["decoder_target_tokens"][row, of_targets == number]
            shifted = batch["decoder_input_tokens"][row, of_targets == number]
            assert shifted.tolist() == [0, *targets[:-1]]
            found.append((row, tuple(inputs.tolist()), tuple(targets.tolist())))
    return found


def test_an_epoch_reads_every_record_once_in_full_rows(short):
    mixture = Mixture(languages=("sw",))
    batches = TrainBatches(short, 1, 7, mixture, pack="next-fit")
    assert (batches.inputs_length, batches.targets_length, batches.rows) == (192, 64, 1)
    source = batches.opened[""].sources["train"]["sw"]
    rows = len(pack_next_fit(read_lengths(source), 192, 64)) - 1
    assert rows < len(source) / 2
    stored = sorted(
        (tuple(record["inputs"].tolist()), tuple(record["targets"].tolist()))
        for record in map(source.read, range(len(source)))
    )
    orders = []
    for epoch in range(3):
        steps = range(epoch * rows, (epoch + 1) * rows)
        found = [pair for step in steps for _, *pair in examples(batches.batch(step))]
        assert sorted(map(tuple, found)) == stored
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_are_one_at_any_step(short, hosts):
    one = TrainBatches(short, 8, 3, pack="next-fit")
    parts = [TrainBatches(short, 8, 3, host=n, hosts=hosts, pack="next-fit") for n in range(hosts)]
    for step in (0, 11, 10**9):
        made = [part.batch(step) for part in parts]
        for name, values in one.batch(step).items():
            assert np.array_equal(np.concatenate([batch[name] for batch in made]), values), name


def test_examples_come_as_often_as_without_packing(small_examples, short):
    tasks = {
        "reviews": WeightedTask(str(short), rate=1, mixture=Mixture(alpha=0.3)),
        "text": WeightedTask(str(small_examples), rate=2),
    }
    batches = TaskBatches(TaskMixture(tasks), 64, pack="next-fit")
    counts = dict.fromkeys(batches.languages, 0)
    for step in range(batches._mixture_order.window // 64):
        batch = batches.batch(step)
        for number, segments in zip(batch["language"], batch["encoder_segment_ids"], strict=True):
            leaf = batches.languages[number]
            counts[leaf] += segments.max()
            # Corrupted text of 32 + 8 positions: at most six to a row of 192 + 64.
            assert leaf.startswith("reviews/") or segments.max() <= 6
    total = sum(counts.values())
    assert total > 1.3 * batches._mixture_order.window
    for leaf, rate in batches.rates.items():
        assert counts[leaf] / total == pytest.approx(rate, abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_rows_are_seqios(short):
    """seqio's packing in order is next-fit: its rows of the same examples are ours."""
    import seqio
    import tensorflow as tf

    batches = TrainBatches(short, 1, 1, Mixture(languages=("en",)), pack="next-fit")
    source = batches.opened[""].sources["train"]["en"]
    records = [source.read(index) for index in range(len(source))]
    dataset = tf.data.Dataset.from_generator(
        lambda: ({name: record[name] for name in ("inputs", "targets")} for record in records),
        output_signature=dict.fromkeys(("inputs", "targets"), tf.TensorSpec([None], tf.int32)),
    )
    converter = seqio.EncDecFeatureConverter(pack=True)
    theirs = list(converter(dataset, {"inputs": 192, "targets": 64}).as_numpy_iterator())
    rows = [batches.batch(step) for step in range(len(theirs))]
    first = next(
        step
        for step, row in enumerate(rows)
        if np.array_equal(row["encoder_input_tokens"][0], theirs[0]["encoder_input_tokens"])
    )
    for ours, expected in zip(rows[first:] + rows[:first], theirs, strict=True):
        assert {*ours} == {*expected, "language"}
        for name, values in expected.items():
            assert np.array_equal(ours[name][0], values), name


def test_what_cannot_be_packed_is_explained(short, tmp_path):
    with pytest.raises(UserError, match="--pack next-fit and a mixture with max_epochs"):
        TrainBatches(short, 8, 0, Mixture(max_epochs=2), steps=3, pack="next-fit")
    copy = shutil.copytree(short, tmp_path / "copy")
    [file] = copy.glob("reviews.en/train.tfrecord-*.lengths")
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"lengths has [\d,]+ lengths for [\d,]+ records"):
        TrainBatches(copy, 8, pack="next-fit")
    file.write_bytes(np.ones(len(whole) // 4, "<u4").tobytes())
    batches = TrainBatches(copy, 8, mixture=Mixture(languages=("en",)), pack="next-fit")
    with pytest.raises(UserError, match="does not have the lengths stored beside the shard"):
        batches.batch(0)
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*lengths"):
        TrainBatches(copy, 8, pack="next-fit")
    assert math.isclose(sum(TrainBatches(copy, 8).rates.values()), 1)
