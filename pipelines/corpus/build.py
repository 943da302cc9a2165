"""The corpus stage: makes a deduplicated corpus by language from crawl files.

A recipe has the rules (mswitch.pipelines.corpus.recipes). Ingest turns each input file into pages
with deduplication keys. Keys are shuffled, never text; of equal keys, the smallest wins. Finish
applies these choices, then shards are written. Every phase is lists of file tasks, which continue
where a killed build stopped (mswitch.pipelines.corpus.phases).
"""

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.append import merge_addition, open_for_addition
from mswitch.pipelines.corpus.build_warnings import (
    describe_nothing,
    say_labels,
    say_what_dropped_half,
    warn_of_drops,
    warn_of_files,
)
from mswitch.pipelines.corpus.card import CARD, render_card
from mswitch.pipelines.corpus.change import (
    DECONTAMINATION,
    STATS,
    WORK,
    Base,
    begin_change,
    decide_change,
    finish_decided,
    finish_interrupted,
    locate_staging,
    publish_change,
)
from mswitch.pipelines.corpus.config import CorpusConfig, refuse_recipe_object
from mswitch.pipelines.corpus.from_corpus import BuildFromCorpus, list_shard_inputs, open_source
from mswitch.pipelines.corpus.job import prepare_job
from mswitch.pipelines.corpus.kept_columns import resolve_columns
from mswitch.pipelines.corpus.ledger import Ledger, check_accounts, sum_drops
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.results import list_dropped_records, make_ledger
from mswitch.pipelines.corpus.rules.decontamination import Decontaminate, report_contamination
from mswitch.pipelines.corpus.validation_split import say_without_validation
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import CrawlFile, find_crawl_files
from mswitch.pipelines.dataflow_prices import UNLIMITED, Cost
from mswitch.pipelines.directory_lock import follow_link, lock_directory
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Engine
from mswitch.pipelines.languages import UNDETERMINED
from mswitch.pipelines.local_pool import start_server
from mswitch.pipelines.outputs import (
    MANIFEST,
    config_hash,
    file_entry,
    read_manifest,
    stage_output_anywhere,
    write_atomically,
)
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import RunnerName, use_runner, worker_processes

__all__ = ["CorpusConfig", "build_corpus"]

STAGE = "corpus"
#: Columns of `rejected/records.parquet`. `records` counts dropped records; `offsets` locates the
#: first ones (in Parquet, by row number).
_DROPPED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("offsets", pa.list_(pa.int64()), nullable=False),
    ]
)
_ROW_GROUP = 1000


def build_corpus(
    inputs: Sequence[str],
    out: str | Path,
    config: CorpusConfig,
    *,
    badwords: str | Path | None = None,
    runner: RunnerName = "local",
    beam_options: Sequence[str] = (),
    append: bool = False,
    source_corpus: str | Path = "",
    cost: Cost = UNLIMITED,
) -> dict[str, Any]:
    """Build a corpus from crawl files, or from the documents of a corpus.

    Args:
        inputs: paths, globs or URLs of WET, WARC, ARC and JSON Lines files (plain, gzip or zstd)
            and of Parquet files, told apart by their content.
        out: the directory to make, or a URL such as gs://bucket/corpus.
        config: see `CorpusConfig`.
        badwords: a directory of bad-word lists in LDNOOBW's layout, or its URL; None filters
            none.
        runner: where tasks run. Every worker must see `out` and the input, by URL or on a file
            system mounted at the same path.
        beam_options: options for Beam itself.
        append: add the input to the finished corpus at `out`; see
            `mswitch.pipelines.corpus.append`.
        source_corpus: a finished corpus instead of `inputs`; see
            `mswitch.pipelines.corpus.from_corpus`.
        cost: limit of the build's cost on Dataflow.

    Returns:
        A summary: stage, out, reused, documents, languages, bytes, records, dropped;
        dropped_by_reason (most frequent first), made_urls (pages without one), undated_pages and
        unread_inputs (damaged, or not understood) by path. An addition first has new_records,
        new_documents, newly_dropped and newly_dropped_by_reason.

    Raises:
        RuntimeError: the accounts do not balance; nothing is published.
    """
    if bool(inputs) == bool(source_corpus) or (append and source_corpus):
        raise UserError(
            "give --input (crawl files) or --from (a finished corpus, to judge its documents "
            "again); --append needs --input"
        )
    refuse_recipe_object(config)
    source = config.source()
    if badwords is None and config.badwords_filter_fraction is not None and not source:
        raise UserError("badwords_filter_fraction needs lists of bad words: give them too")
    recipe = config.load(source, "" if badwords is None else str(badwords))
    for line in config.replaced(recipe, source) if source else ():
        say(STAGE, line)
    if runner == "local":
        # The server starts while this process looks for input.
        start_server(recipe.preload)
    use_runner(runner, beam_options, cost)
    files = tuple(find_crawl_files(inputs)) if inputs else ()
    base = str(source_corpus or (out if append else ""))
    known = read_manifest(base, STAGE)["config"].get("keep", ()) if base else ()
    resolved = resolve_columns(config, files, base, known, grows=append)
    if resolved.keep:
        config, recipe = resolved, resolved.load(source, str(badwords or ""))
    settings = config.settings(recipe, source)
    old = open_source(source_corpus, settings, recipe) if source_corpus else None
    listed = list_shard_inputs(old[0]) if old else [_identify_input(file, out) for file in files]

    def run(staging: str, directory: str, base: Base | None = None) -> None:
        # The manifest is written after all data: if it exists, only cleaning up is left.
        work = WorkDirectory(storage.join(staging, WORK))
        if not storage.exists(storage.join(staging, MANIFEST)):
            removals = base.removals if base else ()
            job = prepare_job(work, config, recipe, source, removals)
            # If files are added to a corpus, the path `staging` has a hash of the corpus's state.
            identity = config_hash(STAGE, {**settings, "inputs": listed, "staging": staging})
            meters = work.directory("meters")
            engine = Engine(STAGE, directory, identity, runner, tuple(beam_options), cost, meters)
            build = (
                BuildFromCorpus(files, job, directory, engine, source=old[0], changed=old[1])
                if old
                else Build(files, job, directory, engine, base)
            )
            rejected = f"{str(out).rstrip('/')}.rejected.jsonl"
            with worker_processes(runner, beam_options):
                _assemble(build, staging, settings, listed, rejected)
        storage.remove_tree(work.root)

    if append:
        if not storage.is_remote(out):
            out = follow_link(out)
        return _add(out, settings, recipe, listed, run)
    with stage_output_anywhere(out, stage=STAGE, config={**settings, "inputs": listed}) as staged:
        if staged.complete:
            finish_interrupted(staged.out)
            say(STAGE, f"already complete: {out} has this input and these settings, nothing to do")
            return {**_summarize(str(staged.out)), "reused": True}
        directory = _make_absolute(staged.directory)
        run(directory, directory)
        manifest = storage.read_json(storage.join(directory, MANIFEST))
        staged.publish(manifest)
        return _report(str(staged.out))


