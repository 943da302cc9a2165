"""seqio reads what the examples stage wrote. One xdist group: importing seqio takes 10 s."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.examples import span_corruption as numpy_corruption
from pipelines.examples.segments import reduce_concat_tokens
from pipelines.examples.tf_example import decode_example, encode_example
from pipelines.examples.tfrecord import read_sequentially, write_tfrecord
from tasks.records import VOCABULARY_PATH

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]

#: "The quick brown fox." in the vocabulary of t5's tests, which has 26 ids.
PUBLISHED_TOKENS = [3, 2, 20, 4, 3, 2, 8, 13, 2, 3, 2, 23, 7, 19, 22, 3, 2, 7, 2]

READ_MIXTURE = """
import json, sys
import seqio
import tasks.pretrain
before = sorted(seqio.TaskRegistry.names())
tasks.pretrain.register()
assert sorted(seqio.TaskRegistry.names()) == before
seqio.add_global_cache_dirs([sys.argv[1]])
found = {"tasks": before}
for split in ("train", "validation"):
    dataset = seqio.get_mixture_or_task("mc4").get_dataset(
        sequence_length={"inputs": 32, "targets": 8}, split=split, use_cached=True,
        shuffle=False, num_epochs=1)
    found[split] = [{name: value.tolist() for name, value in example.items()}
                    for example in dataset.as_numpy_iterator()]
text = tasks.pretrain.VOCABULARY.decode(found["train"][0]["targets"])
print(json.dumps({**found, "text": text}))
"""


@pytest.fixture(scope="module")
def seqio_dataset(small_examples: Path):
    """A function that reads one task through seqio."""
    import seqio

    from tasks.pretrain import register

    register()
    seqio.set_global_cache_dirs([str(small_examples)])

    def read(name: str, split: str, inputs: int = 32, targets: int = 8, **options):
        dataset = seqio.get_mixture_or_task(name).get_dataset(
            sequence_length={"inputs": inputs, "targets": targets},
            split=split,
            **{"use_cached": True, "shuffle": False, "seed": 1, **options},
        )
        return list(dataset.as_numpy_iterator())

    yield read
    seqio.set_global_cache_dirs([])


def stored(examples: Path, lang: str, split: str) -> list[dict]:
    paths = sorted((examples / f"mc4.{lang}").glob(f"{split}.tfrecord-*-of-0000?"))
    return [decode_example(data) for path in paths for data in read_sequentially(path)]


def restored(examples: list[dict]) -> list[tuple[int, ...]]:
    parts = [[np.array(example[name]) for name in ("inputs", "targets")] for example in examples]
    return [tuple(numpy_corruption.restore(*part, 1000).tolist()) for part in parts]


def read_mixture(examples: Path) -> dict:
    """What READ_MIXTURE prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", READ_MIXTURE, str(examples)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_mixture_is_read_in_a_plain_process(small_examples: Path):
    found = read_mixture(small_examples)
    assert len(found["tasks"]) >= 107
    assert {"mc4.de", "mc4.bg_Latn", "mc4.iw", "mc4.zh_Latn"} <= set(found["tasks"])
    assert found["text"].startswith("<extra_id_0> ")
    raw = {
        tuple(record["targets"].tolist())
        for lang in ("ar", "bg", "de", "en", "haw", "ko", "sw", "zh")
        for record in stored(small_examples, lang, "train")
    }
    assert found["train"]
    assert set(restored(found["train"])) <= raw
    frozen = {
        tuple(map(tuple, (record["inputs"].tolist(), record["targets"].tolist())))
        for lang in ("ar", "bg", "en", "haw", "ko", "sw", "zh")
        for record in stored(small_examples, lang, "validation")
    }
    assert found["validation"]
    assert {(tuple(e["inputs"]), tuple(e["targets"])) for e in found["validation"]} <= frozen


def test_a_task_gives_its_records_in_order_corrupted(seqio_dataset, small_examples: Path):
    examples = seqio_dataset("mc4.en", "train")
    raw = [tuple(record["targets"].tolist()) for record in stored(small_examples, "en", "train")]
    assert restored(examples) == raw
    for example in examples:
        assert example["inputs"].size <= 32
        assert example["targets"].size <= 8
        assert example["inputs"][-1] == example["targets"][-1] == 1


