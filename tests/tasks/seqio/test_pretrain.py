"""seqio reads what the examples stage wrote."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import seqio
from example_files import restore, stored
from processes import run_python
from sentencepiece import sentencepiece_model_pb2

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages, name_task
from mswitch.pipelines.vocabulary.model import open_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH
from mswitch.tasks.batches.mixtures import MT5_BUDGET, Mixture, mixtures
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.seqio.cache import find_examples_directory
from mswitch.tasks.seqio.pretrain import register, register_mixture

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

READ_MIXTURE = """
import json, sys
import seqio
from mswitch.tasks.seqio import pretrain
before = sorted(seqio.TaskRegistry.names())
pretrain.register()
assert sorted(seqio.TaskRegistry.names()) == before
examples, mixture, *languages = sys.argv[1:]
if languages:
    pretrain.register_mixture(mixture, pretrain.Mixture(languages=tuple(languages)))
seqio.add_global_cache_dirs([examples])
found = {"tasks": before}
for split in ("train", "validation"):
    dataset = seqio.get_mixture_or_task(mixture).get_dataset(
        sequence_length={"inputs": 32, "targets": 8}, split=split, use_cached=True,
        shuffle=False, num_epochs=1)
    found[split] = [{name: value.tolist() for name, value in example.items()}
                    for example in dataset.as_numpy_iterator()]
text = pretrain.VOCABULARY.decode(found["train"][0]["targets"])
print(json.dumps({**found, "text": text}))
"""


@pytest.fixture(scope="module")
def seqio_dataset(small_examples: Path):
    """A function that reads one task through seqio."""
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


def restored(examples: list[dict]) -> list[tuple[int, ...]]:
    parts = [[np.array(example[name]) for name in ("inputs", "targets")] for example in examples]
    return [tuple(restore(*part, 1000).tolist()) for part in parts]


def as_pairs(examples: Iterable[dict]) -> set[tuple[tuple[int, ...], ...]]:
    """Inputs and targets of each, of which there are some."""
    found = {tuple(tuple(map(int, e[name])) for name in ("inputs", "targets")) for e in examples}
    assert found
    return found


def read_mixture(examples: Path, *mixture: str) -> dict:
    """What READ_MIXTURE prints; a mixture's name, and its languages where it is a new one."""
    done = run_python("-c", READ_MIXTURE, examples, *mixture)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "skipping" not in done.stderr  # languages that the directory lacks
    return json.loads(done.stdout.splitlines()[-1])


def test_the_mixture_is_read_in_a_plain_process(small_examples):
    found = read_mixture(small_examples, "mc4")
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
    langs = ("ar", "bg", "en", "haw", "ko", "sw", "zh")
    frozen = [record for lang in langs for record in stored(small_examples, lang, "validation")]
    assert as_pairs(found["validation"]) <= as_pairs(frozen)


def test_a_task_gives_its_records_in_order_corrupted(seqio_dataset, small_examples):
    examples = seqio_dataset("mc4.en", "train")
    raw = [tuple(record["targets"].tolist()) for record in stored(small_examples, "en", "train")]
    assert restored(examples) == raw
    for example in examples:
        assert example["inputs"].size <= 32
        assert example["targets"].size <= 8
        assert example["inputs"][-1] == example["targets"][-1] == 1


def test_every_epoch_has_other_masks(seqio_dataset, small_examples):
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


def test_shorter_sequences_cut_segments_and_lose_nothing(seqio_dataset, small_examples):
    examples = seqio_dataset("mc4.sw", "train", inputs=16, targets=5)
    assert max(example["inputs"].size for example in examples) == 16
    tokens = [token for example in restored(examples) for token in example]
    raw = [
        t for record in stored(small_examples, "sw", "train") for t in record["targets"].tolist()
    ]
    assert tokens == raw


def test_frozen_examples_pass_through(seqio_dataset, small_examples):
    for lang in ("zh", "haw"):
        examples = seqio_dataset(f"mc4.{lang}", "validation")
        expected = stored(small_examples, lang, "validation")
        assert len(examples) == len(expected) > 0
        for example, record in zip(examples, expected, strict=True):
            assert np.array_equal(example["inputs"], record["inputs"])
            assert np.array_equal(example["targets"], record["targets"])
            assert sorted(example) == ["inputs", "targets"]


