"""Writes an examples directory: its shards and seqio's cache metadata.

The layout is seqio's cache: a folder for each seqio task, with an index beside each shard. A
finished shard has a description beside the output; after a kill, other shards are written again.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from mswitch.pipelines import storage
from mswitch.pipelines.examples.tfrecord import index_path
from mswitch.pipelines.file_tasks import Engine, Tasks, run_tasks
from mswitch.pipelines.outputs import RemoteOutput, StagedOutput, read_manifest, write_atomically
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import worker_processes
from mswitch.pipelines.vocabulary.model import MODEL_FILE, VocabularyModel

STAGE = "examples"
#: Name of the working files with descriptions of finished shards.
NOTES = "units"
#: Version of seqio whose cache layout is written.
SEQIO_VERSION = "0.0.20"
#: Description of a token feature in seqio's `info.<split>.json`.
TOKENS: Mapping[str, Any] = MappingProxyType({"shape": [None], "dtype": "int32"})


class Shard(Protocol):
    """A file to write, with the size of its source."""

    @property
    def size_bytes(self) -> int: ...  # noqa: D102


#: Writes a shard below `directory`; returns its description, with `records` and `size_bytes`.
Write = Callable[..., dict[str, Any]]


def working_files(directory: str, name: str) -> str:
    """Return the directory of working files.

    It is beside a local directory, so that nothing of it stays there, and within one in a bucket.
    """
    remote = storage.is_remote(directory)
    return storage.join(directory, f"_{name}") if remote else f"{directory}.{name}"


def write_vocabulary(directory: str, vocabulary: VocabularyModel) -> str:
    """Write the vocabulary into the directory; return the path of its model."""
    model = storage.join(directory, "vocabulary", MODEL_FILE)
    storage.make_directory(storage.join(directory, "vocabulary"))
    write_atomically(model, vocabulary.model)
    return model


def write_missing(
    planned: Sequence[Shard], directory: str, write: Write, engine: Engine, noun: str
) -> list[dict[str, Any]]:
    """Write the shards that no earlier run finished; return the descriptions of all shards.

    `write` writes a shard, on `engine`; `noun` is a word for the shards, for people.
    """
    tasks = Tasks(
        noun,
        functools.partial(write, directory=directory),
        planned,
        working_files(directory, NOTES),
        [shard.size_bytes for shard in planned],
    )
    done = len(planned) - len(tasks.todo())
    say(STAGE, f"{done:,} of {len(planned):,} {noun} already exist")
    with worker_processes(engine.runner, engine.beam_options):
        run_tasks([tasks], engine)
    return list(tasks.read())


def publish(
    staged: StagedOutput | RemoteOutput,
    finished: Sequence[Mapping[str, Any]],
    vocabulary: VocabularyModel,
    features: Mapping[str, Mapping[str, Mapping[str, Any]]],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the files that seqio's own cache has beside its shards; publish the directory.

    `finished` has the descriptions of all shards. `features` has, by split, the features that seqio
    reads, with shape and type. `said` has further entries of the manifest. Return its `languages`.
    """
    directory = str(staged.directory)
    languages = _describe(finished, directory, features)
    vocabulary_entries = {
        "vocabulary_size": vocabulary.size,
        "vocabulary_sha256": vocabulary.model_sha256,
    }
    staged.publish({**vocabulary_entries, "languages": languages, **said})
    storage.remove_tree(working_files(directory, NOTES))
    return languages


def _describe(
    finished: Sequence[Mapping[str, Any]],
    directory: str,
    features: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """Return a description of each language; write seqio's files; remove splits without records."""
    by_split: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for shard in finished:
        by_split.setdefault(shard["lang"], {}).setdefault(shard["split"], []).append(shard)
    languages: dict[str, dict[str, Any]] = {}
    for lang, splits in by_split.items():
        [[first, *_], *_] = splits.values()
        task = storage.join(directory, os.path.dirname(first["path"]))
        for split, shards in splits.items():
            entry = _make_entry(shards)
            if entry["records"]:
                languages.setdefault(lang, {})[split] = entry
                _write_cache_metadata(task, split, shards, features[split])
            else:
                paths = [storage.join(directory, shard["path"]) for shard in shards]
                named = [*paths, *map(index_path, paths)]
                storage.remove([path for path in named if storage.exists(path)])
        if lang in languages:
            write_atomically(storage.join(task, "COMPLETED"), b"")
        else:
            storage.remove_tree(task)
    return languages


def _make_entry(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"records": sum(shard["records"] for shard in shards)}
    for name in ("tokens", "documents", "copies", "bytes"):
        entry[name] = sum(shard["counts"][name] for shard in shards)
    if entry["copies"] in (0, entry["documents"]):
        del entry["copies"]
    names = {"path": "path", "records": "records", "bytes": "size_bytes", "sha256": "sha256"}
    entry["shards"] = [{name: shard[own] for name, own in names.items()} for shard in shards]
    return entry


def _write_cache_metadata(
    task: str,
    split: str,
    shards: Sequence[Mapping[str, Any]],
    features: Mapping[str, Mapping[str, Any]],
) -> None:
    info = {
        "num_shards": len(shards),
        "features": {name: dict(kind) for name, kind in features.items()},
        "seqio_version": SEQIO_VERSION,
    }
    stats = {"examples": sum(shard["records"] for shard in shards)}
    counts = [shard["counts"] for shard in shards]
    for name in (name for name, kind in features.items() if kind == TOKENS):
        stats[f"{name}_tokens"] = sum(count[f"{name}_tokens"] for count in counts)
        stats[f"{name}_max_tokens"] = max(count[f"{name}_max_tokens"] for count in counts)
    storage.write_json(storage.join(task, f"info.{split}.json"), info)
    storage.write_json(storage.join(task, f"stats.{split}.json"), stats)


def summarize_examples(out: str | Path, splits: Sequence[str], *, reused: bool) -> dict[str, Any]:
    """Count records and tokens of a published directory, for the command to print."""
    manifest = read_manifest(out, STAGE)
    counts: dict[str, Any] = {}
    for split in splits:
        entries = [entry[split] for entry in manifest["languages"].values() if split in entry]
        counts[f"{split}_records"] = sum(entry["records"] for entry in entries)
        counts[f"{split}_tokens"] = sum(entry["tokens"] for entry in entries)
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "languages": len(manifest["languages"]),
        **counts,
    }
