"""Builds an examples directory of finished inputs and targets from a task's files."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge
from numpy.typing import NDArray

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import STAGE
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import canonical_json, file_sha256
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import use_runner
from mswitch.pipelines.supervised.definition import BY_HASH, SPLITS, SupervisedTask, read_task
from mswitch.pipelines.supervised.directory import KIND, RowSource, build_directory
from mswitch.pipelines.supervised.shards import (
    KEYS,
    InputFile,
    read_file,
    write_shard,
)
from mswitch.pipelines.supervised.split import count_overlap, mark_overlap
from mswitch.pipelines.vocabulary.model import open_vocabulary

#: Reason of rows that are left out because a later split has the same inputs or group.
OVERLAP = "overlap"
#: Highest share of validation or test targets that may be cut.
MAX_TRIMMED = 0.01


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Settings of supervised examples.

    Attributes:
        inputs_length: encoder positions; longer inputs are cut and counted.
        targets_length: decoder positions; longer targets are cut and counted.
        allow_overlap: build even if validation or test share inputs or groups with training.
        drop_overlap: leave out rows whose inputs or groups are also in a later split, so that test
            stays complete.
    """

    inputs_length: Annotated[int, Ge(2)] = 512
    targets_length: Annotated[int, Ge(2)] = 128
    allow_overlap: bool = False
    drop_overlap: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.allow_overlap and self.drop_overlap:
            raise UserError("give --allow-overlap or --drop-overlap, not both")

    @property
    def lengths(self) -> Lengths:
        """Largest lengths of examples."""
        return Lengths(self.inputs_length, self.targets_length)


