"""The corpus stage: crawl files in, a deduplicated corpus by language out.

Fingerprints are shuffled, never text. Ingest turns each input file into pages with fingerprints;
two contests decide which page stands for a URL and which URL owns a line; then the decisions are
applied, languages identified, and shards written. Every phase is a Beam job that goes on where a
killed one stopped (pipelines.corpus.phases).
"""

import collections
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.corpus.accounts import Ledger, check_accounts
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.work_directory import WorkDirectory, read_json
from pipelines.crawl.archives import CrawlFile, find_crawl_files
from pipelines.errors import UserError
from pipelines.outputs import MANIFEST, StagedOutput, stage_output, write_json
from pipelines.progress import say
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
        out: the directory to make.
        config: what decides the bytes of the corpus, besides its input.
        runner: where the Beam jobs run. Other runners than local need `out` and the input on a
            file system that every worker mounts under the same path.
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
    with stage_output(out, stage=STAGE, config=identity) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out} has this input and these settings, nothing to do")
            return {**_summary(staged.out), "reused": True}
        if not (staged.directory / MANIFEST).exists():
            pipeline_options(runner, beam_options)  # complains before any work is done
            _build(staged, files, config, runner, beam_options)
        # Once the manifest stands, all data does; a run killed from here on only cleans up.
        manifest = read_json(staged.directory / MANIFEST)
        shutil.rmtree(staged.directory / "work", ignore_errors=True)
        for leftover in staged.directory.rglob(".*.tmp"):
            leftover.unlink()
        staged.publish({key: manifest[key] for key in ("inputs", "shards")})
        summary = {**_summary(staged.out), "reused": False}
        say(STAGE, f"{summary['documents']:,} documents in {summary['languages']} languages: {out}")
        return summary


def _input_identity(file: CrawlFile, out: str | Path) -> dict[str, Any]:
    return {
        "path": os.path.relpath(file.path, out),
        "bytes": file.size_bytes,
        "digest": file.digest,
    }


def _build(
    staged: StagedOutput,
    files: Sequence[CrawlFile],
    config: CorpusConfig,
    runner: str,
    beam_options: Sequence[str],
) -> None:
    """Run all phases and write everything but the marker; the manifest comes last."""
    from pipelines.corpus.phases import Build

    work = WorkDirectory(str((staged.directory / "work").absolute()))
    work.make()
    directory = staged.directory.absolute()
    build = Build(tuple(files), work, directory, config, runner, tuple(beam_options))
    build.ingest()
    build.settle("winners")
    build.settle("owners")
    build.finish()
    ledgers = [
        [read_json(path(unit))["ledger"] for path in (work.ingested, work.finished)]
        for unit in range(len(files))
    ]
    ledger = Ledger(config.rejected_per_reason)
    for pair in ledgers:
        for part in pair:
            ledger.merge(part)
    if not ledger.kept["language"]:
        shutil.rmtree(staged.directory)
        raise UserError(
            f"no document survived: all {ledger.entered('read'):,} records of {len(files)} files "
            f"were dropped ({ledger.describe_drops() or 'there were none'}): "
            "give other input, or lower the thresholds"
        )
    shards = [read_json(work.shard(shard.name)) for shard in build.write_shards()]
    stats = _statistics(ledger, shards)
    write_json(staged.directory / "stats.json", stats)
    ledger.write_samples(staged.directory / "rejected")
    manifest = {
        "inputs": [
            {**_input_identity(file, staged.out), **_input_status(file, pair[0])}
            for file, pair in zip(files, ledgers, strict=True)
        ],
        "shards": [shard["manifest"] for shard in shards],
    }
    write_json(staged.directory / MANIFEST, manifest)


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


def _summary(out: Path) -> dict[str, Any]:
    stats = read_json(out / "stats.json")
    splits = [split for lang in stats["languages"].values() for split in lang.values()]
    return {
        "stage": STAGE,
        "out": str(out),
        "documents": sum(split["documents"] for split in splits),
        "languages": len(stats["languages"]),
        "bytes": sum(split["bytes"] for split in splits),
        "records": stats["stages"][0]["in"],
        "dropped": sum(sum(stage["dropped"].values()) for stage in stats["stages"]),
    }