def test_every_epoch_has_other_masks(seqio_dataset, small_examples: Path):
    count = len(stored(small_examples, "en", "train"))
    examples = seqio_dataset("mc4.en", "train", num_epochs=2)
    assert len(examples) == 2 * count
    assert restored(examples[:count]) == restored(examples[count:])
    full = [n for n in range(count) if examples[n]["inputs"].size == 32]
    same = sum(np.array_equal(examples[n]["inputs"], examples[n + count]["inputs"]) for n in full)
    assert same < len(full) / 2
    again = seqio_dataset("mc4.en", "train", num_epochs=2)
    for one, other in zip(examples, again, strict=True):
        assert np.array_equal(one["inputs"], other["inputs"])


def test_shorter_sequences_cut_segments_and_lose_nothing(seqio_dataset, small_examples: Path):
    examples = seqio_dataset("mc4.sw", "train", inputs=16, targets=5)
    assert max(example["inputs"].size for example in examples) == 16
    tokens = [token for example in restored(examples) for token in example]
    raw = [
        t for record in stored(small_examples, "sw", "train") for t in record["targets"].tolist()
    ]
    assert tokens == raw


def test_frozen_examples_pass_through(seqio_dataset, small_examples: Path):
    for lang in ("zh", "haw"):
        examples = seqio_dataset(f"mc4.{lang}", "validation")
        expected = stored(small_examples, lang, "validation")
        assert len(examples) == len(expected) > 0
        for example, record in zip(examples, expected, strict=True):
            assert np.array_equal(example["inputs"], record["inputs"])
            assert np.array_equal(example["targets"], record["targets"])
            assert sorted(example) == ["inputs", "targets"]


def test_examples_finished_when_written_pass_through_too(finished_examples: Path):
    # In a process of its own: seqio's tasks remember where they were first read.
    found = read_mixture(finished_examples)
    for split in ("train", "validation"):
        expected = {
            (tuple(record["inputs"].tolist()), tuple(record["targets"].tolist()))
            for lang in ("ar", "bg", "de", "en", "haw", "ko", "sw", "zh")
            for record in stored(finished_examples, lang, split)
        }
        examples = {(tuple(e["inputs"]), tuple(e["targets"])) for e in found[split]}
        assert examples
        assert examples <= expected


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=20),
    st.integers(1, 7),
)
def test_documents_are_joined_as_by_t5s_padded_batches(documents: list[list[int]], count: int):
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


def test_splits_are_those_of_the_directory(seqio_dataset):
    import seqio

    splits = {name: seqio.get_mixture_or_task(f"mc4.{name}").splits for name in ("en", "de", "yo")}
    assert splits == {"en": ("train", "validation"), "de": ("train",), "yo": ()}


def test_rates_are_those_of_training(seqio_dataset, small_examples: Path):
    import seqio

    from tasks.batches import TrainBatches

    mixture = seqio.get_mixture_or_task("mc4")
    expected = TrainBatches(small_examples, 1).rates
    rates = {lang: mixture.get_rate(seqio.get_mixture_or_task(f"mc4.{lang}")) for lang in expected}
    total = sum(rates.values())
    assert {lang: rate / total for lang, rate in rates.items()} == pytest.approx(expected)


def test_every_mixture_has_the_rates_of_training(seqio_dataset, small_examples: Path):
    import seqio

    from pipelines.languages import task_name
    from tasks.batches import TrainBatches
    from tasks.mixtures import MT5_BUDGET, Mixture, mixtures
    from tasks.pretrain import register_mixture

    own = Mixture(alpha=0, max_epochs=1, languages=("en", "haw", "sw"))
    register_mixture("own", own, budget=20)
    register_mixture("weighted", Mixture(weights={"de": 3, "sw": 1}))
    chosen = {
        name: (mixtures()[name], MT5_BUDGET)
        for name in (
            "mc4",
            "mswitch",
            "mc4.script.Latn",
            "mc4.alpha.0.7",
            "mc4.unimax.4",
            "mc4.family.Bantu",
        )
    }
    chosen |= {"own": (own, 20), "weighted": (Mixture(weights={"de": 3, "sw": 1}), 1)}
    for name, (definition, budget) in chosen.items():
        mixture = seqio.MixtureRegistry.get(name)
        assert {task.name for task in mixture.tasks} == set(map(task_name, definition.members()))
        batches = TrainBatches(small_examples, 1, mixture=definition, steps=budget)
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        total = sum(rates.values())
        expected = {task_name(lang): rate for lang, rate in batches.rates.items() if rate}
        assert {task: rate / total for task, rate in rates.items() if rate} == pytest.approx(
            expected
        )
    for name in ("own", "mc4.script.Latn"):
        assert seqio_dataset(name, "train", num_epochs=1)


