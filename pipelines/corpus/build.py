"""The corpus stage: crawl files in, a deduplicated corpus by language out.

Fingerprints are shuffled, never text. Ingest turns each input file into pages with fingerprints;
two contests decide which page stands for a URL and which URL owns a line; then the decisions are
applied, languages identified, and shards written. Every phase is a Beam job that goes on where a
killed one stopped (pipelines.corpus.phases).
"""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.corpus.accounts import Ledger, check_accounts
from pipelines.corpus.card import data_card
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.work_directory import CONTESTS, WorkDirectory
from pipelines.crawl.archives import CrawlFile, find_crawl_files
from pipelines.errors import UserError
from pipelines.outputs import MANIFEST, StagedOutput, write_atomically, write_json
from pipelines.progress import say
from pipelines.remote_outputs import RemoteOutput, stage_output_anywhere
from pipelines.runners import RunnerName, pipeline_options

__all__ = ["CorpusConfig", "build_corpus"]

STAGE = "corpus"


def build_corpus(
    inputs: Sequence[str],
    out: str | Path,
    config: CorpusConfig,
    *,
    runner: RunnerName = "local",
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Build a corpus from Common Crawl files.

    Args:
        inputs: paths or globs of WET and WARC files, gzip or plain, told apart by their records.
        out: the directory to make, or a URL such as gs://bucket/corpus.
        config: what decides the bytes of the corpus, besides its input.
        runner: where the Beam jobs run. Every worker must see `out` and the input: by URL, or on
            a file system that is mounted under the same path.
        beam_options: options for Beam itself.

    Returns:
        A summary: stage, out, reused, documents, languages, bytes, records, dropped.

    Raises:
        UserError: bad input or options, or nothing survived.
        RuntimeError: the accounts do not balance; nothing is published.
    """
    files = find_crawl_files(inputs)
    identity = {
        **dataclasses.asdict(config),
        "inputs": [_input_identity(file, out) for file in files],
    }
    with stage_output_anywhere(out, stage=STAGE, config=identity) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out} has this input and these settings, nothing to do")
            return {**_summary(str(staged.out)), "reused": True}
        directory = str(staged.directory)
        if MANIFEST not in storage.list_names(directory):
            pipeline_options(runner, beam_options)  # complains before any work is done
            _build(staged, files, config, runner, beam_options)
        # Once the manifest stands, all data does; a run killed from here on only cleans up.
        manifest = storage.read_json(storage.join(directory, MANIFEST))
        storage.remove_tree(_work_directory(staged).root)
        if not storage.is_remote(directory):
            for leftover in Path(directory).rglob(".*.tmp"):
                leftover.unlink()
        staged.publish({key: manifest[key] for key in ("inputs", "shards")})
        summary = {**_summary(str(staged.out)), "reused": False}
        say(STAGE, f"{summary['documents']:,} documents in {summary['languages']} languages: {out}")
        return summary


def _input_identity(file: CrawlFile, out: str | Path) -> dict[str, Any]:
    return {
        "path": _relative(file.path, str(out)),
        "bytes": file.size_bytes,
        "digest": file.digest,
    }


def _relative(path: str, out: str) -> str:
    """Name an input so that moving both input and output changes nothing, where that can be."""
    local = not storage.is_remote(path) and not storage.is_remote(out)
    return os.path.relpath(path, out) if local else path


def _work_directory(staged: StagedOutput | RemoteOutput) -> WorkDirectory:
    directory = str(staged.directory)
    absolute = directory if storage.is_remote(directory) else os.path.abspath(directory)
    return WorkDirectory(storage.join(absolute, "work"))


def _build(
    staged: StagedOutput | RemoteOutput,
    files: Sequence[CrawlFile],
    config: CorpusConfig,
    runner: str,
    beam_options: Sequence[str],
) -> None:
    """Run all phases and write everything but the marker; the manifest comes last."""
    from pipelines.corpus.phases import Build

    work = _work_directory(staged)
    work.make()
    directory = os.path.dirname(work.root)
    build = Build(tuple(files), work, directory, config, runner, tuple(beam_options))
    build.ingest()
    shuffled = {contest: build.settle(contest) for contest in CONTESTS}
    build.finish()
    units = range(len(files))
    ingested, finished = (
        [accounts["ledger"] for accounts in storage.read_json_files([path(n) for n in units])]
        for path in (work.ingested, work.finished)
    )
    ledger = Ledger(config.rejected_per_reason)
    for part in (*ingested, *finished):
        ledger.merge(part)
    if not ledger.kept["language"]:
        staged.discard()
        raise UserError(
            f"no document survived: all {ledger.entered('read'):,} records of {len(files)} files "
            f"were dropped ({ledger.describe_drops() or 'there were none'}): "
            "give other input, or lower the thresholds"
        )
    shards = list(
        storage.read_json_files([work.shard(shard.name) for shard in build.write_shards()])
    )
    stats = {**_statistics(ledger, shards), "shuffled_bytes": shuffled}
    write_json(storage.join(directory, "stats.json"), stats)
    ledger.write_samples(storage.join(directory, "rejected"))
    manifest = {
        "inputs": [
            {**_input_identity(file, staged.out), **_input_status(file, accounts)}
            for file, accounts in zip(files, ingested, strict=True)
        ],
        "shards": [shard["manifest"] for shard in shards],
    }
    for name, text in data_card(dataclasses.asdict(config), manifest, stats).items():
        write_atomically(storage.join(directory, name), text)
    write_json(storage.join(directory, MANIFEST), manifest)


def _input_status(file: CrawlFile, ledger: dict[str, Any]) -> dict[str, Any]:
    """Say in what state a file was: read, damaged, empty or not_an_archive."""
    dropped = ledger["dropped"]["read"]
    names = {"empty": "empty", "other": "not_an_archive"}
    status = names.get(file.state, "damaged" if "damaged" in dropped else "read")
    pages = ledger["kept"].get("read", 0)
    return {"status": status, "records": pages + sum(dropped.values()), "pages": pages}


def _statistics(ledger: Ledger, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return stats.json, after checking that the accounts balance."""
    languages: dict[str, dict[str, collections.Counter[str]]] = {}
    for shard in shards:
        lang, split = shard["manifest"]["lang"], shard["manifest"]["split"]
        of_lang = languages.setdefault(lang, {})
        of_lang.setdefault(split, collections.Counter()).update(shard["statistics"])
    documents = sum(shard["manifest"]["rows"] for shard in shards)
    ledger.keep("write", documents)
    stages = ledger.stages()
    check_accounts(stages, documents)
    lines = dict(ledger.lines)
    kept_lines = lines.pop("out", 0)
    return {
        "languages": {
            lang: {split: dict(total) for split, total in splits.items()}
            for lang, splits in languages.items()
        },
        "stages": stages,
        "lines": {
            "in": kept_lines + sum(lines.values()),
            "out": kept_lines,
            "dropped": dict(sorted(lines.items())),
        },
    }


def _summary(out: str) -> dict[str, Any]:
    stats = storage.read_json(storage.join(out, "stats.json"))
    splits = [split for lang in stats["languages"].values() for split in lang.values()]
    return {
        "stage": STAGE,
        "out": out,
        "documents": sum(split["documents"] for split in splits),
        "languages": len(stats["languages"]),
        "bytes": sum(split["bytes"] for split in splits),
        "records": stats["stages"][0]["in"],
        "dropped": sum(sum(stage["dropped"].values()) for stage in stats["stages"]),
    }
