"""Tasks of seqio become examples that are what seqio gives."""

import itertools
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import seqio
from processes import end, start_mswitch
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.vocabulary.model import open_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH, open_examples
from mswitch.tasks.batches.multitask import read_task_mixture
from mswitch.tasks.batches.training import TaskBatches, TrainBatches
from mswitch.tasks.from_task import (
    FromTaskConfig,
    _check,
    _identify_shard,
    _split_language,
    build_from_task,
    draws_randomly,
)
from mswitch.tasks.seqio.registered import Registered, check_task, preprocess

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MODULE = "registered_in_tests"
LENGTHS = Lengths(48, 24)
SEQIO_LENGTHS = {"inputs": 48, "targets": 24}
TEXT = """
import random

import seqio
import tensorflow as tf

VOCABULARY = seqio.SentencePieceVocabulary(MODEL, extra_ids=0)
FEATURES = {name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")}
CACHE = seqio.CacheDatasetPlaceholder()
END = seqio.preprocessors.append_eos_after_trim


def pairs(dataset):
    def pair(line):
        parts = tf.strings.split(line, "\\t")
        return {"inputs": parts[0], "targets": parts[1], "answers": parts[1:]}

    return dataset.map(pair)


@seqio.map_over_dataset(num_seeds=1)
def crop(example, seed):
    start = tf.random.stateless_uniform([], seed, 0, 3, tf.int32)
    return {**example, "inputs": example["inputs"][start:]}


def unseeded(dataset):
    def draw(ids):
        return ids[random.randrange(3) :]

    def one(example):
        ids = tf.py_function(draw, [example["inputs"]], tf.int32)
        return {**example, "inputs": tf.ensure_shape(ids, [None])}

    return dataset.map(one)


def without_targets(dataset):
    return dataset.map(lambda example: {"inputs": example["inputs"]})


def read_elsewhere(dataset):
    return dataset.map(lambda example: {**example, "more": tf.io.read_file("/gone/file")})


def add(name, lang, *after, features=FEATURES, before=(), splits=("train", "validation")):
    seqio.TaskRegistry.add(
        name,
        seqio.TextLineDataSource(
            {split: f"{FOLDER}/{lang}-{split}-*.tsv" for split in splits},
            num_input_examples={"train": 40, "validation": 7},
        ),
        output_features=features,
        preprocessors=[pairs, seqio.preprocessors.tokenize, *before, CACHE, *after, END],
    )


for lang in ("de", "sw"):
    add(f"pairs.{lang}", lang)
add("nameless", "de")
add("evaluated.de", "de", splits=("validation",))
add("cropped.de", "de", crop)
add("cropped_once.de", "de", before=[crop])
add("unseeded.de", "de", unseeded)
add("decoder.de", "de", features={"targets": FEATURES["targets"]})
add("three.de", "de", features={**FEATURES, "more": FEATURES["targets"]})
BYTES = seqio.Feature(seqio.ByteVocabulary())
add("bytes.de", "de", features={**FEATURES, "inputs": BYTES})
seqio.MixtureRegistry.add(
    "pairs_of_all",
    [("pairs.de", 3.0), ("pairs.sw", seqio.mixing_rate_num_examples), ("evaluated.de", 1.0)],
)
add("missing.fr", "fr")
add("without_targets.de", "de", without_targets)
add("read_elsewhere.de", "de", read_elsewhere)
seqio.MixtureRegistry.add("one_of_two_draws", [("pairs.sw", 1.0), ("cropped.de", 1.0)])
"""


@pytest.fixture(scope="module")
def registered(small_examples, tmp_path_factory, monkeypatch_module) -> Path:
    """The folder of a module that registers tasks, in the vocabulary of `small_examples`."""
    folder = tmp_path_factory.mktemp("registered")
    for lang in ("de", "sw"):
        for split, shards in (("train", (25, 15)), ("validation", (7,))):
            for number, lines in enumerate(shards):
                text = "".join(
                    f"all human beings {lang} {split} {number} {line}\tborn free {line}\n"
                    for line in range(lines)
                )
                (folder / f"{lang}-{split}-{number}.tsv").write_text(text)
    model = str(small_examples / VOCABULARY_PATH)
    head = f"FOLDER = {str(folder)!r}\nMODEL = {model!r}\n"
    (folder / f"{MODULE}.py").write_text(head + TEXT)
    monkeypatch_module.syspath_prepend(folder)
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    sys.modules.pop(MODULE, None)