def _assemble(
    build: Build,
    staging: str,
    settings: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    rejected_if_empty: str,
) -> None:
    """Run all phases; write the manifest last."""
    build.ingest()
    build.finish()
    recipe = build.job.recipe
    ledger = make_ledger(build.job)
    for part in (build.ingested.ledger, build.finished.ledger):
        ledger.merge(part.to_json())
    warn_of_files(build.files, build.ingested.statuses, build.job.config)
    if not ledger.kept[recipe.stages[-2]] and not build.base:
        storage.remove_tree(staging)
        ledger.write_all_samples(rejected_if_empty)
        raise UserError(
            f"no document survived: {describe_nothing(ledger, recipe, len(inputs))}; "
            f"{rejected_if_empty} has samples of what was dropped"
        )
    warn_of_drops(ledger)
    say_what_dropped_half(ledger, recipe)
    say_labels(ledger)
    shards, fingerprints = build.write()
    manifest = {
        "inputs": [
            {**identity, **status} for identity, status in zip(inputs, build.statuses, strict=True)
        ],
        "shards": [shard["manifest"] for shard in shards],
        "fingerprints": fingerprints,
        **build.list_manifest_entries(),
    }
    stats = {**_compute_statistics(ledger, shards), "shuffled_bytes": build.count_shuffled_bytes()}
    storage.write_json(storage.join(staging, STATS), stats)
    folder = build.base.rejected if build.base else "rejected"
    rejected = storage.join(build.directory, folder)
    ledger.write_samples(rejected)
    names = [file.name for file in build.files]
    _write_dropped(rejected, list_dropped_records(names, build.ingest_tasks.read()))
    if rule := recipe.find_first(Decontaminate):
        report = report_contamination(rule.loaded, ledger.notes[rule.name])
        storage.write_json(
            storage.join(staging, DECONTAMINATION), build.merge_contamination(report)
        )
    # A killed writer may have left files whose names begin with a dot.
    names = [name for name in storage.file_sizes(rejected) if not name.startswith(".")]
    written = {f"{folder}/{name}": storage.join(rejected, name) for name in names}
    written |= {name: storage.join(staging, name) for name in (STATS, DECONTAMINATION)}
    manifest["files"] = [
        file_entry(path, storage.read_bytes(file))
        for path, file in sorted(written.items())
        if storage.exists(file)
    ]
    if not build.base:
        card = render_card(settings, manifest, stats, recipe)
        write_atomically(storage.join(staging, CARD), card)
        # An earlier build that kept no document wrote this file of samples.
        if storage.exists(rejected_if_empty):
            storage.remove([rejected_if_empty])
    storage.write_json(storage.join(staging, MANIFEST), manifest)


