import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_files import read_json
from example_files import open_tfrecord
from supervised_files import ALL_KINDS, LABELS, TASK, json_lines, rows, write_kinds, write_task
from trees import data_bytes

from mswitch.flows.cli.app import run
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.example_proto import decode_example
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.supervised import directory, shards
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.split import choose_split, fold, hash_group
from mswitch.pipelines.vocabulary.model import MODEL_FILE, load_vocabulary

CONFIG = SupervisedConfig(inputs_length=24, targets_length=12)
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    write_kinds(folder)
    return write_task(folder, ALL_KINDS)


@pytest.fixture(scope="module")
def reviews(task: Path, small_vocabulary: Path) -> Path:
    out = task.with_name("reviews")
    build_supervised(task, small_vocabulary, out, CONFIG)
    return out


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, small_vocabulary: Path) -> Build:
    """Build a task, or one of these rows or bytes, in the folder of the test."""

    def run(task: Path | list | bytes, config=CONFIG, text=TASK) -> Path:
        if not isinstance(task, Path):
            content = task if isinstance(task, bytes) else json_lines(task)
            (tmp_path / "rows").write_bytes(content)
            task = write_task(tmp_path, '"rows"\nsplit = "hash"', text)
        build_supervised(task, small_vocabulary, tmp_path / "out", config)
        return tmp_path / "out"

    return run


def records(directory: Path) -> list[tuple[str, str, dict]]:
    """Language, split and features of every record, in order."""
    found = []
    for lang, splits in read_json(directory / "manifest.json")["languages"].items():
        for split, entry in splits.items():
            for shard in entry["shards"]:
                assert file_sha256(directory / shard["path"]) == shard["sha256"]
                file = open_tfrecord(directory / shard["path"])
                found += [(lang, split, decode_example(data)) for data in file]
    return found


def test_every_row_of_every_kind_of_file_becomes_one_example(reviews, small_vocabulary):
    vocabulary = load_vocabulary(small_vocabulary / MODEL_FILE)
    expected = {
        (
            {"he": "iw"}.get(row["lang"], row["lang"]),
            f"sentiment: {row['title']}",
            LABELS[int(row["label"])],
            hash_group(row["product"]),
        )
        for row in rows(500)
    }
    found = set()
    for lang, split, features in records(reviews):
        texts = {name: values for name, values in features.items() if isinstance(values, list)}
        [inputs], [targets] = (texts[f"{name}_pretokenized"] for name in ("inputs", "targets"))
        [group], [own] = texts["group"], texts["id"]
        assert texts["language"] == [lang.encode()]
        assert texts["answers"] == [targets]
        assert split == choose_split(group.decode())
        assert features["inputs"].tolist() == [*vocabulary.EncodeAsIds(inputs.decode())[:23], 1]
        assert features["targets"].tolist() == [*vocabulary.EncodeAsIds(targets.decode()), 1]
        assert own.decode().partition(":")[0] in ("plain", "gzip", "zstd", "tsv", "parquet")
        found.add((lang, inputs.decode(), targets.decode(), group.decode()))
    assert found == expected
    assert len(records(reviews)) == 500


def test_the_manifest_says_what_was_made(reviews):
    manifest = read_json(reviews / "manifest.json")
    assert manifest["kind"] == "supervised"
    assert manifest["finished"] is True
    assert (manifest["inputs_length"], manifest["targets_length"]) == (24, 12)
    assert manifest["task"] == {
        "name": "reviews",
        "inputs": "sentiment: {title}",
        "targets": "{label}",
        "labels": ["negative", "positive"],
        "metrics": ["accuracy", "macro_f1"],
        "hash": manifest["task"]["hash"],
    }
    assert manifest["rows"] == {"kept": 500, "dropped": {}}
    assert manifest["overlap"] == {}
    trimmed = sum(
        features["inputs"].size == 24 for *_, features in records(reviews)
    )  # at most: some fit exactly
    assert manifest["trimmed"]["inputs"] <= trimmed
    assert manifest["trimmed"]["targets"] == 0
    assert set(manifest["languages"]) == {"en", "iw", "sr-Latn", "sw"}


def test_no_working_files_are_left(reviews):
    assert {path.name for path in reviews.parent.iterdir() if path.is_dir()} == {"reviews"}


