"""Predict supervised examples with a run.

`predictions/<task>/<split>-<step>-<decode>.parquet` has the model's output for each example. The
JSON file beside it has the metrics, including a seqio task's own ones.
`predictions/<task>/test_reads.json` counts how often test was read.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece

from mswitch.models.config import PredictConfig
from mswitch.models.device_errors import check_devices, explain_memory
from mswitch.models.inference.decoding_batches import Generator, find_own_examples
from mswitch.models.inference.prediction_scores import score_predictions
from mswitch.models.training.checkpoint import choose_step
from mswitch.models.training.run_directory import (
    PREDICTIONS,
    SELECTED,
    TEST_READS,
    check_vocabulary,
    read_run,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.tables import is_written, write_table
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_json_object
from mswitch.pipelines.special_tokens import EOS_ID
from mswitch.tasks.batches.examples import VOCABULARY_PATH, open_examples
from mswitch.tasks.metrics.registry import make_metric

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("group", pa.string()),
        ("inputs", pa.string()),
        ("targets", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("prediction", pa.string()),
        ("score", pa.float32()),
    ]
)
_SETTINGS = b"mswitch.prediction"
_TEXTS = {
    "id": "id",
    "group": "group",
    "inputs": "inputs_pretokenized",
    "targets": "targets_pretokenized",
}
_FEATURES = ("inputs", "answers", *_TEXTS.values())

Split = Literal["train", "validation", "test"]


@explain_memory()
def predict(
    run: str | Path,
    tasks: str | Path | None,
    split: Split,
    config: PredictConfig,
    *,
    step: int | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Predict a split of supervised examples with a checkpoint of a run, and score it.

    Args:
        run: a run directory, also in a bucket.
        tasks: a directory of supervised examples; None means the run's training examples.
        split: the split to predict.
        config: settings of the prediction.
        step: the checkpoint; by default the one in selected.json, or the newest.
        again: allow test to be read from another step than before.

    Returns:
        Summary: stage, out, reused, step, the result of `score_predictions`, and test_reads.
    """
    with open_files(run, PREDICTIONS) as files:
        reader = Predictor(files, tasks, config)
        step = reader.step(step, split)
        with reader.lock():
            return reader.scores(split, step, again=again)


@explain_memory()
def answer(
    run: str | Path,
    tasks: str | Path | None,
    texts: Sequence[str],
    config: PredictConfig,
    *,
    step: int | None = None,
) -> dict[str, Any]:
    """Predict the answers to texts that are formatted with the task's template for inputs.

    Returns:
        Summary: stage, step, texts (a list of text, prediction, score).
    """
    with open_files(run) as files:
        reader = Predictor(files, tasks, config)
        step = reader.step(step, "validation")
        longest = reader.examples.lengths.inputs_length - 1
        inputs = [[*reader.processor.EncodeAsIds(text)[:longest], EOS_ID] for text in texts]
        answers = zip(texts, *reader.generate(inputs, step, "texts"), strict=True)
    names = ("text", "prediction", "score")
    return {
        "stage": "predict",
        "step": step,
        "texts": [dict(zip(names, answer, strict=True)) for answer in answers],
    }


