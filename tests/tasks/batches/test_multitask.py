"""Mixtures of tasks: rates as in seqio, batches from (seed, step), files that are explained."""

import functools
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from example_files import restore
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import vocabulary, write_supervised

from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.mixture_table import describe_mixture
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import (
    TaskMixture,
    WeightedTask,
    open_task_mixture,
    read_task_mixture,
)
from mswitch.tasks.batches.training import TaskBatches, TrainBatches

CODES = ("de", "en", "iw", "ru", "sw", "zh")
COUNTS = st.dictionaries(st.sampled_from(CODES), st.integers(1, 10**8), min_size=1)
WEIGHTS = st.fixed_dictionaries(
    {},
    optional={
        "virtual": st.integers(1, 10**8),
        "cap": st.integers(1, 10**7),
        "scale": st.floats(0.01, 100),
        "task_temperature": st.floats(0.2, 10),
    },
)


@pytest.fixture(scope="module")
def mixed(small_examples, reviews) -> TaskMixture:
    """Corrupted text at three quarters, and reviews in two of its languages."""
    some = Mixture(languages=("en", "sw"), alpha=1)
    text = WeightedTask(str(small_examples), rate=3, mixture=Mixture(alpha=0.3))
    return TaskMixture({"reviews": WeightedTask(str(reviews), rate=1, mixture=some), "text": text})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scale": 27}, 81),
        ({"scale": 27, "task_temperature": 2}, 9),
        ({"scale": 27, "task_temperature": 0.5, "cap": 50.5}, 2550.25),
    ],
)
def test_weights_are_those_of_seqios_own_tests(settings, expected):
    """Three examples, as in its `utils_test.py`."""
    assert WeightedTask("", **settings).weight(3) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=40)
@given(st.lists(st.tuples(COUNTS, WEIGHTS, st.floats(0.05, 2)), min_size=1, max_size=4))
def test_rates_are_those_of_nested_mixtures_of_seqio(drawn):
    import seqio

    def task_of(name: str, size: int) -> seqio.Task:
        source = seqio.FunctionDataSource(
            lambda split, shuffle_files: 0, ["train"], {"train": size}
        )
        return seqio.Task(name, source, {"targets": seqio.Feature(seqio.PassThroughVocabulary(8))})

    tasks, records, outer = {}, {}, []
    for number, (counts, weights, alpha) in enumerate(drawn):
        name = f"task{number}"
        tasks[name] = WeightedTask("", mixture=Mixture(alpha=alpha), **weights)
        records[name] = counts
        rate = functools.partial(seqio.mixing_rate_num_examples, temperature=1 / alpha)
        inner = [(task_of(f"{name}_{lang}", count), rate) for lang, count in counts.items()]
        size = weights.get("virtual") or sum(counts.values())
        rate = seqio.mixing_rate_num_examples(
            task_of(name, size),
            maximum=weights.get("cap"),
            scale=weights.get("scale", 1.0),
            temperature=weights.get("task_temperature", 1.0),
        )
        outer.append((seqio.Mixture(f"{name}_all", inner), rate))
    mixture = seqio.Mixture("outer", outer)
    expected = {
        task.name.replace("_", "/"): mixture.get_rate(task) / mixture.total_rate
        for task in mixture.tasks
    }
    found = TaskMixture(tasks).rates(records)
    assert found == pytest.approx(expected, rel=1e-12)
    assert sum(found.values()) == pytest.approx(1, rel=1e-12)


def test_a_task_alone_is_its_mixture():
    records = {"de": 1000, "sw": 10, "zh": 100}
    mixture = Mixture(alpha=0.5, max_epochs=3)
    alone = open_task_mixture("examples", mixture)
    assert alone.rates({"": records}, 900) == mixture.rates(records, 900)
    assert alone.list_exceeding({"": records}, 10**9) == [""]
    assert alone.definition["alpha"] == 0.5


