"""Predictions of a run, their metrics, and the choice of a checkpoint."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sentencepiece
import train_child as child
from example_files import write_examples
from processes import end, start_mswitch
from task_files import vocabulary, write_supervised
from trained_runs import parameters_of, skeleton_of, train_model

from mswitch.flows.cli.app import run as run_command
from mswitch.models.config import PredictConfig, TrainConfig
from mswitch.models.inference.best_checkpoint import select
from mswitch.models.inference.decode import make_decoder
from mswitch.models.inference.decoding_batches import pad_length
from mswitch.models.inference.labels import make_label_scorer
from mswitch.models.inference.predict import answer, predict
from mswitch.models.inference.prediction_scores import format_scores
from mswitch.models.training.run_directory import MARKER
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.special_tokens import EOS_ID
from mswitch.tasks.metric_intervals import score
from mswitch.tasks.metrics.registry import make_metric

WORDS = [f"{a}{b}" for a in "abcdef" for b in "ghijk"]
LABELS = ("left", "right", "middle")
MODEL = vocabulary([*WORDS, *LABELS])
BATCH_OF_4 = PredictConfig(batch_size=4)


def rows(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Rows whose inputs have different lengths, two of a group."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = rng.choice(WORDS, rng.integers(1, 30))
        found.append((f"g{number // 2}", " ".join(words), str(rng.choice(LABELS))))
    return found


def splits(seed: int) -> dict:
    return {"train": rows(12, seed), "validation": rows(13, seed + 1), "test": rows(12, seed + 2)}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tasks") / "examples"
    languages = {"de": splits(0), "sw": splits(10)}
    return write_supervised(
        out, languages, MODEL, labels=LABELS, metrics=("accuracy", "macro_f1"), lengths=(64, 8)
    )


@pytest.fixture(scope="module")
def open_task(tmp_path_factory) -> Path:
    """The same without a closed set."""
    out = tmp_path_factory.mktemp("open") / "examples"
    return write_supervised(out, {"de": splits(0)}, MODEL, metrics=("chrf",), lengths=(64, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tasks) -> Path:
    """A sparse run of three steps, each of them kept."""
    out = tmp_path_factory.mktemp("run") / "run"
    rows = json.loads((tasks / "manifest.json").read_text())["vocabulary_size"]
    model = child.plan("mswitch-tiny", 3).model
    model = dataclasses.replace(model, vocabulary_size=rows + 3, init_scale=2.0)
    config = TrainConfig(steps=3, batch_size=4, dtype="float32", eval_every=1, warmup_steps=1)
    train_model("mswitch-tiny", model, tasks, out, config)
    return out


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the run without predictions."""
    ignored = shutil.ignore_patterns("predictions", "selected.json", "tensorboard")
    return Path(shutil.copytree(run, tmp_path / "run", ignore=ignored))


def processor() -> sentencepiece.SentencePieceProcessor:
    made = sentencepiece.SentencePieceProcessor()
    made.LoadFromSerializedProto(MODEL)
    return made


def alone(inputs: str) -> np.ndarray:
    """The tokens of a text, in a batch of one, padded to the longest length."""
    tokens = [*processor().EncodeAsIds(inputs)[:63], EOS_ID]
    return np.pad(np.array([tokens], np.int32), ((0, 0), (0, 64 - len(tokens))))


def test_labels_are_the_likeliest_of_each_row_alone(copy, tasks):
    summary = predict(copy, tasks, "validation", BATCH_OF_4, step=3)
    table = pq.read_table(summary["out"]).to_pylist()
    assert [row["language"] for row in table] == ["de"] * 13 + ["sw"] * 13
    assert [row["id"] for row in table][:2] == ["validation:0", "validation:1"]
    assert [(r["group"], r["inputs"], r["targets"]) for r in table[:13]] == rows(13, 1)
    assert {pad_length(int((alone(row["inputs"]) > 0).sum())) for row in table} == {32, 64}
    labels = [[*processor().EncodeAsIds(label), EOS_ID] for label in LABELS]
    scorer, parameters = make_label_scorer(skeleton_of(copy), labels), parameters_of(copy, 3)
    for row in table[::3]:
        scores = np.asarray(scorer(parameters, alone(row["inputs"])))[0]
        assert row["prediction"] == LABELS[scores.argmax()]
        assert row["score"] == pytest.approx(scores.max(), rel=1e-4)