def test_examples_finished_when_written_pass_through_too(finished_examples):
    # In its own process: seqio's tasks remember where they were first read.
    langs = ("en", "haw", "sw", "zh")
    found = read_mixture(finished_examples, "few", *langs)
    for split in ("train", "validation"):
        written = [record for lang in langs for record in stored(finished_examples, lang, split)]
        assert as_pairs(found[split]) <= as_pairs(written)


def test_splits_are_those_of_the_directory(seqio_dataset):
    splits = {name: seqio.get_mixture_or_task(f"mc4.{name}").splits for name in ("en", "de", "yo")}
    assert splits == {"en": ("train", "validation"), "de": ("train",), "yo": ()}


def test_every_mixture_has_the_rates_of_training(seqio_dataset, small_examples):
    own = Mixture(alpha=0, max_epochs=1, languages=("en", "haw", "sw"))
    weighted = Mixture(weights={"de": 3, "sw": 1})
    register_mixture("own", own, budget=20)
    register_mixture("weighted", weighted)
    names = ["mc4", "mswitch", "mc4.script.Latn", "mc4.alpha.0.7", "mc4.unimax.4"]
    chosen = {name: (mixtures()[name], MT5_BUDGET) for name in (*names, "mc4.family.Bantu")}
    chosen |= {"own": (own, 20), "weighted": (weighted, 1)}
    for name, (definition, budget) in chosen.items():
        mixture = seqio.MixtureRegistry.get(name)
        assert {task.name for task in mixture.tasks} == set(map(name_task, definition.members()))
        batches = TrainBatches(small_examples, 1, mixture=definition, steps=budget)
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        total = sum(rates.values())
        expected = {name_task(lang): rate for lang, rate in batches.rates.items() if rate}
        found = {task: rate / total for task, rate in rates.items() if rate}
        assert found == pytest.approx(expected)
    for name in ("own", "mc4.script.Latn"):
        assert seqio_dataset(name, "train", num_epochs=1)


def test_registering_a_mixture_twice_and_taken_names(seqio_dataset):
    before = set(seqio.MixtureRegistry.names())
    assert set(mixtures()) <= before
    register_mixture("mc4", mixtures()["mc4"])
    assert set(seqio.MixtureRegistry.names()) == before
    for name in ("mc4", "mc4.de"):
        with pytest.raises(UserError, match=f"seqio has another '{name}' already"):
            register_mixture(name, Mixture(alpha=0.9))


def test_misuse_is_explained(seqio_dataset, small_examples):
    with pytest.raises(UserError, match="targets is 7: 34 tokens, corrupted, need 8"):
        seqio_dataset("mc4.en", "train", targets=7)
    with pytest.raises(ValueError, match="requires caching"):
        seqio_dataset("mc4.en", "train", use_cached=False)
    seqio.set_global_cache_dirs([str(small_examples.parent)])
    try:
        with pytest.raises(UserError, match=r"call seqio\.add_global_cache_dirs"):
            find_examples_directory()
    finally:
        seqio.set_global_cache_dirs([str(small_examples)])


def test_a_model_without_sentinels_has_the_ids_of_seqio(small_examples, tmp_path):
    """`extra_ids=100` is how T5 and seqio use a model that has no sentinels inside."""
    model = (small_examples / VOCABULARY_PATH).read_bytes()
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
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


def test_languages_that_mc4_lacks_have_tasks_and_a_mixture(added_examples):
    register()
    added = {"mswitch.hr", "mswitch.bs", "mswitch.sr_Latn"}
    both = {name: seqio.get_mixture_or_task(name) for name in ("mc4", "mswitch")}
    names = {name: {task.name for task in mixture.tasks} for name, mixture in both.items()}
    assert len(names["mc4"]) == 107
    beside = {name_task(language.code) for language in languages().values() if not language.mc4}
    assert names["mswitch"] - names["mc4"] == beside >= added
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
        mixture = both["mswitch"]
        given = {task.name.split(".")[1]: mixture.get_rate(task) for task in mixture.tasks}
        total = sum(given.values())
        found = {lang: given[lang.replace("-", "_")] / total for lang in rates}
        assert found == pytest.approx(rates)
    finally:
        seqio.set_global_cache_dirs(before)