def test_registering_a_mixture_twice_and_taken_names(seqio_dataset):
    import seqio

    from tasks.mixtures import Mixture, mixtures
    from tasks.pretrain import register_mixture

    before = set(seqio.MixtureRegistry.names())
    assert set(mixtures()) <= before
    register_mixture("mc4", mixtures()["mc4"])
    assert set(seqio.MixtureRegistry.names()) == before
    for name in ("mc4", "mc4.de"):
        with pytest.raises(UserError, match=f"seqio has another '{name}' already"):
            register_mixture(name, Mixture(alpha=0.9))


def test_misuse_is_explained(seqio_dataset, small_examples: Path):
    import seqio

    from tasks.cache import examples_directory

    with pytest.raises(UserError, match="targets is 7: 34 tokens, corrupted, need 8"):
        seqio_dataset("mc4.en", "train", targets=7)
    with pytest.raises(ValueError, match="requires caching"):
        seqio_dataset("mc4.en", "train", use_cached=False)
    seqio.set_global_cache_dirs([str(small_examples.parent)])
    try:
        with pytest.raises(UserError, match=r"call seqio\.add_global_cache_dirs"):
            examples_directory()
    finally:
        seqio.set_global_cache_dirs([str(small_examples)])


def test_a_model_without_sentinels_has_the_ids_of_seqio(small_examples: Path, tmp_path: Path):
    """`extra_ids=100` is how T5 and seqio use a model that has no sentinels inside."""
    import seqio
    from sentencepiece import sentencepiece_model_pb2

    from pipelines.vocabulary_model import open_vocabulary

    proto = sentencepiece_model_pb2.ModelProto.FromString(
        (small_examples / VOCABULARY_PATH).read_bytes()
    )
    del proto.pieces[-100:]
    given, prepared = tmp_path / "given.model", tmp_path / "prepared.model"
    given.write_bytes(proto.SerializeToString())
    prepared.write_bytes(open_vocabulary(given).model)
    theirs = seqio.SentencePieceVocabulary(str(given), extra_ids=100)
    ours = seqio.SentencePieceVocabulary(str(prepared))
    assert ours.vocab_size == theirs.vocab_size == 1000
    text = "Alle Menschen sind frei 人人生而自由"
    assert ours.encode(text) == theirs.encode(text)
    for number in range(100):
        (sentinel,) = theirs.encode(f"<extra_id_{number}>")
        assert ours.tokenizer.IdToPiece(sentinel) == f"<extra_id_{number}>"


def test_languages_that_mc4_lacks_have_tasks_and_a_mixture(added_examples: Path):
    import seqio

    from tasks.batches import TrainBatches
    from tasks.pretrain import register

    register()
    added = {"mswitch.hr", "mswitch.bs", "mswitch.sr_Latn"}
    mixtures = {name: seqio.get_mixture_or_task(name) for name in ("mc4", "mswitch")}
    names = {name: {task.name for task in mixture.tasks} for name, mixture in mixtures.items()}
    assert len(names["mc4"]) == 107
    assert names["mswitch"] - names["mc4"] == added
    assert names["mswitch"] >= names["mc4"]
    before = list(seqio.get_global_cache_dirs())
    seqio.set_global_cache_dirs([str(added_examples)])
    try:
        for name in sorted(added):
            task = seqio.get_mixture_or_task(name)
            assert task.splits == ("train", "validation")
            options = {"use_cached": True, "shuffle": False, "num_epochs": 1}
            lengths = {"inputs": 32, "targets": 8}
            dataset = task.get_dataset(lengths, split="train", **options)
            assert len(list(dataset.as_numpy_iterator())) > 0
        rates = TrainBatches(added_examples, 1).rates
        assert {"hr", "bs", "sr-Latn", "en"} <= set(rates)
        mixture = mixtures["mswitch"]
        given = {task.name.split(".")[1]: mixture.get_rate(task) for task in mixture.tasks}
        total = sum(given.values())
        assert {lang: given[lang.replace("-", "_")] / total for lang in rates} == pytest.approx(
            rates
        )
    finally:
        seqio.set_global_cache_dirs(before)