def test_metrics_are_those_of_the_table(copy, tasks):
    summary = predict(copy, tasks, "validation", BATCH_OF_4, step=2)
    noted = json.loads(Path(summary["out"]).with_suffix(".json").read_text())
    assert (noted["step"], noted["task"]["name"]) == (2, "toy")
    table = pq.read_table(summary["out"]).to_pylist()
    common = max(LABELS, key=[row["targets"] for row in table].count)
    values = []
    for lang in ("de", "sw"):
        found = [row for row in table if row["language"] == lang]
        answers = [row["answers"] for row in found]
        for name in ("accuracy", "macro_f1"):
            metric = make_metric(name, LABELS, lang)
            groups = [row["group"] for row in found]
            wanted = score(metric, answers, [row["prediction"] for row in found], groups)
            of_language = summary["languages"][lang][name]
            assert of_language["value"] == wanted.value
            assert (of_language["low"], of_language["high"]) == (wanted.low, wanted.high)
            assert (of_language["rows"], of_language["groups"]) == (13, 7)
            assert of_language["majority"] == metric(answers, [common] * 13)
        values.append(summary["languages"][lang]["accuracy"]["value"])
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert summary["invalid"] == 0
    of_all = summary["all"]["accuracy"]
    assert of_all["value"] == pytest.approx(np.mean(values))  # as many rows of each
    assert (of_all["rows"], of_all["majority"]) == (26, pytest.approx(900 / 26))


@pytest.mark.filterwarnings("ignore")
def test_seqios_evaluator_has_the_same_rows_in_the_same_order(copy, tasks):
    """Predictions given to it row by row; the metrics on both sides are ours."""
    import seqio

    from mswitch.tasks.seqio.supervised import register

    summary = predict(copy, tasks, "validation", BATCH_OF_4, step=3)
    table = pq.read_table(summary["out"]).to_pylist()
    for name, lang in zip(register(tasks), ("de", "sw"), strict=True):
        found = [row for row in table if row["language"] == lang]

        def predicted(dataset, model_feature_shapes=None, found=found):
            outputs = []
            for (index, features), row in zip(dataset.as_numpy_iterator(), found, strict=True):
                tokens = features["encoder_input_tokens"]
                assert tokens.tolist() == alone(row["inputs"])[0, : len(tokens)].tolist()
                outputs.append((index, [*processor().EncodeAsIds(row["prediction"]), EOS_ID]))
            return outputs

        evaluator = seqio.Evaluator(
            name,
            feature_converter=seqio.EncDecFeatureConverter(pack=False),
            eval_split="validation",
            sequence_length={"inputs": 64, "targets": 8},
            logger_cls=(),
            use_memory_cache=False,
        )
        metrics, *_ = evaluator.evaluate(
            compute_metrics=True, predict_fn=predicted, score_fn=lambda *_: []
        )
        theirs = metrics.result() if hasattr(metrics, "result") else metrics
        for metric in ("accuracy", "macro_f1"):
            ours = summary["languages"][lang][metric]["value"]
            assert theirs[name][metric] == pytest.approx(ours)
        assert 0 < theirs[name]["accuracy"] < 100