def test_a_cap_on_epochs_is_one_of_the_tasks_own_share():
    records = {"a": {"de": 10, "en": 1000}, "b": {"de": 10}}
    tasks = {
        "a": WeightedTask("", rate=3, mixture=Mixture(alpha=0, max_epochs=2)),
        "b": WeightedTask("", rate=1),
    }
    rates = TaskMixture(tasks).rates(records, 400)
    assert rates == pytest.approx({"a/de": 20 / 400, "a/en": 280 / 400, "b/de": 100 / 400})
    assert TaskMixture(tasks).list_exceeding(records, 400) == []
    assert TaskMixture(tasks).list_exceeding(records, 4000) == ["a"]


def test_rows_are_of_their_tasks_as_often_as_rates_say(mixed, small_examples, reviews):
    batches = TaskBatches(mixed, 64, seed=3)
    directories = (("reviews", reviews), ("text", small_examples))
    assert batches.languages == tuple(
        f"{task}/{lang}" for task, path in directories for lang in TrainBatches(path, 1).languages
    )
    assert (batches.inputs_length, batches.targets_length) == (64, 12)
    of_text = sum(rate for leaf, rate in batches.rates.items() if leaf.startswith("text/"))
    assert of_text == pytest.approx(0.75)
    assert batches.rates["reviews/iw"] == 0
    counts = dict.fromkeys(batches.languages, 0)

    def read(task: str, feature: str) -> set[tuple[int, ...]]:
        sources = batches.opened[task].sources["train"].values()
        records = (source.read(index) for source in sources for index in range(len(source)))
        return {tuple(record[feature].tolist()) for record in records}

    stored, raw = read("reviews", "inputs"), read("text", "targets")
    for step in range(4096 // 64):  # one window of the mixture
        batch = batches.batch(step)
        names = ("encoder_input_tokens", "decoder_target_tokens", "language")
        for inputs, targets, number in zip(*map(batch.get, names), strict=True):
            leaf = batches.languages[number]
            counts[leaf] += 1
            if leaf.startswith("text/"):
                back = restore(inputs[inputs > 0], targets[targets > 0], batches.vocabulary_size)
                assert tuple(back.tolist()) in raw
            else:
                assert tuple(inputs[inputs > 0].tolist()) in stored
    for leaf, rate in batches.rates.items():
        assert counts[leaf] == pytest.approx(4096 * rate, abs=2)


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("pack", [1, 2])
def test_hosts_together_are_one(mixed, hosts, pack):
    one = TaskBatches(mixed, 16, 5, pack=pack)
    parts = [TaskBatches(mixed, 16, 5, host=n, hosts=hosts, pack=pack) for n in range(hosts)]
    parts[-1] = pickle.loads(pickle.dumps(parts[-1]))
    for step in (0, 7, 10**9):
        made = [part.batch(step) for part in parts]
        for name, values in one.batch(step).items():
            assert np.array_equal(np.concatenate([batch[name] for batch in made]), values), name


def test_two_names_of_one_directory_are_two_streams(small_examples):
    twice = {name: WeightedTask(str(small_examples), rate=1) for name in ("a", "b")}
    batches = TaskBatches(TaskMixture(twice), 512)
    batch = batches.batch(0)
    rows = {"a": set(), "b": set()}
    for inputs, number in zip(batch["encoder_input_tokens"], batch["language"], strict=True):
        rows[batches.languages[number][0]].add(inputs.tobytes())
    assert len(rows["a"] & rows["b"]) < len(rows["a"]) / 2


def test_another_vocabulary_is_refused_by_name(small_examples, added_examples):
    tasks = {"a": WeightedTask(str(small_examples)), "b": WeightedTask(str(added_examples))}
    with pytest.raises(UserError, match=f"{added_examples} has another vocabulary than"):
        TaskBatches(TaskMixture(tasks), 8)


FILE = """
[tasks.text]
directory = "examples"
virtual = 2_620_000

[tasks.reviews]
directory = "../reviews"
cap = 65_536
task_temperature = 2
alpha = 0.5
languages = ["he", "sw"]
"""


def test_a_file_is_read_with_its_directories_beside_it(tmp_path):
    path = tmp_path / "multitask.toml"
    path.write_text(f"\ufeff{FILE}")
    mixture = read_task_mixture(path)
    assert list(mixture.tasks) == ["reviews", "text"]
    assert mixture.tasks["text"] == WeightedTask(f"{tmp_path}/examples", virtual=2_620_000)
    languages = Mixture(languages=("iw", "sw"), alpha=0.5)
    assert mixture.tasks["reviews"] == WeightedTask(
        f"{tmp_path.parent}/reviews", cap=65_536, task_temperature=2, mixture=languages
    )
    assert "directory" not in str(mixture.definition)
    path.write_text('[tasks.a]\ndirectory = "gs://bucket/a"\n')
    assert read_task_mixture(path).directories == ("gs://bucket/a",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tasks", "cannot read the tasks"),
        ("", "give a table [tasks.NAME] for each task"),
        ('[tasks.a]\ndirectory = "x"\n[other]\n', "and nothing else"),
        ("[tasks.a]\ncap = 3\n", 'task a: give it directory = "..."'),
        ('tasks = { a = "x" }', 'task a: give it directory = "..."'),
        ('[tasks."a/b"]\ndirectory = "x"\n', "task a/b: use letters"),
        ('[tasks.a]\ndirectory = "x"\ncap = 0\n', "task a: cap must be at least 1, not 0"),
        ('[tasks.a]\ndirectory = "x"\ncap = "2"\n', "task a: cap = '2' is not a number"),
        ('[tasks.a]\ndirectory = "x"\nscale = -1\n', "scale must be above 0, not -1"),
        ('[tasks.a]\ndirectory = "x"\nrate = -1\n', "rate must be at least 0, not -1"),
        ('[tasks.a]\ndirectory = "x"\nrate = 1\ncap = 2\n', "give a rate, or virtual"),
        ('[tasks.a]\ndirectory = "x"\nalhpa = 1\n', "has no 'alhpa', it has languages"),
        ('[tasks.a]\ndirectory = "x"\nlanguages = ["x/y"]\n', "task a: "),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, complaint):
    path = tmp_path / "multitask.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(complaint)) as raised:
        read_task_mixture(path)
    assert str(path) in str(raised.value)


def test_what_does_not_go_together_is_refused(tmp_path, small_examples):
    path = tmp_path / "multitask.toml"
    shutil.copytree(small_examples, tmp_path / "examples")
    path.write_text('[tasks.a]\ndirectory = "examples"\nrate = 0\n')
    with pytest.raises(UserError, match="leave --mixture out"):
        open_task_mixture(path, Mixture(alpha=1))
    with pytest.raises(UserError, match="rate is 0 for all of a"):
        TaskBatches(open_task_mixture(path, Mixture()), 8)
    path.write_text('[tasks.a]\ndirectory = "examples"\nlanguages = ["yo"]\n')
    with pytest.raises(UserError, match="task a: the mixture names yo, but the examples"):
        TaskBatches(open_task_mixture(path), 8)
    only = tmp_path / "only"
    words = ["ag", "bh", "ci"]
    rows = [(f"{number}", words[number % 3] * 3, words[number % 2]) for number in range(9)]
    write_supervised(only, {"de": {"test": rows}}, vocabulary(words))
    with pytest.raises(
        UserError, match=r"only only has test examples, for prediction or evaluation: "
    ):
        TrainBatches(only, 8)
    path.write_text('[tasks.a]\ndirectory = "only"\n')
    with pytest.raises(UserError, match=r"task a: \S+only only has test examples"):
        describe_mixture(open_task_mixture(path), 1, 8)
    path.write_text('[tasks.a]\ndirectory = "none"\n')
    with pytest.raises(UserError, match="none does not exist"):
        TaskBatches(open_task_mixture(Path(path)), 8)