def named(name: str, folder: Path) -> Registered:
    return Registered(name, MODULE, str(folder))


Build = Callable[..., dict[str, Any]]


@pytest.fixture
def build(registered, small_examples) -> Build:
    """Build the examples of a task of this name."""

    def run(name: str, out: Path, **config: Any) -> dict[str, Any]:
        vocabulary = small_examples / VOCABULARY_PATH
        return build_from_task(
            named(name, registered), vocabulary, out, FromTaskConfig(LENGTHS, **config)
        )

    return run


def command(small_examples: Path, out: Path) -> list[str]:
    options = ["--task", "pairs.de", "--module", MODULE, "--lengths", "48,24"]
    places = ["--vocab", str(small_examples / VOCABULARY_PATH), "--out", str(out)]
    return ["examples", "from-task", *options, *places]


def as_pairs(records: Iterable[dict]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(tuple(r["inputs"].tolist()), tuple(r["targets"].tolist())) for r in records]


def pairs_of(source) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return as_pairs(map(source.read, range(len(source))))


@pytest.fixture(scope="module")
def built(registered, small_examples, tmp_path_factory) -> Path:
    """By the command, in the folder of the module."""
    out = tmp_path_factory.mktemp("built") / "pairs"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(registered)
        assert main(command(small_examples, out)) == 0
    return out


def test_examples_are_those_of_get_dataset_shuffled_once(built):
    opened = open_examples(built)
    assert opened.supervised
    assert opened.languages == ("de",)
    for split in ("train", "validation"):
        dataset = seqio.get_mixture_or_task("pairs.de").get_dataset(
            SEQIO_LENGTHS, split=split, shuffle=False
        )
        expected = as_pairs(dataset.as_numpy_iterator())
        found = pairs_of(opened.sources[split]["de"])
        assert sorted(found) == sorted(expected)
        assert found != expected
    record = opened.sources["train"]["de"].read(0)
    [text], [answer] = record["targets_pretokenized"], record["answers"]
    assert text == answer
    assert text.startswith(b"born free ")
    assert record["inputs_pretokenized"][0].startswith(b"all human beings de train")
    batch = TrainBatches(built, 16, pack="next-fit").batch(0)
    assert batch["encoder_segment_ids"].max() >= 1
    assert opened.manifest["task"]["metrics"] == ["exact_match"]
    assert opened.manifest["rows"]["kept"] == 47


def test_examples_with_a_target_that_is_no_label_are_left_out_and_counted(build, tmp_path, capsys):
    labels = tuple(f"born free {line}" for line in range(5))
    build("pairs.de", tmp_path / "out", metrics=("macro_f1",), labels=labels)
    said = "32 examples of pairs.de have a target that is not in --labels"
    assert said in capsys.readouterr().err
    opened = open_examples(tmp_path / "out")
    assert opened.manifest["task"]["labels"] == list(labels)
    assert opened.manifest["rows"] == {"kept": 15, "dropped": {"unknown_label": 32}}
    sources = [source for of_split in opened.sources.values() for source in of_split.values()]
    found = [source.read(row)["answers"] for source in sources for row in range(len(source))]
    assert sorted(found) == sorted([[label.encode()] for label in labels] * 3)


def test_the_same_task_gives_the_same_bytes_and_is_reused(built, build, tmp_path, capsys):
    again = tmp_path / "again"
    assert not build("pairs.de", again)["reused"]
    assert data_bytes(again) == data_bytes(built)
    assert build("pairs.de", again)["reused"]
    assert "already complete" in capsys.readouterr().err


def test_killed_after_its_parts_it_goes_on_to_the_same_bytes(
    built, registered, small_examples, tmp_path, monkeypatch
):
    out, root = tmp_path / "pairs", str(Path(__file__).parents[2])
    monkeypatch.chdir(registered)
    words = command(small_examples, out)
    killed = start_mswitch(*words, PYTHONPATH=root, MSWITCH_FAULT="examples.after_rows")
    end(killed, -signal.SIGKILL)
    assert not out.exists()
    assert "3 of 3 parts already exist" in end(start_mswitch(*words, PYTHONPATH=root))
    assert data_bytes(out) == data_bytes(built)