class Predictor:
    """A run and the examples of a task, ready to predict."""

    def __init__(self, files: RunFiles, tasks: str | Path | None, config: PredictConfig):
        check_devices()
        files.refresh()
        self.files, self.run = files, files.directory
        self.described = read_run(self.run)
        self.examples = open_examples(tasks or find_own_examples(files, self.described))
        manifest, directory = self.examples.manifest, self.examples.directory
        if manifest.get("kind") != "supervised":
            raise UserError(
                f"{directory} are not examples of a task: give what `mswitch examples supervised` "
                "made"
            )
        check_vocabulary(self.run, self.described, directory, manifest)
        self.task = manifest["task"]
        labels = self.task["labels"]
        for name in self.task["metrics"]:
            make_metric(name, labels or ())  # check the name before any work is done
        decode = config.decode or ("labels" if labels else "greedy")
        if decode == "labels" and not labels:
            raise UserError(f"--decode labels: {self.task['name']} has no labels; use beam")
        self.settings: dict[str, Any] = {
            "run": self.described["config_hash"],
            "tasks": manifest["config_hash"],
            "dtype": config.dtype or self.described["train"]["dtype"],
            "limit": config.limit,
            "decode": decode,
            **({"beams": config.beams, "alpha": config.alpha} if decode == "beam" else {}),
        }
        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(
            storage.read_bytes(storage.join(directory, VOCABULARY_PATH))
        )
        self.generate = Generator(
            files,
            self.described,
            self.processor,
            dataclasses.replace(config, decode=decode),
            self.examples.lengths.targets_length,
            labels,
        )
        self._part = f"{PREDICTIONS}/{self.task['name']}"
        self._limit = config.limit
        self._own_metrics = config.own_metrics and "seqio" in self.task

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other writer out of the run's predictions."""
        with self.files.lock(PREDICTIONS):
            self.files.refresh(predictions=True)
            directory = self.run / self._part
            directory.mkdir(parents=True, exist_ok=True)
            storage.remove_temporaries(directory)
            yield

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of the run, unless it has this content already."""
        path = self.run / name
        if not path.is_file() or path.read_text(encoding="utf-8") != storage.json_text(value):
            storage.write_json(path, value)
            self.files.publish(name)

    def step(self, asked: int | None, split: Split) -> int:
        """Return the step of the checkpoint to use: `asked`, the selected one, or the newest."""
        step = choose_step(self.files, asked)
        selected = asked is not None or (self.run / SELECTED).is_file()
        if not selected and split == "test" and len(self.described["eval_steps"]) > 1:
            raise UserError(
                f"{self.files.place} has several checkpoints: choose one on validation first "
                "(--select), or give --step"
            )
        return step

    def record_test_read(self, step: int, again: bool) -> int:
        """Record that the test split is read; return how often it has been read so far."""
        name = f"{self._part}/{TEST_READS}"
        path = self.run / name
        reads = read_json_object(path)["reads"] if path.is_file() else []
        read = {**self.settings, "step": step}
        if read in reads:
            return len(reads)
        before = sorted({earlier["step"] for earlier in reads} - {step})
        if before and not again:
            raise UserError(
                f"test of {self.task['name']} was already read from step {before[0]:,}: choose "
                "steps on validation; --again reads test once more, and is counted"
            )
        self.write(name, {"reads": [*reads, read]})
        return len(reads) + 1

    def scores(self, split: Split, step: int, *, again: bool = False) -> dict[str, Any]:
        """Score a checkpoint's predictions for a split; predict first, unless predictions exist."""
        if not self.examples.sources.get(split):
            raise UserError(
                f"{self.examples.directory} has no {split} examples: build the task with some, or "
                "give another --split"
            )
        own_task = self._find_own_task() if self._own_metrics else None
        stem = f"{self._part}/{split}-{step}-{self.settings['decode']}"
        name = f"{stem}.parquet"
        fix = "--limit, --beams, --alpha, --dtype, or other examples): remove it to predict again"
        reused = is_written(self.files, name, _SETTINGS, self.settings, fix)
        # Record a read of the test split only now: the checks above do not read it.
        noted_reads = {"test_reads": self.record_test_read(step, again)} if split == "test" else {}
        if reused:
            table = pq.read_table(self.run / name)
        else:
            table = self._predict(split, step)
            write_table(self.files, name, table, _SETTINGS, self.settings, "predict")
        scores = score_predictions(table, self.task)
        if own_task is not None:
            from mswitch.tasks.seqio.own_metrics import measure

            rows = table.select(["id", "targets", "prediction"]).to_pylist()
            scores["seqio"] = measure(own_task, split, self.examples.lengths, rows)
        self.write(f"{stem}.json", {**self.settings, "step": step, "task": self.task, **scores})
        out = storage.join(self.files.place, name)
        summary = {"stage": "predict", "out": out, "reused": reused, "step": step}
        return {**summary, **scores, **noted_reads}

    def _find_own_task(self) -> Any:
        from mswitch.tasks.seqio.own_metrics import (
            find_task,  # imports TensorFlow, which only seqio's tasks need
        )

        return find_task(self.task["seqio"], os.getcwd())

    def _predict(self, split: Split, step: int) -> pa.Table:
        inputs, rows = [], []
        for lang, source in self.examples.sources[split].items():
            for index in range(min(len(source), self._limit or len(source))):
                features = source.read(index, _FEATURES)
                inputs.append(self.examples.tokens(source, index, features, "inputs"))
                texts = {name: features[of][0].decode() for name, of in _TEXTS.items()}
                answers = [text.decode() for text in features["answers"]]
                rows.append({"language": lang, "answers": answers, **texts})
        predictions, scores = self.generate(inputs, step, f"{split}, step {step:,}")
        for row, prediction, score in zip(rows, predictions, scores, strict=True):
            row |= {"prediction": prediction, "score": score}
        return pa.Table.from_pylist(rows, SCHEMA)
