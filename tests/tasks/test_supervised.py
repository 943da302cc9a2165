"""Supervised examples are read as corrupted text is."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from supervised_files import ALL_KINDS, LABELS, rows, write_kinds, write_task

from pipelines.errors import UserError
from pipelines.supervised.build import SupervisedConfig, build_supervised
from pipelines.vocabulary.model import load_vocabulary
from tasks.batches import TrainBatches, ValidationBatches
from tasks.examples import VOCABULARY_PATH, open_examples
from tasks.mixtures import Mixture


@pytest.fixture(scope="module")
def reviews(small_examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    write_kinds(folder)
    config = SupervisedConfig(inputs_length=64, targets_length=12)
    vocabulary = small_examples / VOCABULARY_PATH
    build_supervised(write_task(folder, ALL_KINDS), vocabulary, folder / "reviews", config)
    return folder / "reviews"


def test_the_directory_opens_with_its_splits(reviews, small_examples):
    opened = open_examples(reviews)
    assert opened.supervised
    assert opened.finished
    assert opened.languages == ("en", "iw", "sr-Latn", "sw")
    counts = {split: sum(map(len, sources.values())) for split, sources in opened.sources.items()}
    assert list(counts) == ["train", "validation", "test"]
    assert sum(counts.values()) == 500
    assert min(counts.values()) > 20
    assert not open_examples(small_examples).supervised


def test_training_reads_every_pair_once_an_epoch(reviews):
    opened = open_examples(reviews)
    train = {lang: len(source) for lang, source in opened.sources["train"].items()}
    batches = TrainBatches(reviews, sum(train.values()), mixture=Mixture(alpha=1.0))
    vocabulary = load_vocabulary(reviews / VOCABULARY_PATH)
    batch = batches.batch(3)
    assert batch["encoder_input_tokens"].shape == (sum(train.values()), 64)
    assert batch["decoder_target_tokens"].shape[1] == 12
    label_of = {f"sentiment: {row['title']}": LABELS[int(row["label"])] for row in rows(500)}
    found = Counter()
    for inputs, targets, language in zip(
        batch["encoder_input_tokens"],
        batch["decoder_target_tokens"],
        batch["language"],
        strict=True,
    ):
        text = vocabulary.DecodeIds(inputs[inputs > 0].tolist())
        assert vocabulary.DecodeIds(targets[targets > 0].tolist()) == label_of[text]
        found[batches.languages[language]] += 1
    assert all(abs(found[lang] - n) <= 20 for lang, n in train.items())


def test_rows_of_hosts_and_packed_rows_are_those_of_one(reviews):
    one = TrainBatches(reviews, 24, seed=3).batch(1000)
    hosts = [TrainBatches(reviews, 24, seed=3, host=host, hosts=3).batch(1000) for host in range(3)]
    for name, values in one.items():
        joined = np.concatenate([batch[name] for batch in hosts])
        np.testing.assert_array_equal(joined, values)
    packed = TrainBatches(reviews, 24, seed=3, pack=2).batch(1000)
    assert packed["decoder_loss_weights"].sum() == one["decoder_loss_weights"].sum()


def test_validation_reads_every_pair_once(reviews):
    batches = ValidationBatches(reviews, 8)
    sources = open_examples(reviews).sources["validation"]
    documents = [name for batch in batches for name in batch["document"] if name]
    assert len(documents) == sum(map(len, sources.values()))
    target_bytes = sum(batch["target_bytes"].sum() for batch in batches)
    assert 8 * len(documents) <= target_bytes <= 8 * len(documents) + len(documents)


def test_a_directory_that_was_changed_is_refused(reviews, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(reviews, copy)
    shard = next(copy.glob("reviews.en/test.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="build the examples again"):
        open_examples(copy)
