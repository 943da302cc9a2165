"""Builds an examples directory of finished inputs and targets from rows of any source.

Each unit of the source (a file, a shard of seqio's) becomes a part of rows; then each language and
split becomes shards. In between the source examines its rows, so that a wrong task is refused
before anything is tokenised.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import (
    NOTES,
    STAGE,
    TOKENS,
    Shard,
    publish,
    summarize_examples,
    working_files,
    write_missing,
    write_vocabulary,
)
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.outputs import read_manifest, stage_output_anywhere
from mswitch.pipelines.progress import say
from mswitch.pipelines.supervised.definition import SPLITS
from mswitch.pipelines.supervised.shards import SupervisedShard
from mswitch.pipelines.vocabulary.model import VocabularyModel, load_vocabulary

KIND = "supervised"
SHARD_ROWS = 50_000
_TEXT = {"shape": [], "dtype": "string"}
FEATURES = {
    **dict.fromkeys(("inputs", "targets"), TOKENS),
    **dict.fromkeys(
        ("id", "language", "group", "inputs_pretokenized", "targets_pretokenized"), _TEXT
    ),
    "answers": {"shape": [None], "dtype": "string"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowSource:
    """A source of rows, with functions that make parts and shards.

    Attributes:
        task: the task's entry in the manifest: at least `name` and `labels`.
        lengths: lengths to which inputs and targets are cut.
        length_option: the option for the length of targets, up to the number.
        settings: everything that the bytes of the directory depend on.
        units: units of the source; each becomes a part.
        noun: word for the units, for people.
        read: gets a unit, the directory of parts and the vocabulary's file as `model`; writes the
            part and returns its description (`mswitch.pipelines.supervised.shards.write_part`).
        write: gets a shard, the directory of examples, `model` and `left_out`; writes the shard and
            returns its description (`mswitch.pipelines.supervised.shards.write_rows`).
        examine: gets the descriptions of all parts and their directory; returns entries of the
            manifest, and a file of rows to leave out ("" for none).
        summarise: gets the descriptions of all shards; returns entries of the manifest.
        check: gets the manifest of an existing directory; refuses it with an error.
    """

    task: Mapping[str, Any]
    lengths: Lengths
    length_option: str
    settings: Mapping[str, Any]
    units: Sequence[Shard]
    noun: str
    read: Callable[..., dict[str, Any]]
    write: Callable[..., dict[str, Any]]
    examine: Callable[[Sequence[Mapping[str, Any]], str], tuple[dict[str, Any], str]]
    summarise: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] = lambda finished: {}
    check: Callable[[Mapping[str, Any]], None] = lambda manifest: None


def build_directory(
    source: RowSource,
    vocabulary: VocabularyModel,
    out: str | Path,
    *,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the examples directory of a source; return its summary by split."""
    name = source.task["name"]
    with stage_output_anywhere(out, stage=STAGE, config=source.settings) as staged:
        directory = str(staged.directory)
        parts = working_files(directory, "rows")
        if staged.complete:
            source.check(read_manifest(out, STAGE))
            say(STAGE, f"already complete: {out}, nothing to do")
            storage.remove_tree(working_files(directory, NOTES))
            _forget_parts(parts)
            return summarize_examples(out, SPLITS, reused=True)
        model = write_vocabulary(directory, vocabulary)
        check_labels(source, model)
        engine = Engine(STAGE, str(staged.out), staged.hash, runner, tuple(beam_options))
        read = functools.partial(source.read, model=model)
        described = write_missing(source.units, parts, read, engine, source.noun)
        row_entries, left_out = source.examine(described, parts)
        fault_point("examples.after_rows")
        planned = plan_shards(name, described, parts)
        if not planned:
            raise UserError(f"{name} has no usable row: give other input")
        write = functools.partial(source.write, model=model, left_out=left_out)
        finished = write_missing(planned, directory, write, engine, "shards")
        said = {
            "kind": KIND,
            "finished": True,
            "inputs_length": source.lengths.inputs_length,
            "targets_length": source.lengths.targets_length,
            "task": source.task,
            **row_entries,
            **source.summarise(finished),
        }
        publish(staged, finished, vocabulary, dict.fromkeys(SPLITS, FEATURES), said)
        _forget_parts(parts)
    summary = summarize_examples(out, SPLITS, reused=False)
    counts = ", ".join(f"{summary[f'{split}_records']:,} {split}" for split in SPLITS)
    say(STAGE, f"{counts} examples of {name} in {summary['languages']} languages in {out}")
    return summary


def _forget_parts(parts: str) -> None:
    for directory in (working_files(parts, NOTES), parts):
        storage.remove_tree(directory)


def check_labels(source: RowSource, model: str) -> None:
    """Refuse labels that are too long, have equal tokens, or change when encoded and decoded."""
    vocabulary, length = load_vocabulary(model), source.lengths.targets_length
    seen: dict[tuple[int, ...], str] = {}
    for label in source.task["labels"] or ():
        tokens = tuple(vocabulary.EncodeAsIds(label))
        named = f"label {label!r} of {source.task['name']}"
        if len(tokens) >= length:
            raise UserError(
                f"{named} has {len(tokens) + 1} tokens with its end: give {source.length_option}"
                f"{len(tokens) + 1} or more, not {length}"
            )
        if tokens in seen:
            raise UserError(
                f"{named} and {seen[tokens]!r} have equal tokens in this vocabulary: use other "
                "words"
            )
        seen[tokens] = label
        written = vocabulary.DecodeIds(list(tokens))
        if written != label:
            raise UserError(
                f"{named} becomes {written!r} in this vocabulary: write it so, or use other words"
            )


def plan_shards(
    task: str, described: Sequence[Mapping[str, Any]], parts: str
) -> list[SupervisedShard]:
    """Divide the rows of a task's intermediate files (parts) among output shards.

    `described` describes the parts, with `rows` by language and split; `parts` is their directory.
    """
    rows: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], list[str]] = {}
    for part in described:
        for lang, by_split in part["rows"].items():
            for split, count in by_split.items():
                rows[lang, split] += count
                path = storage.join(parts, part["path"])
                where.setdefault((lang, split), []).append(path)
    planned = []
    for (lang, split), count in sorted(rows.items()):
        of = -(-count // SHARD_ROWS)
        paths = tuple(where[lang, split])
        planned += [
            SupervisedShard(task, lang, split, number, of, paths, count) for number in range(of)
        ]
    return planned
