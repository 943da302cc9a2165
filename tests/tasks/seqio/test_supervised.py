"""Supervised examples are read as corrupted text is."""

import shutil
from collections import Counter

import pytest
import seqio
from supervised_files import LABELS, rows

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import load_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH, open_examples
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.batches.validation import ValidationBatches
from mswitch.tasks.seqio.supervised import register


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
    names = ("encoder_input_tokens", "decoder_target_tokens", "language")
    for inputs, targets, language in zip(*map(batch.get, names), strict=True):
        text = vocabulary.DecodeIds(inputs[inputs > 0].tolist())
        assert vocabulary.DecodeIds(targets[targets > 0].tolist()) == label_of[text]
        found[batches.languages[language]] += 1
    assert all(abs(found[lang] - n) <= 20 for lang, n in train.items())


def test_validation_reads_every_pair_once(reviews):
    batches = ValidationBatches(reviews, 8)
    sources = open_examples(reviews).sources["validation"]
    documents = [name for batch in batches for name in batch["document"] if name]
    assert len(documents) == sum(map(len, sources.values()))
    target_bytes = sum(batch["target_bytes"].sum() for batch in batches)
    assert 8 * len(documents) <= target_bytes <= 8 * len(documents) + len(documents)


def test_a_directory_that_was_changed_is_refused(reviews, tmp_path):
    copy = shutil.copytree(reviews, tmp_path / "copy")
    shard = next(copy.glob("reviews.en/test.tfrecord-?????-of-?????"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="build the examples again"):
        open_examples(copy)


SEQIO_LENGTHS = {"inputs": 64, "targets": 12}


@pytest.mark.parametrize("use_cached", [False, True])
def test_seqio_reads_the_same_pairs(reviews, use_cached):
    names = register(reviews)
    assert names == register(reviews)
    assert names == ["reviews.en", "reviews.iw", "reviews.sr_Latn", "reviews.sw"]
    seqio.add_global_cache_dirs([str(reviews)])
    sources = open_examples(reviews).sources
    for name, lang in zip(names, ("en", "iw", "sr-Latn", "sw"), strict=True):
        task = seqio.get_mixture_or_task(name)
        for split in task.splits:
            dataset = task.get_dataset(
                SEQIO_LENGTHS, split=split, shuffle=False, use_cached=use_cached
            )
            source = sources[split][lang]
            found = [
                (row["id"], row["inputs"].tolist(), row["targets"].tolist())
                for row in dataset.as_numpy_iterator()
            ]
            expected = [
                (row["id"][0], row["inputs"].tolist(), row["targets"].tolist())
                for row in map(source.read, range(len(source)))
            ]
            assert found == expected
            assert task.num_input_examples(split) == len(source)


def test_what_seqio_cannot_have(reviews, small_examples, tmp_path):
    with pytest.raises(UserError, match=r"is corrupted text, not a supervised task"):
        register(small_examples)
    register(reviews)
    shutil.copytree(reviews, tmp_path / "copy")
    with pytest.raises(UserError, match=r"seqio has another 'reviews\.en' already"):
        register(tmp_path / "copy")
