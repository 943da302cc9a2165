"""Convert any seqio task or mixture to directories of supervised examples.

Its preprocessing runs once, in Beam, a shard of its source at a time. The resulting ids are read
like the output of `mswitch examples supervised`: without seqio, in batches of (seed, step).
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import seqio

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import STAGE
from mswitch.pipelines.examples.shards import load_cached_vocabulary
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.languages import any_code, find_code, parse_codes
from mswitch.pipelines.outputs import canonical_json, file_sha256, write_atomically
from mswitch.pipelines.progress import say
from mswitch.pipelines.supervised.definition import SPLITS
from mswitch.pipelines.supervised.directory import KIND, RowSource, build_directory
from mswitch.pipelines.supervised.shards import (
    GROUP_ROWS,
    ORDERS,
    ROW_SCHEMA,
    SupervisedShard,
    Tokenised,
    write_part,
    write_rows,
)
from mswitch.pipelines.supervised.split import key64
from mswitch.pipelines.vocabulary.model import VocabularyModel, open_vocabulary
from mswitch.tasks.metrics.registry import METRICS, NEED_LABELS, TEXT_METRICS, make_metric
from mswitch.tasks.seqio.own_metrics import make_example_id, split_metrics
from mswitch.tasks.seqio.registered import FEATURES, Registered, check_task, preprocess

#: Number of examples that `draws_randomly` preprocesses repeatedly.
TRIED = 32

MULTITASK = "multitask.toml"
_IDS = [(f"{side}_ids", pa.list_(pa.int32())) for side in FEATURES]
_SCHEMA = pa.schema([*ROW_SCHEMA, *_IDS])


@dataclasses.dataclass(frozen=True)
class FromTaskConfig:
    """Settings for converting a seqio task to examples.

    Attributes:
        lengths: lengths that inputs and targets are cut to.
        language: language of tasks whose name does not end with a code, such as `.de`.
        epochs: number of draws of the training split to keep, for tasks that draw randomly.
        metrics: metrics that score predictions.
        labels: the closed set of targets; examples with another target are left out.
    """

    lengths: Lengths
    language: str | None = None
    epochs: int | None = None
    metrics: tuple[str, ...] = ("exact_match",)
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise UserError(f"--metrics {metric} is unknown: use {', '.join(METRICS)}")
            if metric in NEED_LABELS and not self.labels:
                raise UserError(
                    f"--metrics {metric} needs the closed set of targets: give --labels"
                )
            if metric in TEXT_METRICS and self.labels:
                raise UserError(
                    f"--metrics {metric} is for free text, and --labels are a closed set: leave "
                    "out one of them"
                )
            make_metric(metric, self.labels)  # raises if its package is missing
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, not {self.epochs}")
        if self.language is not None:
            parse_codes([self.language], any_code)


def build_from_task(
    registered: Registered, vocabulary: str | Path, out: str | Path, config: FromTaskConfig
) -> dict[str, Any]:
    """Write the examples of a task, or the examples of a mixture's tasks and `multitask.toml`.

    `vocabulary` is the task's: a finished directory, or a SentencePiece model file.
    """
    opened, provider = open_vocabulary(vocabulary), registered.find()
    draws = _check(provider, opened, config)
    if isinstance(provider, seqio.Task):
        return _build(registered, provider, opened, out, config, draws[provider.name])
    rates = {task.name: _read_rate(provider, task) for task in provider.tasks}
    if ":" in "".join(rates):
        raise UserError(f"tasks of {provider.name} have : in their names: rename them")
    summaries = [
        _build(
            dataclasses.replace(registered, name=task.name),
            task,
            opened,
            storage.join(out, task.name),
            config,
            draws[task.name],
        )
        for task in provider.tasks
    ]
    # A task without a training split is only for evaluation; seqio omits it from training too.
    tables = (
        f'[tasks."{name}"]\ndirectory = {json.dumps(name)}\n'
        f"rate = {rate if summary['train_records'] else 0.0!r}\n"
        for (name, rate), summary in zip(rates.items(), summaries, strict=True)
    )
    write_atomically(storage.join(out, MULTITASK), "\n".join(tables))
    sums = {
        name: sum(summary[name] for summary in summaries)
        for name, value in summaries[0].items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    reused = all(summary["reused"] for summary in summaries)
    return {**summaries[0], **sums, "out": str(out), "reused": reused, "tasks": len(summaries)}


def _check(
    provider: seqio.Task | seqio.Mixture, vocabulary: VocabularyModel, config: FromTaskConfig
) -> dict[str, int]:
    """Check all tasks before the first is built.

    Returns:
        Number of draws of the training split to keep, by task.
    """
    tasks = [provider] if isinstance(provider, seqio.Task) else provider.tasks
    for task in tasks:
        _split_language(task.name, config)
        check_task(task, vocabulary)
    random = {
        task.name
        for task in tasks
        if draws_randomly(task, next(iter(_list_shards(task))), config.lengths)
    }
    if random and config.epochs is None:
        raise UserError(
            f"{min(random)} draws randomly after its cache, again in every epoch: give --epochs N "
            "to keep N draws of it"
        )
    if not random and config.epochs is not None:
        raise UserError(f"{provider.name} draws nothing after its cache: leave --epochs out")
    return {task.name: config.epochs or 1 if task.name in random else 1 for task in tasks}


def _list_shards(task: seqio.Task) -> dict[str, list[str]]:
    shards_by_split = {
        split: list(task.source.list_shards(split)) for split in SPLITS if split in task.splits
    }
    if not shards_by_split:
        raise UserError(f"{task.name} has none of the splits {', '.join(SPLITS)}")
    for split, shards in shards_by_split.items():
        if not shards:
            raise UserError(f"{task.name} has no files of {split}: repair the task or its files")
    return shards_by_split


def _read_rate(mixture: seqio.Mixture, task: seqio.Task) -> float:
    try:
        return float(mixture.get_rate(task))
    except Exception as error:  # rate functions can raise anything
        raise UserError(
            f"the rate of {task.name} in {mixture.name} cannot be computed ({error}): give a number"
        ) from error


def _split_language(name: str, config: FromTaskConfig) -> tuple[str, str]:
    stem, _, last = name.rpartition(".")
    given = None if config.language is None else any_code(config.language)
    code = find_code(last.replace("_", "-")) or (given if any_code(last) == given else None)
    if stem and code is not None:
        return stem, code
    if given is None:
        raise UserError(f"{name} does not end with the code of a language: give --language, as en")
    return name, given


@dataclasses.dataclass(frozen=True)
class SourceShard:
    """A shard of a task's source; its examples are written as one part.

    Attributes:
        split: seqio's split.
        number: number of the shard in the split.
        of: number of shards of the split.
        draw: seed of the steps after the task's cache.
        draws: number of draws.
    """

    split: str
    number: int
    of: int
    draw: int
    draws: int

    @property
    def path(self) -> str:
        """Path of this shard's Parquet file, relative to the folder of parts."""
        return f"{self.split}-{self.draw:03}-{self.number:05}.parquet"

    @property
    def size_bytes(self) -> int:
        """Nominal size for scheduling: 1, so that all shards count equally."""
        return 1