def test_a_mixture_is_a_directory_for_each_task_and_their_rates(build, tmp_path):
    summary = build("pairs_of_all", tmp_path / "all")
    assert (summary["tasks"], summary["train_records"]) == (3, 80)
    mixture = read_task_mixture(tmp_path / "all" / "multitask.toml")
    rates = {name: task.rate for name, task in mixture.tasks.items()}
    assert rates == {"pairs.de": 3.0, "pairs.sw": 40.0, "evaluated.de": 0.0}
    batches = TaskBatches(mixture, 8)
    shares = {"evaluated.de/de": 0.0, "pairs.de/de": 3 / 43, "pairs.sw/sw": 40 / 43}
    assert batches.rates == shares
    batches.batch(3)


def test_draws_are_frozen_one_after_another(registered, build, tmp_path):
    task = named("cropped.de", registered)
    with pytest.raises(UserError, match=r"cropped.de draws randomly .*: give --epochs N"):
        build("cropped.de", tmp_path / "x")
    build("cropped.de", tmp_path / "one", epochs=3)
    source = open_examples(tmp_path / "one").sources["train"]["de"]
    names = [source.read(index)["id"][0].decode().split("#") for index in range(len(source))]
    assert [draw for _, draw in names] == ["0"] * 40 + ["1"] * 40 + ["2"] * 40
    assert len({name for name, _ in names}) == 40
    found = pairs_of(source)
    assert len(set(found)) > 60
    assert len(open_examples(tmp_path / "one").sources["validation"]["de"]) == 7
    for draw in range(3):
        shards = (
            preprocess(task.find(), "train", LENGTHS, shard=(number, 2), draw=draw)
            for number in range(2)
        )
        expected = as_pairs(itertools.chain(*shards))
        assert sorted(found[40 * draw : 40 * draw + 40]) == sorted(expected)


def test_of_a_mixture_those_tasks_that_draw_are_drawn_several_times(
    registered, small_examples, build, tmp_path
):
    out = tmp_path / "both"
    with pytest.raises(UserError, match=r"cropped.de draws randomly .*: give --epochs N"):
        build("one_of_two_draws", out)
    assert not out.exists()
    with pytest.raises(UserError, match="pairs_of_all draws nothing after its cache"):
        build("pairs_of_all", out, epochs=3)
    assert not out.exists()
    mixture = named("one_of_two_draws", registered).find()
    vocabulary = open_vocabulary(small_examples / VOCABULARY_PATH)
    draws = _check(mixture, vocabulary, FromTaskConfig(LENGTHS, epochs=3))
    assert draws == {"pairs.sw": 1, "cropped.de": 3}


@pytest.mark.parametrize("name", ["cropped.de", "cropped_once.de"])
def test_shards_draw_differently(registered, name):
    def sizes(name: str, number: int) -> list[int]:
        task = named(name, registered).find()
        found = preprocess(task, "train", LENGTHS, shard=(number, 2))
        return [example["inputs"].size for example in found][:15]

    one, other = (
        [full - cut for full, cut in zip(sizes("pairs.de", n), sizes(name, n), strict=True)]
        for n in range(2)
    )
    assert set(one) == set(other) == {0, 1, 2}
    assert one != other


def test_what_a_module_imports_from_its_folder_is_part_of_its_identity(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tasks_with_parts.py").write_text("import part_of_tasks, tabnanny")
    (tmp_path / "part_of_tasks.py").write_text("SIZE = 1")
    (tmp_path / "tabnanny.py").write_text("raise RuntimeError('shadows the one of Python')")
    module = Registered("any", "tasks_with_parts", str(tmp_path))
    before = module.hash_module()
    assert module.hash_module() == before
    (tmp_path / "part_of_tasks.py").write_text("SIZE = 2")
    assert module.hash_module() != before


def test_only_files_are_hashed_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train").write_text("of something else")
    named_so = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])
    assert _identify_shard(named_so, "train") == ["train", ""]
    of_lines = seqio.TextLineDataSource({"train": "train"})
    assert _identify_shard(of_lines, "train") == ["train", file_sha256(Path("train"))]
    assert _identify_shard(named_so, str(tmp_path / "train")) == [
        "train",
        file_sha256(Path("train")),
    ]