def test_records_of_a_language_are_shuffled_as_a_whole(reviews):
    order = [
        features["id"][0].decode()
        for lang, split, features in records(reviews)
        if (lang, split) == ("en", "train")
    ]
    files = [name.partition(":")[0] for name in order]
    assert len({*files[: len(files) // 4]}) == 5
    assert order != sorted(order)


def test_built_again_it_is_the_same_bytes_in_any_number_of_processes_and_blocks(
    task, small_vocabulary, reviews, tmp_path, monkeypatch
):
    options = ["--direct_num_workers=1"]
    build_supervised(task, small_vocabulary, tmp_path / "1", CONFIG, beam_options=options)
    assert data_bytes(tmp_path / "1") == data_bytes(reviews)
    monkeypatch.setattr(shards, "BLOCK_ROWS", 7)
    monkeypatch.setattr(shards, "CALL_ROWS", 3)
    build_supervised(task, small_vocabulary, tmp_path / "2", CONFIG, beam_options=options)
    assert data_bytes(tmp_path / "2") == data_bytes(reviews)


def test_shards_are_ranges_of_one_order(task, small_vocabulary, reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "SHARD_ROWS", 40)
    build_supervised(task, small_vocabulary, tmp_path / "out", CONFIG)
    entry = read_json(tmp_path / "out/manifest.json")["languages"]["en"]["train"]
    assert len(entry["shards"]) == 3
    ids = [
        [features["id"] for lang, split, features in records(folder) if lang == "en"]
        for folder in (tmp_path / "out", reviews)
    ]
    assert ids[0] == ids[1]


def test_files_by_split(tmp_path, build):
    for number, split in enumerate(SPLITS):
        (tmp_path / split).write_bytes(json_lines(rows(30, 30 * number)))
    files = '{ train = "train", validation = ["validation"], test = "test" }'
    found = dict.fromkeys(SPLITS, 0)
    for _, split, features in records(build(write_task(tmp_path, files))):
        assert features["id"][0].decode().startswith(f"{split}:")
        found[split] += 1
    assert found == dict.fromkeys(SPLITS, 30)


@pytest.fixture
def overlapping_task(tmp_path) -> Path:
    """Of 26 rows of test, 6 have inputs of train and 3 others a group of it."""
    groups = [{**row, "product": f"of train {n}"} for n, row in enumerate(rows(30))]
    shared = [{**row, "title": f"{row['title'].upper()}!"} for row in rows(6)]
    own = [
        {**row, "product": "OF TRAIN: 29" if n < 3 else "q"} for n, row in enumerate(rows(20, 30))
    ]
    (tmp_path / "train").write_bytes(json_lines(groups))
    (tmp_path / "test").write_bytes(json_lines([*shared, *own]))
    return write_task(tmp_path, '{ train = "train", test = "test" }')


def test_overlap_is_refused_counted_and_allowed(overlapping_task, build, capsys):
    with pytest.raises(UserError) as error:
        build(overlapping_task)
    assert (
        "splits of reviews overlap: 9 rows of test have inputs or a group of an earlier split "
        "(en 3, iw 2, sr-Latn 2, ...), such as test:1 (train:1 has its inputs): leave out the rows"
    ) in str(error.value)
    out = build(overlapping_task, dataclasses.replace(CONFIG, allow_overlap=True))
    assert "overlap: 9 rows of test" in capsys.readouterr().err
    overlap = read_json(out / "manifest.json")["overlap"]
    assert overlap["en"] == {"test": {"rows": 3, "groups": 1, "inputs": 2, "pairs": 2}}
    with pytest.raises(UserError, match="overlap"):  # it is there, and still not wanted
        build(overlapping_task)


def test_a_group_in_two_splits_is_named_by_file_and_line(tmp_path, build):
    (tmp_path / "train").write_bytes(json_lines(rows(30)))
    # In another language, and not the first row of its file.
    group = {**rows(1, 40)[0], "product": "P9", "lang": "sw"}
    (tmp_path / "dev").write_bytes(json_lines([*rows(3, 99), group]))
    files = '{ train = "train", validation = "dev" }'
    with pytest.raises(UserError, match=r"1 rows of validation .* dev:4 \(train:28 has its group"):
        build(write_task(tmp_path, files))
    # A group whose name counts anew in each file has its split in the name.
    out = build(write_task(tmp_path, files, TASK.replace('"{product}"', '"{split} {product}"')))
    assert read_json(out / "manifest.json")["overlap"] == {}


def test_overlap_is_dropped_from_the_earlier_split(overlapping_task, build, capsys):
    drop = dataclasses.replace(CONFIG, drop_overlap=True)
    out = build(overlapping_task, drop)
    assert "7 rows dropped as overlap, the first at train:1 (test:1 has its inputs)" in (
        capsys.readouterr().err
    )
    manifest = read_json(out / "manifest.json")
    assert manifest["overlap"] == {}
    assert manifest["rows"] == {"kept": 49, "dropped": {"overlap": 7}}
    places = [("test", n + 1) for n in range(26)] + [("train", n + 1) for n in range(6, 29)]
    kept = {features["id"][0].decode() for *_, features in records(out)}
    assert kept == {f"{split}:{number}" for split, number in places}
    with pytest.raises(UserError, match=r"other settings or inputs \(changed: drop_overlap\)"):
        build(overlapping_task)
    with pytest.raises(UserError, match="give --allow-overlap or --drop-overlap, not both"):
        dataclasses.replace(drop, allow_overlap=True)


def test_rows_with_one_text_are_in_one_split_by_default(build):
    twice = [
        {**row, "title": text} for row in rows(100) for text in (row["title"], f"{row['title']}?")
    ]
    out = build(twice, text=TASK.replace('group = "{product}"', ""))
    assert read_json(out / "manifest.json")["overlap"] == {}
    by_text: dict[str, set[str]] = {}
    for _, split, features in records(out):
        by_text.setdefault(fold(features["inputs_pretokenized"][0].decode()), set()).add(split)
    assert len(by_text) == 100
    assert {len(splits) for splits in by_text.values()} == {1}


def test_rows_that_cannot_be_used_are_named_three_at_a_time(build):
    values = rows(60)
    for number in (3, 5, 10, 15):
        values[number]["label"] = "2"
    why = r"\('2' is not in labels \(0, 1\)\)"
    message = rf" rows:4 {why}, rows:6 {why}, rows:11 {why}: correct the task or the rows$"
    with pytest.raises(UserError, match=message):
        build(values)


NO_LABELS = TASK.replace('labels = { 0 = "negative", 1 = "positive" }', "")


@pytest.mark.parametrize(
    ("content", "text", "message"),
    [
        (
            json_lines(rows(60)) + b"{\n" + json_lines(rows(60)),
            TASK,
            r"reviews has rows .*, such as rows:61 \(Expecting",
        ),
        (
            [*rows(5), {**rows(1)[0], "label": " "}],
            NO_LABELS,
            r"rows:6 \(targets are empty, which only metric span_f1 counts\)",
        ),
        (b"title\tlabel\tlang\tproduct\n", TASK, "reviews has no usable row"),
    ],
    ids=["a line that cannot be read", "empty targets", "no row"],
)
def test_rows_that_are_refused(build, content, text, message):
    with pytest.raises(UserError, match=message):
        build(content, text=text)


def test_rows_without_spans_count(build):
    values = [{**row, "label": "" if n % 5 else "PER: rick"} for n, row in enumerate(rows(100))]
    targets = [
        (features["targets"].tolist() == [1], features["answers"], features["targets_pretokenized"])
        for *_, features in records(build(values, text=NO_LABELS + 'metrics = ["span_f1"]'))
    ]
    assert targets.count((True, [b""], [b""])) == 80
    assert len(targets) == 100


def test_languages_that_mc4_lacks_are_kept_under_their_own_code(build, capsys):
    others = ("ast", "zh_classical", "pcm")
    values = [{**row, "lang": others[n % 3]} if n % 2 else row for n, row in enumerate(rows(300))]
    out = build(values)
    manifest = read_json(out / "manifest.json")
    assert manifest["rows"] == {"kept": 300, "dropped": {}}
    assert set(manifest["languages"]) == {"en", "iw", "ast", "zh-classical", "pcm"}
    assert (out / "reviews.zh_classical/train.tfrecord-00000-of-00001").is_file()
    assert {lang for lang, _, features in records(out) if b"ast" in features["language"]} == {"ast"}
    said = "does not know keep their codes: ast (50 rows), pcm (50 rows), zh-classical (50 rows)\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "length", "message"),
    [
        (("negative", "fine"), 3, r"label 'negative' of reviews has \d+ tokens with its end: give"),
        (("a fine", "a ﬁne"), 12, "label 'a ﬁne' of reviews and 'a fine' have equal tokens"),
        ((" fine", "bad"), 12, "label ' fine' of reviews becomes 'fine'"),
        (("ﬁne", "bad"), 12, "label 'ﬁne' of reviews becomes 'fine'"),
        (("½", "bad"), 12, "label '½' of reviews becomes '1⁄2'"),
    ],
)
def test_labels_that_a_model_could_not_give_are_refused(build, labels, length, message):
    text = TASK.replace("negative", labels[0]).replace("positive", labels[1])
    with pytest.raises(UserError, match=message):
        build(rows(30), SupervisedConfig(24, length), text)


def test_targets_that_are_cut_too_often_are_refused(build):
    text = NO_LABELS.replace('"{label}"', '"{title}"')
    with pytest.raises(UserError, match=r"validation targets of .*: give \d+ to keep all"):
        build(rows(300), SupervisedConfig(64, 4), text)
    out = build(rows(300), SupervisedConfig(64, 64), text)
    assert read_json(out / "manifest.json")["trimmed"]["targets"] == 0


def test_targets_of_a_small_test_are_not_cut_beside_a_large_validation(tmp_path, build):
    long = [{**row, "label": row["title"]} for row in rows(3, 402)]
    (tmp_path / "validation").write_bytes(json_lines(rows(400)))
    (tmp_path / "test").write_bytes(json_lines(long))
    files = '{ validation = "validation", test = "test" }'
    with pytest.raises(UserError, match=r"3 of 3 test targets of reviews are longer than"):
        build(write_task(tmp_path, files, NO_LABELS))


def test_text_never_becomes_a_sentinel(build):
    text = TASK.replace('"negative"', '"<extra_id_0>"')
    values = [{**row, "title": f"<extra_id_1> {row['title']}"} for row in rows(30)]
    for *_, features in records(build(values, SupervisedConfig(64, 32), text)):
        assert max(features["inputs"].max(), features["targets"].max()) < 1100


@pytest.mark.kill
@pytest.mark.parametrize("point", ["examples.after_files", "examples.after_rows"])
def test_a_killed_build_continues_with_the_same_bytes(
    task, small_vocabulary, reviews, tmp_path, point
):
    command = [sys.executable, "-m", "mswitch.flows.cli.main", "examples", "supervised"]
    command += ["--task", task, "--vocab", small_vocabulary, "--out", tmp_path / "out"]
    command += ["--inputs-length", "24", "--targets-length", "12", "--json"]
    killed = subprocess.run(
        command, env={**os.environ, "MSWITCH_FAULT": point}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    # Another worker may have written its file too when the first one killed them all.
    there = "5" if point == "examples.after_rows" else "[12]"
    assert re.search(f"{there} of 5 files already exist", again.stderr)
    assert json.loads(again.stdout)["train_records"] > 300
    assert data_bytes(tmp_path / "out") == data_bytes(reviews)


def test_the_command_teaches_and_refuses_in_one_line(tmp_path, small_vocabulary, capsys):
    assert run(["examples", "supervised", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("labels = { 0", "--allow-overlap", 'split = "hash"'):
        assert part in text
    arguments = ["--task", str(tmp_path / "no.toml"), "--vocab", str(small_vocabulary)]
    with pytest.raises(UserError, match=r"cannot read the task .*no\.toml"):
        run(["examples", "supervised", *arguments, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('metrics = ["f0"]\n#', "metric 'f0' is unknown: choose among accuracy, "),
        ('metrics = ["macro_f1"]\n#', "macro_f1 needs the closed set of targets: .* `labels`"),
        ('metrics = ["wsc_accuracy"]\n#', "wsc_accuracy needs two answers .* `answers`"),
        ('metrics = ["bleu"]\nlabels =', "metric bleu is for free text, but the task"),
    ],
)
def test_metrics_are_checked_before_anything_is_read(tmp_path, small_vocabulary, entries, message):
    (tmp_path / "rows").write_text("")
    task = write_task(tmp_path, '"rows"\nsplit = "hash"', TASK.replace("labels =", entries))
    arguments = ["--task", str(task), "--vocab", str(small_vocabulary)]
    with pytest.raises(UserError, match=rf"task\.toml: .*{message}"):
        run(["examples", "supervised", *arguments, "--out", str(tmp_path / "out")])
