"""A task and a vocabulary to an examples directory of finished pairs.

Two Beam jobs: each input file becomes a part of rendered rows; each language and split becomes
shards. Between them the rows are counted and the splits held against each other, so a task that is
wrong is refused before anything is tokenised.
"""

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
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import (
    STAGE,
    TOKENS,
    describe,
    shard_store,
    summary_of,
    write_cache_metadata,
    write_missing,
    write_vocabulary,
)
from mswitch.pipelines.examples.shard_store import BeamJob, ShardStore
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import (
    canonical_json,
    file_sha256,
    read_manifest,
    stage_output_anywhere,
)
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import pipeline_options
from mswitch.pipelines.supervised.definition import BY_HASH, SPLITS, SupervisedTask, read_task
from mswitch.pipelines.supervised.shards import (
    KEYS,
    SAMPLES,
    InputFile,
    SupervisedShard,
    read_file,
    write_shard,
)
from mswitch.pipelines.supervised.split import count_overlap, overlapping
from mswitch.pipelines.validation import check_fields
from mswitch.pipelines.vocabulary.model import VocabularyModel, load_vocabulary, open_vocabulary

KIND = "supervised"
#: Rows of a shard.
SHARD_ROWS = 50_000
#: Rows that only a wrong task or wrong data has: they are refused, and not only counted.
MISTAKES = ("no_field", "not_text", "unknown_label", "unknown_language", "empty_text")
#: Rows that are left out of a split for a later one has something of them.
OVERLAP = "overlap"
#: So many targets of validation may be cut, and of test.
MAX_TRIMMED = 0.01
_TEXT = {"shape": [], "dtype": "string"}
FEATURES = {
    **dict.fromkeys(("inputs", "targets"), TOKENS),
    **dict.fromkeys(
        ("id", "language", "group", "inputs_pretokenized", "targets_pretokenized"), _TEXT
    ),
    "answers": {"shape": [None], "dtype": "string"},
}


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Settings of supervised examples.

    Attributes:
        inputs_length: encoder positions; longer inputs are cut, and counted.
        targets_length: decoder positions; longer targets are cut, and counted.
        allow_overlap: build even if validation or test have inputs or groups that training has too.
        drop_overlap: leave out rows whose inputs or groups a later split has too, so that test
            stays whole.
        drop_bad_rows: leave rows out that lack a field, have another label or no text, which
            otherwise end the build. Rows that are damaged are left out and counted always.
    """

    inputs_length: Annotated[int, Ge(2)] = 512
    targets_length: Annotated[int, Ge(2)] = 128
    allow_overlap: bool = False
    drop_overlap: bool = False
    drop_bad_rows: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.allow_overlap and self.drop_overlap:
            raise UserError("give --allow-overlap or --drop-overlap, not both")

    @property
    def lengths(self) -> Lengths:
        """How long examples may be."""
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
        task: its TOML file.
        vocabulary: a finished vocabulary directory, or a SentencePiece model file in T5's layout.
        out: where to write, or a URL such as gs://bucket/reviews.
        config: lengths, and what is let pass.
        runner: where the Beam jobs run (`mswitch.pipelines.runners`); their workers must see `out`.
        beam_options: Beam's own options.
    """
    options = pipeline_options(runner, beam_options)  # complains before any work is done
    storage.use_options(options.get_all_options(drop_default=True))
    defined, opened = read_task(task), open_vocabulary(vocabulary)
    files, identities = _input_files(defined)
    settings = {
        "kind": KIND,
        "inputs_length": config.inputs_length,
        "targets_length": config.targets_length,
        "task": defined.definition(),
        "files": identities,
        "vocabulary": opened.sha256,
        **({"drop_overlap": True} if config.drop_overlap else {}),
    }
    with stage_output_anywhere(out, stage=STAGE, config=settings) as staged:
        store, parts = shard_store(staged), shard_store(staged, "rows")
        if staged.complete:
            manifest = read_manifest(out, STAGE)
            _check_rows(defined, manifest["rows"], config)
            _check_overlap(defined, manifest["overlap"], config)
            say(STAGE, f"already complete: {out}, nothing to do")
            forget_work(store, parts)
            return summary_of(out, SPLITS, reused=True)
        model = write_vocabulary(store.directory, opened)
        labels, length = tuple((defined.labels or {}).values()), config.targets_length
        check_labels(defined.name, labels, model, length, "--targets-length ")
        read = functools.partial(read_file, task=defined)
        job = BeamJob(
            "mswitch-rows", "files", staged.hash, str(staged.out), runner, tuple(beam_options)
        )
        described = write_missing(files, parts, read, job)
        rows, keys, left_out = _rows(described), _keys(files, parts), ""
        if config.drop_overlap:
            keys, left_out = _leave_out(keys, rows, parts)
        _say_rows(rows)
        _say_languages(described)
        _check_rows(defined, rows, config)
        marked = overlapping(keys, SPLITS)
        overlap = count_overlap(keys, marked)
        _check_overlap(defined, overlap, config, _samples(keys, SPLITS, marked))
        fault_point("examples.after_rows")
        write = functools.partial(
            write_shard, model=model, lengths=config.lengths, left_out=left_out
        )
        job = dataclasses.replace(job, name="mswitch-supervised", noun="shards")
        finished = write_missing(plan_shards(defined.name, described, parts), store, write, job)
        _check_trimmed(defined, finished, config)
        by_lang = describe(finished, store.directory)
        write_cache_metadata(finished, by_lang, store.directory, dict.fromkeys(SPLITS, FEATURES))
        staged.publish(_manifest(defined, opened, config, rows, overlap, finished, by_lang))
        forget_work(store, parts)
    summary = summary_of(out, SPLITS, reused=False)
    counts = ", ".join(f"{summary[f'{split}_records']:,} {split}" for split in SPLITS)
    say(STAGE, f"{counts} examples in {summary['languages']} languages in {out}")
    return summary