def build_supervised(
    task: str | Path,
    vocabulary: str | Path,
    out: str | Path,
    config: SupervisedConfig,
    *,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the examples directory of a task.

    Args:
        task: the task's TOML file.
        vocabulary: a finished vocabulary directory, or a SentencePiece model file in T5's layout.
        out: the directory to make, or a URL such as gs://bucket/reviews.
        config: lengths, and whether overlap is allowed.
        runner: where tasks run (`mswitch.pipelines.runners`); its workers must see `out`.
        beam_options: Beam's own options.
    """
    use_runner(runner, beam_options)
    defined, opened = read_task(task), open_vocabulary(vocabulary)
    files, identities = _list_input_files(defined)
    definition, settings = defined.definition(), identifying_settings(config)
    settings.pop("allow_overlap", None)  # the output does not depend on this setting
    source = RowSource(
        task={
            **{name: definition[name] for name in ("name", "inputs", "targets")},
            "labels": None if defined.labels is None else list(defined.labels.values()),
            "metrics": list(defined.metrics),
            "hash": hashlib.sha256(canonical_json(definition).encode()).hexdigest()[:16],
        },
        lengths=config.lengths,
        length_option="--targets-length ",
        settings={
            "kind": KIND,
            **settings,
            "task": definition,
            "files": identities,
            "vocabulary": opened.sha256,
        },
        units=files,
        noun="files",
        read=functools.partial(read_file, task=defined),
        write=functools.partial(write_shard, lengths=config.lengths),
        examine=functools.partial(_examine, defined, config, files),
        summarise=functools.partial(_count_trimmed, defined, config),
        check=lambda manifest: _check_overlap(defined, manifest["overlap"], config),
    )
    return build_directory(source, opened, out, runner=runner, beam_options=beam_options)


def _list_input_files(task: SupervisedTask) -> tuple[list[InputFile], list[list[str]]]:
    named = [(split, path) for split, paths in task.files.items() for path in paths]
    files, identities = [], []
    for number, (split, path) in enumerate(named):
        lang = task.file_languages.get(path, "")
        with storage.fetch(path) as local:
            files.append(InputFile(path, split, number, local.stat().st_size, lang))
            identities.append([split, storage.get_name(path), lang, file_sha256(local)])
    return files, identities


def _examine(
    task: SupervisedTask,
    config: SupervisedConfig,
    files: Sequence[InputFile],
    described: Sequence[Mapping[str, Any]],
    parts: str,
) -> tuple[dict[str, Any], str]:
    keys, left_out = _read_keys(files, parts), ""
    rows: dict[str, Any] = {"kept": len(keys), "dropped": {}}
    if config.drop_overlap:
        keys, left_out = _leave_out(keys, rows, parts)
    _say_languages(described)
    marked = mark_overlap(keys, SPLITS)
    overlap = count_overlap(keys, marked)
    _check_overlap(
        task, overlap, config, _describe_overlap(keys, SPLITS, marked) if overlap else ""
    )
    return {"rows": rows, "overlap": overlap}, left_out


def _check_overlap(
    task: SupervisedTask, overlap: Mapping[str, Any], config: SupervisedConfig, example: str = ""
) -> None:
    if not overlap:
        return
    by_lang: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for lang, by_split in overlap.items():
        for split, counts in by_split.items():
            by_lang[lang] += max(counts.values())
            totals[split] += max(counts.values())
    counted = " and ".join(f"{n:,} rows of {split}" for split, n in totals.items())
    named = ", ".join(f"{lang} {n:,}" for lang, n in by_lang.most_common(3))
    text = f"splits of {task.name} overlap: {counted} have inputs or a group of an earlier split "
    text += f"({named}{', ...' if len(by_lang) > 3 else ''})"
    text += f", such as {example}" if example else ""
    if not config.allow_overlap:
        raise UserError(
            f"{text}: {'give a group that they share, ' if BY_HASH in task.files else ''}"
            "leave out the rows of the earlier split with --drop-overlap, or build with "
            "--allow-overlap"
        )
    say(STAGE, text)


def _count_trimmed(
    task: SupervisedTask, config: SupervisedConfig, finished: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Count trimmed inputs and targets; refuse to trim too many targets of validation or test."""
    for split in SPLITS[1:]:
        lengths: Counter[int] = Counter()
        for shard in finished:
            if shard["split"] == split:
                lengths.update({int(size): n for size, n in shard["targets_lengths"].items()})
        cut = sum(n for size, n in lengths.items() if size > config.targets_length)
        if cut > MAX_TRIMMED * lengths.total():
            ordered = sorted(lengths.elements())
            p99 = ordered[len(ordered) * 99 // 100]
            raise UserError(
                f"{cut:,} of {len(ordered):,} {split} targets of {task.name} are longer than "
                f"--targets-length {config.targets_length} (99 % have at most {p99} tokens): give "
                f"{ordered[-1]} to keep all"
            )
    sides = ("inputs", "targets")
    return {"trimmed": {side: sum(shard["trimmed"][side] for shard in finished) for side in sides}}


def _say_languages(described: Sequence[Mapping[str, Any]]) -> None:
    others: Counter[str] = Counter()
    for part in described:
        for lang, by_split in part["rows"].items():
            if lang not in languages():
                others[lang] += sum(by_split.values())
    if others:
        named = ", ".join(f"{lang} ({count:,} rows)" for lang, count in sorted(others.items())[:20])
        more = ", ..." if len(others) > 20 else ""
        say(STAGE, f"languages that mswitch does not know keep their codes: {named}{more}")


def _read_keys(files: Sequence[InputFile], parts: str) -> pa.Table:
    tables = []
    for file in files:
        with storage.fetch(storage.join(parts, file.path)) as local:
            table = pq.read_table(local, columns=["lang", "split", *KEYS]).sort_by("number")
        for name, value in (("part", file.path), ("file", storage.get_name(file.source))):
            table = table.append_column(name, pa.repeat(value, len(table)))
        tables.append(table)
    return pa.concat_tables(tables)


def _describe_overlap(
    keys: pa.Table, splits: Sequence[str], marked: Mapping[str, NDArray[np.bool_]]
) -> str:
    names, row = np.asarray(keys["split"]), int(np.argmax(marked["rows"]))
    shared = "inputs" if marked["inputs"][row] else "group"
    same = keys[f"{shared}_key"].to_numpy() == keys[f"{shared}_key"][row].as_py()
    before = np.isin(names, splits[: splits.index(names[row])])
    own, other = (
        f"{keys['file'][number]}:{keys['number'][number]}"
        for number in (row, np.flatnonzero(same & before)[0])
    )
    return f"{own} ({other} has its {shared})"


def _leave_out(keys: pa.Table, rows: dict[str, Any], parts: str) -> tuple[pa.Table, str]:
    """Drop rows whose inputs or group also occur in a later split; count the dropped rows.

    Return the other rows, and a file that lists those left out.
    """
    marked = mark_overlap(keys, SPLITS[::-1])
    shared = marked["rows"]
    if count := int(shared.sum()):
        rows["kept"] -= count
        rows["dropped"][OVERLAP] = count
        first = _describe_overlap(keys, SPLITS[::-1], marked)
        say(STAGE, f"{count:,} rows dropped as {OVERLAP}, the first at {first}")
    path = storage.join(parts, "left_out.parquet")
    with storage.publish(path) as temporary:
        pq.write_table(keys.filter(pa.array(shared)).select(["part", "number"]), temporary)
    return keys.filter(pa.array(~shared)), path