def test_what_draws_before_its_cache_is_drawn_once(registered):
    task = named("cropped_once.de", registered).find()
    assert not draws_randomly(task, "train", LENGTHS)
    assert not draws_randomly(named("pairs.de", registered).find(), "train", LENGTHS)
    with pytest.raises(UserError, match=r"unseeded.de yields other examples each time"):
        draws_randomly(named("unseeded.de", registered).find(), "train", LENGTHS)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("decoder.de", r"decoder.de has the features targets \(it is for decoders only\)"),
        ("three.de", "three.de has the features inputs, more, targets: examples have"),
        ("bytes.de", r"inputs of bytes.de has another vocabulary \(259 ids\) than .*new_vocab"),
        ("nameless", "nameless does not end with the code of a language: give --language"),
        ("zzz", f"no task or mixture 'zzz': {MODULE} does not register it"),
        ("missing.fr", "missing.fr has no files of train: repair the task or its files"),
        (
            "without_targets.de",
            r"train cannot be preprocessed \(ValueError: the examples have no targets\)",
        ),
        (
            "read_elsewhere.de",
            r"read_elsewhere.de: train cannot be preprocessed \(NotFoundError: /gone/file; No such "
            r"file or directory\): repair the task or its files$",
        ),
        ("pears.de", "no task or mixture 'pears.de': did you mean 'pairs.de'?"),
    ],
)
def test_tasks_that_do_not_suit_are_refused(build, tmp_path, name, complaint):
    with pytest.raises(UserError, match=complaint):
        build(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_refused(registered, added_examples, small_examples, tmp_path):
    task = named("pairs.de", registered).find()
    with pytest.raises(UserError, match=r"inputs of pairs.de has another vocabulary"):
        check_task(task, open_vocabulary(added_examples / VOCABULARY_PATH))
    copy = shutil.copy(small_examples / VOCABULARY_PATH, tmp_path / "copy.model")
    check_task(task, open_vocabulary(copy))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"--lengths": "512"}, "--lengths 512: give lengths of inputs and targets"),
        ({"--lengths": "12,x"}, "--lengths 12,x: give lengths"),
        ({"--metrics": "rouge"}, "--metrics rouge is unknown"),
        ({"--metrics": "macro_f1"}, "--metrics macro_f1 needs the closed set"),
        (
            {"--metrics": "bleu", "--labels": "born free 1"},
            "--metrics bleu is for free text, and --labels are a closed set",
        ),
        ({"--metrics": "rouge1"}, "pip install 'mswitch[summaries]'"),
        ({"--lengths": "48,2", "--labels": "born free 1,born free 2"}, "end: give --lengths 48,"),
        ({"--labels": "a fine,a ﬁne"}, "have equal tokens"),
        ({"--epochs": "2"}, "draws nothing after its cache"),
        ({"--epochs": "0"}, "--epochs must be at least 1"),
        ({"--module": "no.such"}, "--module no.such: cannot import it"),
        ({"--language": "x/y"}, "unknown language 'x/y'"),
    ],
)
def test_options_that_do_not_suit_are_refused(
    registered, small_examples, tmp_path, capsys, monkeypatch, options, complaint
):
    monkeypatch.chdir(registered)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    words = command(small_examples, tmp_path / "out")
    given = {**dict(zip(words[2::2], words[3::2], strict=True)), **options}
    assert main([*words[:2], *itertools.chain(*given.items())]) == 2
    assert complaint in capsys.readouterr().err


def test_named_languages_are_taken():
    assert _split_language("a.b.he", FromTaskConfig(LENGTHS)) == ("a.b", "iw")
    assert _split_language("a.sr_Latn", FromTaskConfig(LENGTHS)) == ("a", "sr-Latn")
    assert _split_language("a", FromTaskConfig(LENGTHS, language="tl")) == ("a", "fil")
    assert _split_language("a.ast", FromTaskConfig(LENGTHS, language="ast")) == ("a", "ast")