def _input_files(task: SupervisedTask) -> tuple[list[InputFile], list[list[str]]]:
    """Return the task's files, and what identifies each."""
    named = [(split, path) for split, paths in task.files.items() for path in paths]
    files, identities = [], []
    for number, (split, path) in enumerate(named):
        lang = task.file_languages.get(path, "")
        with storage.fetch(path) as local:
            files.append(InputFile(path, split, number, local.stat().st_size, lang))
            identities.append([split, storage.name_of(path), lang, file_sha256(local)])
    return files, identities


def forget_work(store: ShardStore, parts: ShardStore) -> None:
    """Remove working files, once the output is published."""
    for directory in (store.descriptions, parts.descriptions, parts.directory):
        storage.remove_tree(directory)


def _rows(described: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`rows` of the manifest: how many were kept, and dropped by reason, with samples."""
    dropped: Counter[str] = Counter()
    samples: dict[str, list[dict[str, str]]] = {}
    for part in described:
        dropped.update(part["dropped"])
        for sample in part["samples"]:
            samples.setdefault(sample["reason"], []).append(sample)
    return {
        "kept": sum(part["records"] for part in described),
        "dropped": dict(sorted(dropped.items())),
        "samples": [one for _, found in sorted(samples.items()) for one in found[:SAMPLES]],
    }


def _say_rows(rows: Mapping[str, Any]) -> None:
    first = {sample["reason"]: sample for sample in reversed(rows["samples"])}
    for reason, count in rows["dropped"].items():
        say(STAGE, f"{count:,} rows dropped as {reason}, the first at {_place(first[reason])}")


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


def _place(sample: Mapping[str, str]) -> str:
    return f"{sample['row']} ({sample['detail']})"


def _check_rows(task: SupervisedTask, rows: Mapping[str, Any], config: SupervisedConfig) -> None:
    wrong = {reason: n for reason, n in rows["dropped"].items() if reason in MISTAKES}
    first = next((sample for sample in rows["samples"] if sample["reason"] in wrong), None)
    if first and not config.drop_bad_rows:
        raise UserError(
            f"{sum(wrong.values()):,} rows of {task.name} do not suit the task, such as "
            f"{_place(first)}: mend the task or the rows, or leave them out with --drop-bad-rows"
        )
    if not rows["kept"]:
        why = f", such as {_place(rows['samples'][0])}" if rows["samples"] else ""
        raise UserError(f"{task.name} has no row that can be used{why}: give other files")


def check_labels(
    task: str, labels: Sequence[str], model: str, targets_length: int, option: str
) -> None:
    """Refuse labels that are cut, or that the vocabulary cannot tell apart or write.

    Args:
        task: name of their task.
        labels: the closed set of targets.
        model: the vocabulary's file.
        targets_length: most tokens of a target.
        option: what a length is given with.
    """
    vocabulary = load_vocabulary(model)
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        tokens = tuple(vocabulary.EncodeAsIds(label))
        if len(tokens) >= targets_length:
            raise UserError(
                f"label {label!r} of {task} has {len(tokens) + 1} tokens with its end: give "
                f"{option}{len(tokens) + 1} or more, not {targets_length}"
            )
        if tokens in seen:
            raise UserError(
                f"labels {seen[tokens]!r} and {label!r} of {task} are the same tokens in this "
                "vocabulary: use other words"
            )
        seen[tokens] = label
        written = vocabulary.DecodeIds(list(tokens))
        if written != label:
            raise UserError(
                f"label {label!r} of {task} comes out of this vocabulary as {written!r}: "
                "write it so, or use other words"
            )


def _keys(files: Sequence[InputFile], parts: ShardStore) -> pa.Table:
    """What the rows of all files are held against each other by, and where they stand."""
    tables = []
    for file in files:
        with storage.fetch(storage.join(parts.directory, file.path)) as local:
            table = pq.read_table(local, columns=["lang", "split", *KEYS]).sort_by("number")
        for name, value in (("part", file.path), ("file", storage.name_of(file.source))):
            table = table.append_column(name, pa.repeat(value, len(table)))
        tables.append(table)
    return pa.concat_tables(tables)


def _samples(
    keys: pa.Table, splits: Sequence[str], marked: Mapping[str, NDArray[np.bool_]]
) -> list[dict[str, str]]:
    """The first of the rows that `overlapping` marks, each with one that it overlaps."""
    names, found = np.asarray(keys["split"]), []
    for row in np.flatnonzero(marked["rows"])[:SAMPLES].tolist():
        what = "inputs" if marked["inputs"][row] else "group"
        same = keys[f"{what}_key"].to_numpy() == keys[f"{what}_key"][row].as_py()
        before = np.isin(names, splits[: splits.index(names[row])])
        own, other = (
            f"{keys['file'][number]}:{keys['number'][number]}"
            for number in (row, np.flatnonzero(same & before)[0])
        )
        found.append({"reason": OVERLAP, "row": own, "detail": f"{other} has its {what}"})
    return found


def _leave_out(keys: pa.Table, rows: dict[str, Any], parts: ShardStore) -> tuple[pa.Table, str]:
    """Leave out the rows of which a later split has the inputs or group; count them in `rows`.

    Returns:
        The others, and a file that says which are left out.
    """
    marked = overlapping(keys, SPLITS[::-1])
    shared = marked["rows"]
    if count := int(shared.sum()):
        rows["kept"] -= count
        rows["dropped"][OVERLAP] = count
        rows["samples"] += _samples(keys, SPLITS[::-1], marked)
    path = storage.join(parts.directory, "left_out.parquet")
    with storage.publish(path) as temporary:
        pq.write_table(keys.filter(pa.array(shared)).select(["part", "number"]), temporary)
    return keys.filter(pa.array(~shared)), path


def _check_overlap(
    task: SupervisedTask,
    overlap: Mapping[str, Any],
    config: SupervisedConfig,
    samples: Sequence[Mapping[str, str]] = (),
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
    text += f", such as {_place(samples[0])}" if samples else ""
    if not config.allow_overlap:
        raise UserError(
            f"{text}: {'give a group that they share, ' if BY_HASH in task.files else ''}"
            "leave the rows of the earlier split out with --drop-overlap, or build with "
            "--allow-overlap"
        )
    say(STAGE, text)


def plan_shards(
    task: str, described: Sequence[Mapping[str, Any]], parts: ShardStore
) -> list[SupervisedShard]:
    """Divide the rows of parts among shards.

    Args:
        task: its name.
        described: the parts, with `rows` by language and split.
        parts: where they lie.
    """
    rows: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], list[str]] = {}
    for part in described:
        for lang, by_split in part["rows"].items():
            for split, count in by_split.items():
                rows[lang, split] += count
                path = storage.join(parts.directory, part["path"])
                where.setdefault((lang, split), []).append(path)
    planned = []
    for (lang, split), count in sorted(rows.items()):
        of = -(-count // SHARD_ROWS)
        paths = tuple(where[lang, split])
        planned += [
            SupervisedShard(task, lang, split, number, of, paths, count) for number in range(of)
        ]
    return planned


def _check_trimmed(
    task: SupervisedTask, finished: Sequence[Mapping[str, Any]], config: SupervisedConfig
) -> None:
    """Refuse a target length that cuts too many targets of validation, or of test."""
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


def _manifest(
    task: SupervisedTask,
    vocabulary: VocabularyModel,
    config: SupervisedConfig,
    rows: Mapping[str, Any],
    overlap: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    by_lang: Mapping[str, Any],
) -> dict[str, Any]:
    definition = task.definition()
    trimmed: Counter[str] = Counter()
    for shard in finished:
        trimmed.update(shard["trimmed"])
    return {
        "kind": KIND,
        "finished": True,
        "inputs_length": config.inputs_length,
        "targets_length": config.targets_length,
        "vocabulary_size": vocabulary.size,
        "vocabulary_sha256": hashlib.sha256(vocabulary.model).hexdigest(),
        "languages": by_lang,
        "task": {
            **{name: definition[name] for name in ("name", "inputs", "targets")},
            "labels": None if task.labels is None else list(task.labels.values()),
            "metrics": list(task.metrics),
            "hash": hashlib.sha256(canonical_json(definition).encode()).hexdigest()[:16],
        },
        "rows": rows,
        "overlap": overlap,
        "trimmed": {name: trimmed[name] for name in ("inputs", "targets")},
    }