def _build(
    registered: Registered,
    task: seqio.Task,
    vocabulary: VocabularyModel,
    out: str | Path,
    config: FromTaskConfig,
    draws: int,
) -> dict[str, Any]:
    (name, lang), files = _split_language(task.name, config), _list_shards(task)
    metrics, others = split_metrics(task)
    if others:
        text = "which mswitch predict leaves out: they take more than targets and predictions"
        say(STAGE, f"{task.name} has {others} metrics, {text}")
    # `mswitch predict` finds the task and its metrics by this name and module.
    own = {"seqio": {"name": task.name, "module": registered.module}} if metrics else {}
    settings = {
        "kind": KIND,
        "seqio": task.name,
        "module": registered.hash_module(),
        "sources": {
            split: [_identify_shard(task.source, shard) for shard in shards]
            for split, shards in files.items()
        },
        "lengths": dataclasses.astuple(config.lengths),
        "language": lang,
        "draws": draws,
        "metrics": list(config.metrics),
        **({"labels": list(config.labels)} if config.labels else {}),
        **({"own_metrics": own["seqio"]} if own else {}),
        "vocabulary": vocabulary.sha256,
    }
    source = RowSource(
        task={
            **{"name": name, "inputs": "{inputs}", "targets": "{targets}"},
            "labels": list(config.labels) or None,
            **own,
            "metrics": list(config.metrics),
            "hash": hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16],
        },
        lengths=config.lengths,
        length_option=f"--lengths {config.lengths.inputs_length},",
        settings=settings,
        units=[
            SourceShard(split, number, len(shards), draw, draws if split == "train" else 1)
            for split, shards in files.items()
            for draw in range(draws if split == "train" else 1)
            for number in range(len(shards))
        ],
        noun="parts",
        read=functools.partial(
            read_shard,
            registered=registered,
            lang=lang,
            lengths=config.lengths,
            labels=config.labels,
        ),
        write=write_ids,
        examine=functools.partial(_examine, task.name),
    )
    return build_directory(source, vocabulary, out)