OWN_TASK = """
import numpy as np
import seqio
import tensorflow as tf

FEATURES = {
    name: seqio.Feature(seqio.SentencePieceVocabulary(MODEL, extra_ids=0))
    for name in ("inputs", "targets")
}


def parts(dataset):
    def one(line):
        weight, inputs, targets = tf.unstack(tf.strings.split(line, "\\t"), 3)
        weight = tf.strings.to_number(weight)
        return {"weight": weight, "inputs": inputs, "targets": targets}

    return dataset.map(one)


def weighted(text, example, is_target):
    return (text.upper(), float(example["weight"])) if is_target else text.upper()


def right_of_weight(targets, predictions):
    right = [text == given for (text, _), given in zip(targets, predictions, strict=True)]
    weights = [weight for _, weight in targets]
    return {"weighted": np.float32(np.average(right, weights=weights)), "none": float("nan")}


def longest(targets, predictions):
    return {"longest": seqio.metrics.Text(max(predictions, key=len)), "rows": len(targets)}


def likelihood(targets, scores):
    raise AssertionError("predict has no scores")


seqio.TaskRegistry.add(
    "weighed.de",
    seqio.TextLineDataSource({"validation": FOLDER + "/*.tsv"}),
    output_features=FEATURES,
    preprocessors=[
        parts, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim
    ],
    postprocess_fn=weighted,
    metric_fns=[right_of_weight, likelihood],
    metric_objs=[
        seqio.metrics.PassthroughLegacyMetric.from_metric_fn(longest, weighted).empty()
    ],
)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_seqio_is_scored_as_its_evaluator_does(
    copy, tasks, tmp_path, monkeypatch, capsys
):
    import seqio

    for number in range(2):
        lines = [
            f"{1 + row % 3}\t{inputs}\t{targets}\n"
            for row, (_, inputs, targets) in enumerate(rows(9, number))
        ]
        (tmp_path / f"{number}.tsv").write_text("".join(lines))
    model = tasks / "vocabulary/sentencepiece.model"
    head = f"FOLDER = {str(tmp_path)!r}\nMODEL = {str(model)!r}\n"
    (tmp_path / "weighed_tasks.py").write_text(head + OWN_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    out = tmp_path / "weighed"
    build = ["examples", "from-task", "--task", "weighed.de", "--module", "weighed_tasks"]
    build += ["--vocab", str(model), "--lengths", "64,8", "--out", str(out)]
    assert run_command([*build, "--metrics", "accuracy", "--labels", ",".join(LABELS)]) == 0
    assert "weighed.de has 1 metrics, which mswitch predict leaves out" in capsys.readouterr().err
    found = predict(copy, out, "validation", BATCH_OF_4, step=3)
    by_inputs = {
        row["inputs"]: row["prediction"] for row in pq.read_table(found["out"]).to_pylist()
    }

    def predicted(dataset):
        outputs = []
        for index, features in dataset.as_numpy_iterator():
            tokens = features["encoder_input_tokens"]
            text = processor().DecodeIds([int(one) for one in tokens if one > EOS_ID])
            answer = [*processor().EncodeAsIds(by_inputs[text]), EOS_ID]
            outputs.append((index, np.pad(answer, (0, 8 - len(answer)))))
        return outputs

    of_type = seqio.metrics.ModelOutputType
    evaluator = seqio.Evaluator(
        "weighed.de",
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        sequence_length={"inputs": 64, "targets": 8},
    )
    task = evaluator.eval_tasks[0]
    with pytest.raises(AssertionError, match="no scores"):
        task.score_metric_fns[0]([], [])
    task.metric_objs[:] = [one for one in task.metric_objs if one.model_output_type == of_type(1)]
    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predicted)
    theirs = metrics.result()["weighed.de"]
    assert 0 < theirs["weighted"] < 1
    assert found["seqio"] == {
        "weighted": pytest.approx(float(theirs["weighted"])),
        "none": None,
        "longest": theirs["longest"].textdata,
        "rows": 18,
    }
    noted = json.loads(Path(found["out"]).with_suffix(".json").read_text())
    assert noted["seqio"] == found["seqio"]
    shown = format_scores(found, ["accuracy"]).splitlines()
    weighted = f"weighted (the task's own): {found['seqio']['weighted']:.6g}"
    assert shown[-2:] == ["rows (the task's own): 18", weighted]
    limited = predict(copy, out, "validation", PredictConfig(limit=5), step=2)
    assert limited["seqio"]["rows"] == 5
    # Elsewhere its module is not found, and other lines are other examples.
    (tmp_path / "0.tsv").write_text("1\tag\tnone\n" * 9)
    with pytest.raises(
        UserError, match="yields 9 of the 18 validation examples that were made from"
    ):
        predict(copy, out, "validation", BATCH_OF_4, step=3)
    monkeypatch.setattr(
        "mswitch.tasks.seqio.registered._import_module", lambda module: importlib.import_module("x")
    )
    with pytest.raises(UserError, match="run this in the folder of weighed_tasks, or give --no-"):
        predict(copy, out, "validation", BATCH_OF_4, step=1)
    without = dataclasses.replace(BATCH_OF_4, own_metrics=False)
    assert "seqio" not in predict(copy, out, "validation", without, step=1)


@pytest.mark.parametrize("decode", ["greedy", "beam"])
def test_what_is_written_depends_on_no_batch(copy, open_task, decode):
    config = dataclasses.replace(BATCH_OF_4, decode=decode, beams=2)
    summary = predict(copy, open_task, "validation", config, step=3)
    table = pq.read_table(summary["out"]).to_pylist()
    assert "majority" not in summary["languages"]["de"]["chrf"]
    texts = [row["inputs"] for row in table]
    one = dataclasses.replace(config, batch_size=1)
    found = answer(copy, open_task, texts[:3][::-1], one, step=3)["texts"][::-1]
    assert [each["prediction"] for each in found] == [row["prediction"] for row in table[:3]]
    for each, row in zip(found, table, strict=False):
        assert each["score"] == pytest.approx(row["score"], rel=1e-4)
    if decode == "greedy":
        decoder = make_decoder(skeleton_of(copy), 8, pieces=processor().GetPieceSize())
        outputs = decoder(parameters_of(copy, 3), alone(texts[0]))
        tokens = [int(token) for token in outputs.tokens[0] if token > EOS_ID]
        assert table[0]["prediction"] == processor().DecodeIds(tokens)


@pytest.mark.training
def test_two_devices_predict_as_one(copy, tasks):
    one = predict(copy, tasks, "validation", BATCH_OF_4, step=3)
    before = Path(one["out"]).rename(copy / "one.parquet")
    words = ("--step", "3", "--batch-size", "4", "--tasks", tasks, "--data-parallel", "2")
    end(start_mswitch("predict", "--run", copy, *words, devices=2))
    there, here = (pq.read_table(path).to_pylist() for path in (one["out"], before))
    for row, other in zip(there, here, strict=True):
        assert row["prediction"] == other["prediction"]
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)


def test_a_step_is_chosen_on_validation_and_test_is_read_from_it(copy, tasks, capsys):
    with pytest.raises(UserError, match=r"several checkpoints: choose one on validation first"):
        predict(copy, tasks, "test", BATCH_OF_4)
    chosen = select(copy, tasks, BATCH_OF_4)
    values = {
        step: predict(copy, tasks, "validation", BATCH_OF_4, step=step)["mean"]["accuracy"]
        for step in (1, 2, 3)
    }
    assert chosen["values"] == {str(step): value for step, value in values.items()}
    assert chosen["step"] == min(s for s in values if values[s] == max(values.values()))
    assert json.loads((copy / "selected.json").read_text())["step"] == chosen["step"]
    first = predict(copy, tasks, "test", BATCH_OF_4)
    assert (first["step"], first["test_reads"], first["reused"]) == (chosen["step"], 1, False)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")}
    select(copy, tasks, BATCH_OF_4)
    again = predict(copy, tasks, "test", BATCH_OF_4)
    assert (again["test_reads"], again["reused"]) == (1, True)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")} == before
    other = next(step for step in (1, 2, 3) if step != chosen["step"])
    with pytest.raises(UserError, match=r"was already read from step .*--again"):
        predict(copy, tasks, "test", BATCH_OF_4, step=other)
    assert predict(copy, tasks, "test", BATCH_OF_4, step=other, again=True)["test_reads"] == 2
    capsys.readouterr()
    options = ["--run", str(copy), "--split", "test", "--batch-size", "4", "--again"]
    assert run_command(["predict", *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "test read 2 times" in shown[0]
    assert shown[1].split() == ["language", "rows", "accuracy", "majority", "macro_f1", "majority"]
    assert [line.split()[0] for line in shown[2:]] == ["de", "sw", "all", "mean"]


def test_what_is_refused_is_no_reading_of_test(copy, tasks, tmp_path):
    validation = {"de": {"validation": rows(3, 0)}}
    without = write_supervised(tmp_path / "without", validation, MODEL, labels=LABELS)
    with pytest.raises(UserError, match="has no test examples"):
        predict(copy, without, "test", BATCH_OF_4, step=2)
    assert predict(copy, tasks, "test", BATCH_OF_4, step=3)["test_reads"] == 1
    with pytest.raises(UserError, match="was made with other settings"):
        predict(copy, tasks, "test", PredictConfig(limit=2), step=3)
    assert predict(copy, tasks, "test", BATCH_OF_4, step=3)["test_reads"] == 1


def test_of_equal_steps_the_earliest_is_chosen(copy, tasks, monkeypatch):
    monkeypatch.setattr(
        "mswitch.models.inference.predict.score_predictions",
        lambda table, task: {"mean": {"accuracy": 50.0}},
    )
    assert select(copy, tasks, BATCH_OF_4)["step"] == 1


@pytest.mark.training
def test_killed_while_it_is_written_it_is_written_by_the_next(copy, tasks):
    words = ("predict", "--run", copy, "--step", "3", "--split", "test", "--limit", "3")
    for point in ("predict.before_rename", "predict.after_rename"):
        end(start_mswitch(*words, MSWITCH_FAULT=point), -signal.SIGKILL)
    config = PredictConfig(limit=3)
    found = predict(copy, None, "test", config, step=3)
    assert found["test_reads"] == 1
    assert found["rows"] == 6
    names = {path.name for path in Path(found["out"]).parent.iterdir()}
    assert names == {"test-3-labels.parquet", "test-3-labels.json", "test_reads.json"}
    with pytest.raises(UserError, match=r"was made with other settings .*remove it"):
        predict(copy, tasks, "test", PredictConfig(limit=2), step=3)


def test_texts_and_lines_of_a_file_are_answered(copy, tmp_path, capsys):
    (tmp_path / "lines").write_bytes("\ufeffag\u2028\x0cbh\r\n\nci".encode())
    options = ["--run", str(copy), "--input", str(tmp_path / "lines"), "--text", "dj", "--json"]
    assert run_command(["predict", *options]) == 0
    found = json.loads(capsys.readouterr().out)["texts"]
    assert [one["text"] for one in found] == ["dj", "ag\u2028\x0cbh", "", "ci"]
    assert {one["prediction"] for one in found} <= set(LABELS)
    assert not (copy / "predictions").exists()


def test_an_answer_is_one_line_that_a_terminal_only_shows(monkeypatch, capsys):
    written = ("a\nb\x1b[2J\x9b", "نمی\u200cشود")
    for name, key in (("predict.answer", "prediction"), ("infill.infill", "filled")):
        made = {"texts": [{key: text} for text in written]}
        monkeypatch.setattr(f"mswitch.models.inference.{name}", lambda *_, _made=made, **__: _made)
    for text in ("x", "x <extra_id_0>"):
        assert run_command(["predict", "--run", "r", "--text", text]) == 0
        assert capsys.readouterr().out == "a b [2J \nنمی\u200cشود\n"


def test_what_cannot_be_predicted_is_refused(copy, tasks, open_task, tmp_path):
    other = write_supervised(
        tmp_path / "other", {"de": splits(0)}, vocabulary([*WORDS, "zz"]), lengths=(64, 8)
    )
    text = write_examples(tmp_path / "text", {"de": (3,)}, 12, 480)
    train = write_supervised(
        tmp_path / "train", {"de": {"train": rows(3, 0)}}, MODEL, labels=LABELS
    )
    cases = [
        (text, "validation", {}, "are not examples of a task: give what"),
        (other, "validation", {}, "another vocabulary than"),
        (train, "validation", {}, "has no validation examples"),
        (tasks, "validation", {"step": 7}, "no checkpoint of step 7: choose among 1, 2, 3"),
    ]
    for directory, split, options, message in cases:
        with pytest.raises(UserError, match=message):
            predict(copy, directory, split, BATCH_OF_4, **options)
    with pytest.raises(UserError, match=r"has no validation examples: build .* another --split"):
        select(copy, train, BATCH_OF_4)
    with pytest.raises(UserError, match="--decode labels: toy has no labels"):
        predict(copy, open_task, "validation", PredictConfig(decode="labels"))
    with pytest.raises(UserError, match="--batch-size 32 is not a multiple of --data-parallel 3"):
        PredictConfig(data_parallel=3)
    of_splits = (["--select"], ["--split", "test"], ["--again"], ["--limit", "3"])
    lines = [
        (["--select", "--split", "test"], "--select compares all steps"),
        *(
            (["--text", "ag", *words], f"read no split: leave out {words[0]}")
            for words in of_splits
        ),
        (["--again"], "--again reads test again: give --split test"),
        (["--input", os.devnull], "there is no text to answer"),
        (["--vocab", "v"], "--vocab is for gaps in --text"),
        (["--text", "ag\udcff"], r"--text 'ag\\udcff' is not UTF-8"),
        (["--input", str(tmp_path / "nothing")], "--input .*nothing cannot be read"),
    ]
    for words, message in lines:
        with pytest.raises(UserError, match=message):
            run_command(["predict", "--run", str(copy), *words])
    (copy / MARKER).unlink()
    with pytest.raises(UserError, match="still in training"):
        select(copy, tasks, BATCH_OF_4)