def _write_dropped(directory: str, dropped: Iterator[dict[str, Any]]) -> None:
    with (
        storage.publish(storage.join(directory, "records.parquet")) as temporary,
        pq.ParquetWriter(temporary, _DROPPED, compression="zstd") as writer,
    ):
        while rows := list(itertools.islice(dropped, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(rows, _DROPPED))


def _compute_statistics(ledger: Ledger, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of stats.json; check that no record was lost or added."""
    languages: dict[str, dict[str, collections.Counter[str]]] = {}
    for shard in shards:
        lang, split = shard["manifest"]["lang"], shard["manifest"]["split"]
        splits_of_lang = languages.setdefault(lang, {})
        splits_of_lang.setdefault(split, collections.Counter()).update(shard["statistics"])
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
        "dropped_languages": ledger.dropped_languages(),
        **({"labels": dict(sorted(ledger.labels.items()))} if ledger.labels else {}),
    }


def _add(
    out: str | Path,
    settings: Mapping[str, Any],
    recipe: Recipe,
    inputs: Sequence[Mapping[str, Any]],
    run: Callable[[str, str, Base], None],
) -> dict[str, Any]:
    inputs_hash = config_hash("corpus-addition", {"inputs": inputs})
    with contextlib.nullcontext() if storage.is_remote(out) else lock_directory(out):
        base = open_for_addition(out, settings, recipe)
        if finish_decided(base):
            say(STAGE, f"published a change of {out} that was ready when its command was killed")
            base = open_for_addition(out, settings, recipe)
        reused = any(addition["inputs_hash"] == inputs_hash for addition in base.additions)
        if reused:
            say(STAGE, f"already added: {out} has this input, nothing to do")
        else:
            staging = locate_staging(base, inputs_hash)
            begin_change(base, staging, {"inputs": list(inputs)})
            # Objects cannot be renamed, so remote shards are written at their final place.
            run(staging, base.directory if storage.is_remote(out) else staging, base)
            decide_change(staging, merge_addition(base, staging, inputs_hash))
            publish_change(base, staging)
        return {**_summarize(str(out)), "reused": True} if reused else _report(str(out), base.stats)


def _report(out: str, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    summary = {**_summarize(out), "reused": False}
    if before is not None:
        summary = {**_count_changes(before, storage.read_json(storage.join(out, STATS))), **summary}
    say(STAGE, f"{summary['documents']:,} documents in {summary['languages']} languages: {out}")
    languages = storage.read_json(storage.join(out, STATS))["languages"]
    if set(languages) == {UNDETERMINED}:
        say(
            STAGE,
            "warning: the language of all documents is uncertain (und); vocabularies and "
            "examples skip such documents: look at one with `mswitch corpus inspect`; with "
            "profile mc4, build with a lower --language-threshold",
        )
    say_without_validation(STAGE, languages)
    return summary


def _make_absolute(directory: str | Path) -> str:
    return str(directory) if storage.is_remote(directory) else os.path.abspath(directory)


def _identify_input(file: CrawlFile, out: str | Path) -> dict[str, Any]:
    """Return the manifest entry of an input file: path, bytes and digest.

    The path is relative to `out` if both are local, so both can move together. A URL with a new
    signature is the same input while its content is the same (`digest`).
    """
    local = not storage.is_remote(file.path) and not storage.is_remote(out)
    path = os.path.relpath(file.path, out) if local else storage.hide_secrets(file.path)
    return {"path": path, "bytes": file.size_bytes, "digest": file.digest}


def _count_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    lost = collections.Counter(sum_drops(after["stages"]))
    lost.subtract(sum_drops(before["stages"]))
    return {
        "new_records": after["stages"][0]["in"] - before["stages"][0]["in"],
        "new_documents": after["stages"][-1]["out"] - before["stages"][-1]["out"],
        "newly_dropped": lost.total(),
        "newly_dropped_by_reason": {reason: n for reason, n in lost.most_common() if n},
    }


def _summarize(out: str) -> dict[str, Any]:
    stats = storage.read_json(storage.join(out, STATS))
    splits = [split for lang in stats["languages"].values() for split in lang.values()]
    reasons = sum_drops(stats["stages"])
    manifest = storage.read_json(storage.join(out, MANIFEST))
    added = [entry for addition in manifest.get("additions", []) for entry in addition["inputs"]]
    inputs = [*manifest["inputs"], *added]
    return {
        "stage": STAGE,
        "out": out,
        "documents": sum(split["documents"] for split in splits),
        "languages": len(stats["languages"]),
        "bytes": sum(split["bytes"] for split in splits),
        "records": stats["stages"][0]["in"],
        "dropped": sum(reasons.values()),
        "dropped_by_reason": reasons,
        "made_urls": {e["path"]: e["made_urls"] for e in inputs if "made_urls" in e},
        "undated_pages": {e["path"]: e["undated"] for e in inputs if "undated" in e},
        "unread_inputs": {e["path"]: e["status"] for e in inputs if e["status"] != "read"},
    }