def _examine(
    name: str, described: Sequence[Mapping[str, Any]], _parts: str
) -> tuple[dict[str, Any], str]:
    dropped: Counter[str] = Counter()
    for part in described:
        dropped.update(part["dropped"])
    if count := dropped["unknown_label"]:
        say(STAGE, f"{count:,} examples of {name} have a target that is not in --labels")
    kept = sum(part["records"] for part in described)
    return {"rows": {"kept": kept, "dropped": dict(+dropped)}}, ""


def _identify_shard(source: seqio.DataSource, shard: str) -> list[str]:
    """Return the name of a source's shard, and the hash of its file if it is on this machine.

    Sources that read no files may name a shard in any way, such as by its split.
    """
    is_path = isinstance(source, seqio.FileDataSource) or os.path.isabs(shard)
    is_file = is_path and os.path.isfile(shard)
    return [os.path.basename(shard), file_sha256(Path(shard)) if is_file else ""]


def read_shard(
    unit: SourceShard,
    directory: str,
    *,
    registered: Registered,
    lang: str,
    model: str,
    lengths: Lengths,
    labels: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Preprocess a shard of a task's source, and write its examples as a part.

    Returns:
        The result of `write_part`, and `dropped` examples by reason: no inputs, no targets, or a
        target that is no label.
    """
    task, dropped = registered.find(), Counter[str]()
    assert isinstance(task, seqio.Task)

    def rows() -> Iterator[dict[str, Any]]:
        shard = unit.number, unit.of
        examples = preprocess(task, unit.split, lengths, shard=shard, draw=unit.draw)
        for number, example in enumerate(examples):
            if not example["inputs"].size or not example["targets"].size:
                dropped["empty_text"] += 1
                continue
            row = _make_row(example, unit, number, lang, model)
            if labels and row["targets"] not in labels:
                dropped["unknown_label"] += 1
            else:
                yield row

    return {**write_part(rows(), unit.path, directory, _SCHEMA), "dropped": dropped}


def _make_row(
    example: Mapping[str, Any], unit: SourceShard, number: int, lang: str, model: str
) -> dict[str, Any]:
    name = make_example_id(unit.split, unit.number, number)
    # Each draw preprocesses all N examples with another seed. The next draw's examples are stored
    # after them. So two versions of an example are about N records apart.
    order = (ORDERS * unit.draw + key64(name)) // unit.draws
    if unit.draws > 1:
        name = make_example_id(unit.split, unit.number, number, unit.draw)
    texts = {side: _read_text(example, side, model) for side in FEATURES}
    answers = np.atleast_1d(example.get("answers", np.array([], object))).tolist()
    group = example.get("group")
    return {
        "lang": lang,
        "split": unit.split,
        "order": order,
        "id": name,
        "group": group.decode() if isinstance(group, bytes) and group else name,
        **texts,
        "answers": [answer.decode() for answer in answers if isinstance(answer, bytes)]
        or [texts["targets"]],
        "inputs_ids": example["inputs"],
        "targets_ids": example["targets"],
    }


def _read_text(example: Mapping[str, Any], side: str, model: str) -> str:
    text = example.get(f"{side}_pretokenized")
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    return load_cached_vocabulary(model).DecodeIds(example[side].tolist())


def write_ids(
    shard: SupervisedShard,
    directory: str,
    *,
    model: str,
    left_out: str,
) -> dict[str, Any]:
    """Write a shard of rows that have ids already; see `write_rows`."""

    def rows() -> Iterator[Tokenised]:
        for batch in shard.read(left_out).to_batches(GROUP_ROWS):
            for row in batch.to_pylist():
                inputs, targets = (np.array(row[f"{side}_ids"], np.int32) for side in FEATURES)
                yield row, inputs, targets

    return write_rows(shard, directory, rows())


def draws_randomly(task: seqio.Task, split: str, lengths: Lengths) -> bool:
    """Return whether another seed changes the first `TRIED` preprocessed examples.

    The seed is of the steps after the task's cache.
    """

    def first(draw: int) -> list[list[list[int]]]:
        examples = preprocess(task, split, lengths, draw=draw, take=TRIED)
        return [[example[name].tolist() for name in FEATURES] for example in examples]

    examples = first(0)
    if examples != first(0):
        raise UserError(
            f"{task.name} yields other examples each time, which no seed repeats: let its "
            "preprocessors take their seeds from seqio.map_over_dataset"
        )
    return examples != first(1)
