"""An examples directory while it is made: its shards, seqio's cache metadata, what is left to do.

The layout is that of seqio's cache, a folder for each seqio task, with an index beside each shard.
A finished shard leaves a description beside the output; after a kill, only shards without one are
written again.
"""

import dataclasses
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
#: The seqio whose cache layout is written.
SEQIO_VERSION = "0.0.20"
#: Features as seqio's `info.<split>.json` describes them.
TOKENS: Mapping[str, Any] = MappingProxyType({"shape": [None], "dtype": "int32"})


class Shard(Protocol):
    """One file to write, relative to its directory, and the bytes that it is made from."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102


#: Takes a shard and `directory`, writes it below that; returns its description, with `records` and
#: `size_bytes`.
Write = Callable[..., dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ShardStore:
    """Where shards and the descriptions of finished ones lie.

    Attributes:
        directory: the examples directory that is being made.
        descriptions: one JSON file per finished shard.
    """

    directory: str
    descriptions: str


def shard_store(staged: StagedOutput | RemoteOutput, work: str = "") -> ShardStore:
    """Return where shards and their descriptions lie.

    Beside a local output, of which they leave no trace; within it in a bucket.

    Args:
        staged: the output.
        work: name of a folder of working files in place of the output itself.
    """
    directory = str(staged.directory)
    if storage.is_remote(directory):
        own = storage.join(directory, f"_{work}") if work else directory
        return ShardStore(own, storage.join(directory, f"_{work}_units" if work else "_units"))
    own = f"{directory}.{work}" if work else directory
    return ShardStore(own, f"{own}.units")


def write_vocabulary(directory: str, vocabulary: VocabularyModel) -> str:
    """Put the vocabulary into the directory and return the path of its model."""
    model = storage.join(directory, "vocabulary", MODEL_FILE)
    storage.make_directory(storage.join(directory, "vocabulary"))
    write_atomically(model, vocabulary.model)
    return model


def write_missing(
    planned: Sequence[Shard], store: ShardStore, write: Write, engine: Engine, noun: str
) -> list[dict[str, Any]]:
    """Write what an earlier run did not finish; return all descriptions in the order of `planned`.

    Args:
        planned: all shards.
        store: where they lie.
        write: writes one of them.
        engine: where that runs.
        noun: what people call what is written.
    """
    tasks = Tasks(
        noun,
        functools.partial(write, directory=store.directory),
        planned,
        store.descriptions,
        [shard.size_bytes for shard in planned],
    )
    done = len(planned) - len(tasks.todo())
    say(STAGE, f"{done:,} of {len(planned):,} {noun} are there already")
    with worker_processes(engine.runner, engine.beam_options):
        run_tasks([tasks], engine)
    return list(tasks.read())


def describe(finished: Sequence[dict[str, Any]], directory: str) -> dict[str, Any]:
    """`languages` of the manifest; a split without any record is removed and left out."""
    languages: dict[str, dict[str, Any]] = {}
    folders = {shard["lang"]: os.path.dirname(shard["path"]) for shard in finished}
    counted = ("records", "tokens", "documents", "copies", "bytes")
    for shard in finished:
        entry = languages.setdefault(shard["lang"], {}).setdefault(
            shard["split"], {**dict.fromkeys(counted, 0), "shards": []}
        )
        entry["records"] += shard["records"]
        for name in ("tokens", "documents", "bytes"):
            entry[name] += shard["counts"][name]
        entry["copies"] += shard["counts"].get("copies", 0)
        entry["shards"].append(
            {
                "path": shard["path"],
                "records": shard["records"],
                "bytes": shard["size_bytes"],
                "sha256": shard["sha256"],
            }
        )
    for lang, splits in list(languages.items()):
        for split in [name for name, entry in splits.items() if not entry["records"]]:
            paths = [
                storage.join(directory, shard["path"]) for shard in splits.pop(split)["shards"]
            ]
            named = [*paths, *map(index_path, paths)]
            storage.remove([path for path in named if storage.exists(path)])
        if not splits:
            storage.remove_tree(storage.join(directory, folders[lang]))
            del languages[lang]
        for entry in splits.values():
            if entry["copies"] in (0, entry["documents"]):
                del entry["copies"]
    return languages


def write_cache_metadata(
    finished: Sequence[dict[str, Any]],
    described: dict[str, Any],
    directory: str,
    features: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    """Write info, stats and COMPLETED of every seqio task, as seqio's own caching does.

    Args:
        finished: descriptions of all shards.
        described: `languages` of the manifest.
        directory: the examples directory.
        features: by split, the features that seqio reads, with shape and type.
    """
    folders = {shard["lang"]: os.path.dirname(shard["path"]) for shard in finished}
    for lang, splits in described.items():
        task = storage.join(directory, folders[lang])
        for split, entry in splits.items():
            info = {
                "num_shards": len(entry["shards"]),
                "features": {name: dict(kind) for name, kind in features[split].items()},
                "seqio_version": SEQIO_VERSION,
            }
            counts = [
                shard["counts"]
                for shard in finished
                if shard["lang"] == lang and shard["split"] == split
            ]
            stats = {"examples": entry["records"]}
            for name in (name for name, kind in features[split].items() if kind == TOKENS):
                stats[f"{name}_tokens"] = sum(count[f"{name}_tokens"] for count in counts)
                stats[f"{name}_max_tokens"] = max(count[f"{name}_max_tokens"] for count in counts)
            storage.write_json(storage.join(task, f"info.{split}.json"), info)
            storage.write_json(storage.join(task, f"stats.{split}.json"), stats)
        write_atomically(storage.join(task, "COMPLETED"), b"")


def summary_of(out: str | Path, splits: Sequence[str], *, reused: bool) -> dict[str, Any]:
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