def tf_mask(length: int, seeds, density: float, mean: float) -> np.ndarray:
    import tensorflow as tf

    from tasks.preprocessors import random_spans_noise_mask

    return random_spans_noise_mask(tf.constant(length), tf.constant(seeds), density, mean).numpy()


def test_mask_of_the_published_sample():
    mask = tf_mask(32, [[1, 2], [3, 4]], 0.25, 2.0)
    assert np.flatnonzero(mask).tolist() == [6, 7, 8, 10, 11, 12, 28, 31]
    assert not tf_mask(32, [[1, 2], [3, 4]], 0.0, 2.0).any()


@pytest.mark.parametrize(
    ("noise", "inputs", "targets"),
    [
        (
            [1, 14, 15, 16, 17, 18],
            [3, 25, 20, 4, 3, 2, 8, 13, 2, 3, 2, 23, 7, 19, 24],
            [25, 2, 24, 22, 3, 2, 7, 2],
        ),
        ([], PUBLISHED_TOKENS, [25]),
    ],
)
def test_published_example_of_t5(noise: list[int], inputs: list[int], targets: list[int]):
    import tensorflow as tf

    from tasks.preprocessors import spans_to_sentinels

    tokens = tf.constant(PUBLISHED_TOKENS)
    mask = tf.constant([position in noise for position in range(19)])
    assert spans_to_sentinels(tokens, mask, 26).numpy().tolist() == inputs
    assert spans_to_sentinels(tokens, ~mask, 26).numpy().tolist() == targets


@settings(max_examples=60)
@given(
    st.integers(1, 1500),
    st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4),
    st.sampled_from([(0.15, 3.0), (0.25, 2.0), (0.5, 3.0), (0.3, 3.0), (0.15, 1.0), (0.9, 1.0)]),
)
def test_both_masks_are_equal_for_the_same_draws(length: int, numbers: list[int], noise):
    import tensorflow as tf

    density, mean = noise
    seeds = np.array(numbers, np.int32).reshape(2, 2)
    draws = [
        tf.random.stateless_uniform([count], seed=seed).numpy().view(np.uint32)[None]
        for count, seed in zip(
            numpy_corruption.draws_needed(length, density, mean), seeds, strict=True
        )
    ]
    mask = numpy_corruption.random_spans_noise_mask(length, density, mean, *draws)
    assert np.array_equal(tf_mask(length, seeds, density, mean), mask[0])


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_both_put_the_same_sentinels(bits: list[bool]):
    import tensorflow as tf

    from tasks.preprocessors import spans_to_sentinels

    tokens, mask = np.arange(10, 10 + len(bits), dtype=np.int32), np.array(bits)
    found = spans_to_sentinels(tf.constant(tokens), tf.constant(mask), 1000).numpy()
    assert np.array_equal(
        found, numpy_corruption.spans_to_sentinels(tokens[None], mask[None], 1000)[0]
    )
    assert found.dtype == np.int32


@settings(max_examples=40)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.binary(), min_size=1),
    st.text(min_size=1),
)
def test_examples_are_tensorflows(integers: list[int], values: list[bytes], name: str):
    import tensorflow as tf

    features = {name: np.array(integers, np.int64), f"{name}2": values}
    theirs = tf.train.Example()
    theirs.features.feature[name].int64_list.value.extend(integers)
    theirs.features.feature[f"{name}2"].bytes_list.value.extend(values)
    assert tf.train.Example.FromString(encode_example(features)) == theirs
    decoded = decode_example(theirs.SerializeToString())
    assert {key: list(value) for key, value in decoded.items()} == {
        name: integers,
        f"{name}2": values,
    }
    alone = tf.train.Example()
    alone.features.feature[name].int64_list.value.extend(integers)
    assert encode_example({name: features[name]}) == alone.SerializeToString()


def test_files_are_tensorflows(tmp_path: Path):
    import tensorflow as tf

    records = [b"", b"one", b"two" * 5000]
    write_tfrecord(tmp_path / "ours", records)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
