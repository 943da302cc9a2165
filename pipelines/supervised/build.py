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

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge

from pipelines import storage
from pipelines.errors import UserError
from pipelines.examples.directory import (
    STAGE,
    TOKENS,
    describe,
    shard_store,
    summary_of,
    write_cache_metadata,
    write_missing,
    write_vocabulary,
)
from pipelines.examples.shard_store import BeamJob, ShardStore
from pipelines.examples.span_corruption import Lengths
from pipelines.faults import fault_point
from pipelines.languages import languages
from pipelines.outputs import (
    canonical_json,
    file_sha256,
    read_manifest,
    stage_output_anywhere,
)
from pipelines.progress import say
from pipelines.runners import pipeline_options
from pipelines.supervised.definition import SPLITS, SupervisedTask, read_task
from pipelines.supervised.shards import (
    SAMPLES,
    InputFile,
    SupervisedShard,
    read_file,
    write_shard,
)
from pipelines.supervised.split import count_overlap
from pipelines.validation import check_fields
from pipelines.vocabulary.model import VocabularyModel, load_vocabulary, open_vocabulary

KIND = "supervised"
#: Rows of a shard.
SHARD_ROWS = 50_000
#: Rows that only a wrong task or wrong data has: they are refused, and not only counted.
MISTAKES = ("no_field", "not_text", "unknown_label", "unknown_language", "empty_text")
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
        targets_length: decoder positions; likewise.
        allow_overlap: build though validation or test have inputs that training has too.
        drop_bad_rows: leave rows out that lack a field, have another label or no text, which
            otherwise end the build. Rows that are damaged are left out and counted always.
    """

    inputs_length: Annotated[int, Ge(2)] = 512
    targets_length: Annotated[int, Ge(2)] = 128
    allow_overlap: bool = False
    drop_bad_rows: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

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
        runner: where the Beam jobs run (`pipelines.runners`); their workers must see `out`.
        beam_options: Beam's own options.

    Raises:
        UserError: task, rows or vocabulary are wrong, or `out` cannot be used.
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
        rows = _rows(described)
        _say_rows(rows)
        _say_languages(described)
        _check_rows(defined, rows, config)
        overlap = _overlap(described, parts)
        _check_overlap(defined, overlap, config)
        fault_point("examples.after_rows")
        write = functools.partial(write_shard, model=model, lengths=config.lengths)
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


def _overlap(described: Sequence[Mapping[str, Any]], parts: ShardStore) -> Mapping[str, Any]:
    columns = ["lang", "split", "inputs_key", "pair_key"]
    tables = []
    for part in described:
        with storage.fetch(storage.join(parts.directory, part["path"])) as local:
            tables.append(pq.read_table(local, columns=columns))
    return count_overlap(pa.concat_tables(tables), SPLITS)


def _check_overlap(
    task: SupervisedTask, overlap: Mapping[str, Any], config: SupervisedConfig
) -> None:
    if not overlap:
        return
    totals: Counter[str] = Counter()
    for by_split in overlap.values():
        totals.update({split: counts["inputs"] for split, counts in by_split.items()})
    worst = sorted(overlap, key=lambda lang: -sum(n["inputs"] for n in overlap[lang].values()))
    named = ", ".join(
        f"{lang} {sum(counts['inputs'] for counts in overlap[lang].values()):,}"
        for lang in worst[:3]
    )
    counted = " and ".join(f"{n:,} of {split}" for split, n in totals.items())
    text = f"splits of {task.name} overlap: inputs {counted} are in an earlier split too ({named}"
    text += ", ...)" if len(worst) > 3 else ")"
    if not config.allow_overlap:
        raise UserError(
            f'{text}: with split = "hash", give a group that they share; with files by split, '
            "remove them, or build with --allow-overlap"
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
