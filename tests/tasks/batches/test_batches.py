import math

import corpus_files
import numpy as np
import pytest
from example_files import change_manifest, restore, stored
from processes import output_of

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.special_tokens import PAD_ID
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.batches.validation import ValidationBatches

FEATURES = {
    "encoder_input_tokens": ((8, 32), np.int32),
    "decoder_input_tokens": ((8, 8), np.int32),
    "decoder_target_tokens": ((8, 8), np.int32),
    "decoder_loss_weights": ((8, 8), np.float32),
    "language": ((8,), np.int32),
}
SIZE = 1000


def rows(batch: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Language, inputs and targets of each row, without padding."""
    weights = batch["decoder_loss_weights"].astype(bool)
    return [
        (int(language), inputs[inputs != 0], targets[kept])
        for language, inputs, targets, kept in zip(
            batch["language"],
            batch["encoder_input_tokens"],
            batch["decoder_target_tokens"],
            weights,
            strict=True,
        )
    ]


def test_batches_have_the_features_that_models_take(small_examples):
    batches = TrainBatches(small_examples, 8, seed=0)
    batch = batches.batch(0)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == FEATURES
    assert batches.languages == ("ar", "bg", "de", "en", "haw", "ko", "sw", "zh")
    assert sum(batches.rates.values()) == pytest.approx(1)
    assert (batches.inputs_length, batches.targets_length, batches.vocabulary_size) == (32, 8, SIZE)
    shifted = np.pad(batch["decoder_target_tokens"][:, :-1], ((0, 0), (1, 0)))
    assert np.array_equal(batch["decoder_input_tokens"], shifted)
    for _, inputs, targets in rows(batch):
        assert inputs[-1] == targets[-1] == 1
        assert targets[0] == SIZE - 1


def test_a_batch_does_not_depend_on_those_before(small_examples):
    one, other = TrainBatches(small_examples, 8, seed=3), TrainBatches(small_examples, 8, seed=3)
    forwards = [one.batch(step) for step in range(40)]
    for step in (39, 7, 0, 23):
        for name, array in other.batch(step).items():
            assert np.array_equal(array, forwards[step][name])
    far = TrainBatches(small_examples, 8, seed=3).batch(10**9)
    for name, array in one.batch(10**9).items():
        assert np.array_equal(array, far[name])


def test_finished_examples_come_as_they_were_written(finished_examples):
    batches = TrainBatches(finished_examples, 64, seed=0)
    written = {
        (number, tuple(record["inputs"].tolist()), tuple(record["targets"].tolist()))
        for number, lang in enumerate(batches.languages)
        for record in stored(finished_examples, lang, "train")
    }
    found = [row for step in range(4096 // 64) for row in rows(batches.batch(step))]
    seen = {
        (number, tuple(inputs.tolist()), tuple(targets.tolist()))
        for number, inputs, targets in found
    }
    assert seen == written
    assert len(found) > 3 * len(written)  # in every epoch the same
    far = TrainBatches(finished_examples, 64, seed=0).batch(50)
    for name, array in batches.batch(50).items():
        assert array.dtype == far[name].dtype
        assert np.array_equal(array, far[name])


def test_seeds_give_other_batches(small_examples):
    one, other = TrainBatches(small_examples, 8, seed=0), TrainBatches(small_examples, 8, seed=1)
    for name in ("language", "encoder_input_tokens"):
        assert not np.array_equal(one.batch(0)[name], other.batch(0)[name])


def test_epochs_give_every_record_once_with_fresh_masks(small_examples):
    batches = TrainBatches(small_examples, 64, seed=0)
    number = batches.languages.index("en")
    raw = [tuple(record["targets"].tolist()) for record in stored(small_examples, "en", "train")]
    assert len(set(raw)) == len(raw)
    counts = dict.fromkeys(raw, 0)
    masks: dict[tuple[int, ...], set[bytes]] = {record: set() for record in raw}
    for step in range(4096 // 64):  # one window of the mixture
        for language, inputs, targets in rows(batches.batch(step)):
            if language == number:
                record = tuple(restore(inputs, targets, SIZE).tolist())
                counts[record] += 1
                masks[record].add(inputs.tobytes())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert min(counts.values()) > 3
    full = [record for record in raw if len(record) == batches.opened[""].noise.raw_length]
    assert all(len(masks[record]) > counts[record] / 2 for record in full)


@pytest.mark.parametrize("batch_size", [1, 7, 8])
def test_validation_gives_every_example_once_and_spreads_the_languages(small_examples, batch_size):
    batches = ValidationBatches(small_examples, batch_size)
    names = ("inputs", "targets", "target_bytes")
    expected = [
        (number, record["document"][0].decode(), *(record[name].tolist() for name in names))
        for number, lang in enumerate(batches.languages)
        for record in stored(small_examples, lang, "validation")
    ]
    found = []
    per_language = []
    for batch in batches:
        of_batch = [
            (language, document, inputs.tolist(), targets.tolist(), [int(size)])
            for (language, inputs, targets), document, size in zip(
                rows(batch), batch["document"], batch["target_bytes"], strict=True
            )
        ]
        real = [row for row in of_batch if row[0] >= 0]
        assert real == sorted(real, key=expected.index)
        assert all(row == (-1, "", [], [], [0]) for row in of_batch[len(real) :])
        assert len(of_batch) == batch_size
        found += real
        counts = np.bincount([row[0] for row in real], minlength=len(batches.languages))
        per_language.append([*counts, len(real)])
    assert len(batches) == math.ceil(len(expected) / batch_size)
    assert sorted(found, key=expected.index) == expected
    assert (np.ptp(per_language, axis=0) <= 1).all()
    assert np.array_equal(batches[1]["document"], list(batches)[1]["document"])
    with pytest.raises(IndexError):
        batches[len(batches)]


@pytest.mark.parametrize("most", [1, 1000])
def test_validation_of_the_first_documents(small_examples, most):
    """All records of so many documents of each language, whatever the batch."""
    found = []
    for batch_size in (3, 8):
        batches = ValidationBatches(small_examples, batch_size, most)
        read = [
            (batches.languages[lang], document)
            for batch in batches
            for lang, document in zip(batch["language"], batch["document"], strict=True)
            if lang >= 0
        ]
        found.append(sorted(read))
    wanted = []
    for lang in batches.languages:
        records = [r["document"][0].decode() for r in stored(small_examples, lang, "validation")]
        first = list(dict.fromkeys(records))[:most]
        wanted += [(lang, document) for document in records if document in first]
    assert found == [sorted(wanted)] * 2
    assert (len(wanted) < len(list(ValidationBatches(small_examples, 1)))) == (most == 1)


def test_another_process_makes_the_same_batch_and_imports_no_seqio_nor_tensorflow(small_examples):
    code = (
        "import sys, mswitch.tasks.batches.training as training\n"
        f"batch = training.TrainBatches({str(small_examples)!r}, 4, seed=5).batch(3)\n"
        "heavy = {'seqio', 'tensorflow', 'apache_beam', 'prefect', 'jax', 'grain'}\n"
        "print(sorted(heavy & sys.modules.keys()), {k: v.tolist() for k, v in batch.items()})"
    )
    batch = TrainBatches(small_examples, 4, seed=5).batch(3)
    wanted = {name: values.tolist() for name, values in batch.items()}
    assert output_of("-c", code) == f"[] {wanted}\n"


def test_unfinished_directories_and_bad_numbers_are_refused(copy, tmp_path):
    for numbers, named in (((0, 0), "batch_size"), ((4, -1), "seed"), ((4, 2**32), "seed")):
        with pytest.raises(UserError, match=f"^{named} is"):
            TrainBatches(copy, *numbers)
    with pytest.raises(UserError, match="does not exist"):
        ValidationBatches(tmp_path / "none", 4)
    manifest = copy / "manifest.json"
    text_before = manifest.read_bytes()
    for text, message in (("{", "is not JSON"), ("[]", "does not hold a JSON object")):
        manifest.write_text(text)
        with pytest.raises(UserError, match=f"manifest.json {message}"):
            TrainBatches(copy, 4)
    manifest.write_bytes(text_before)
    (copy / "_COMPLETED").write_text("")
    with pytest.raises(UserError, match="_COMPLETED is not JSON"):
        TrainBatches(copy, 4)
    (copy / "_COMPLETED").unlink()
    with pytest.raises(UserError, match="is not a finished examples output"):
        TrainBatches(copy, 4)


def test_a_directory_without_validation_is_refused_for_evaluation(copy):
    change_manifest(copy, lambda m: [of.pop("validation", 0) for of in m["languages"].values()])
    TrainBatches(copy, 4).batch(0)
    with pytest.raises(UserError, match="no validation examples"):
        ValidationBatches(copy, 4)


def test_a_language_without_training_text_is_never_trained_on(copy):
    change_manifest(copy, lambda manifest: manifest["languages"]["ar"].pop("train"))
    batches = TrainBatches(copy, 64)
    assert batches.rates["ar"] == 0
    assert batches.languages[0] == "ar"
    seen = np.concatenate([batches.batch(step)["language"] for step in range(8)])
    assert set(seen.tolist()) == set(range(1, 8))


def test_many_shards_need_few_open_files(small_examples):
    code = (
        "import resource\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))\n"
        "from mswitch.tasks.batches.examples import open_examples\n"
        f"sources = open_examples({str(small_examples)!r}).sources\n"
        "records = [s[n] for by in sources.values() for s in by.values() for n in range(len(s))]\n"
        "print(sum(len(s.files) for by in sources.values() for s in by.values()), len(records))"
    )
    shards, records = map(int, output_of("-c", code).split())
    assert records > shards > 16


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 1), (0.8, 3)])
def test_examples_longer_than_the_segments_they_were_made_of_are_read(tmp_path, density, mean_span):
    """Where a sentinel stands for one token, inputs end one token after the segment."""
    corpus = corpus_files.write_corpus(tmp_path / "corpus", corpus_files.small_texts())
    vocabulary = tmp_path / "vocabulary"
    train_vocabulary(corpus, vocabulary, VocabularyConfig(size=1000, character_coverage=0.999))
    config = ExamplesConfig(32, density, mean_span, finished=True)
    build_examples(corpus, vocabulary, tmp_path / "examples", config)
    batches = ValidationBatches(tmp_path / "examples", 8)
    longest = config.lengths().raw_length
    found = [(batch["encoder_input_tokens"], batch["decoder_target_tokens"]) for batch in batches]
    sizes = [(feature != PAD_ID).sum(axis=1).max() for features in found for feature in features]
    assert max(sizes) == longest + 1
    assert TrainBatches(tmp_path / "examples", 8).batch(3)["language"].min() >= 0
