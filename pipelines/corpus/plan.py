"""Estimates the cost of a build from a listing of its input and a build of one file."""

import dataclasses
import functools
import itertools
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.dedup.exchange import group_shards
from mswitch.pipelines.corpus.dedup.key_files import (
    MOST_SORTING_BYTES,
    choose_bits,
    choose_shared_bits,
)
from mswitch.pipelines.corpus.dedup.near import NearDedup
from mswitch.pipelines.corpus.fingerprints import FINGERPRINT_BYTES
from mswitch.pipelines.corpus.job import prepare_job
from mswitch.pipelines.corpus.kept_columns import resolve_columns
from mswitch.pipelines.corpus.ledger import describe_drops, sum_drops
from mswitch.pipelines.corpus.output_shards import plan_shards, write_shard
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.recipe import READ, Recipe
from mswitch.pipelines.corpus.recipe_source import RecipeSource
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import CrawlFile, find_crawl_files
from mswitch.pipelines.dataflow_prices import Phase, read_prices
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Engine, Tasks, do_task
from mswitch.pipelines.languages import languages
from mswitch.pipelines.local_pool import call_each, local_pool, start_server
from mswitch.pipelines.progress import say

#: If the first build of the sample takes less time, it is repeated, because the first build also
#: loads models and tables.
_WARM_SECS = 5.0


def build_sample(file: CrawlFile, config: CorpusConfig, source: RecipeSource | None) -> dict:
    """Build a corpus of one file in this process, phase after phase; count pages and bytes.

    Returns:
        `records`; `dropped` by reason; `pages`, `lines` and `text_bytes` that pass ingest;
        surviving `documents` and `bytes` by language, and `keys` by kind; `moved`, the bytes that
        each deduplication shuffles; `run_bytes`, those of documents as they are shuffled;
        `temporary_bytes`; `cpu_secs` by phase.
    """
    with tempfile.TemporaryDirectory(prefix="mswitch-plan-") as directory:
        work = WorkDirectory(storage.join(directory, "work"))
        job = prepare_job(work, config, config.load(source), source)
        build = Build((file,), job, directory, Engine("corpus", directory, "", "local"))
        moments = [time.process_time()]
        _do(build.ingest_tasks)
        moments.append(time.process_time())
        for exchange in build.exchanges:
            for tasks in exchange.make_lists():
                _do(tasks)
        _do(build.finish_tasks)
        moments.append(time.process_time())
        ingested, finished = build.ingested, build.finished
        for spec in plan_shards(finished.languages, config):
            write_shard(spec, directory, job)
        moments.append(time.process_time())
        secs = [stop - start for start, stop in itertools.pairwise(moments)]
        totals = {
            lang: [sum(sizes) for sizes in zip(*index.totals.values(), strict=True)]
            for lang, index in finished.languages.items()
        }
        stages = [*ingested.ledger.stages(), *finished.ledger.stages()]
        return {
            "records": ingested.ledger.count_entered(READ),
            "dropped": sum_drops(stages),
            "pages": sum(ingested.pages),
            "lines": sum(ingested.lines),
            "text_bytes": sum(ingested.text_bytes),
            "documents": {lang: documents for lang, (documents, _, _) in totals.items()},
            "bytes": {lang: size for lang, (_, _, size) in totals.items()},
            "keys": dict(finished.keys),
            "moved": {
                exchange.step.name: exchange.count_shuffled_bytes(0) for exchange in build.exchanges
            },
            "run_bytes": sum(os.path.getsize(work.run(group.number)) for group in build.groups),
            "temporary_bytes": sum(storage.file_sizes(work.root).values()),
            "cpu_secs": dict(zip(("ingest", "finish", "shards"), secs, strict=True)),
        }


def _do(tasks: Tasks) -> None:
    storage.make_directory(tasks.notes)
    for numbered in enumerate(tasks.items):
        do_task(numbered, tasks, "corpus")


def plan_build(
    inputs: Sequence[str],
    config: CorpusConfig,
    *,
    workers: int = 1,
    mb_per_second: float | None = None,
    prices: str = "",
) -> dict[str, Any]:
    """Estimate a build.

    Args:
        inputs: see `build_corpus`.
        config: see `build_corpus`.
        workers: number of parallel worker processes; on Dataflow, one per vCPU.
        mb_per_second: speed of a worker over all phases, in 10^6 bytes of text that passes ingest;
            default: the speed measured here, on the sample file.
        prices: a table of unit prices; default: `mswitch.pipelines.dataflow_prices`.

    Returns:
        Figures by name; those that follow from the sample are in `estimated`.
    """
    if workers < 1 or (mb_per_second is not None and not mb_per_second > 0):
        raise UserError("give at least one worker, and a rate above 0")
    table = read_prices(prices)
    files = find_crawl_files(inputs)
    middle = sorted(files, key=lambda file: file.size_bytes)[len(files) // 2]
    config = resolve_columns(config, files)
    source = config.source()
    recipe = config.load(source)
    shown = storage.hide_secrets(middle.path)
    say("corpus", f"building {shown} ({middle.size_bytes:,} bytes) as a sample")
    start_server(recipe.preload)
    build = functools.partial(build_sample, config=config, source=source)
    with local_pool(1):
        [sample] = call_each(build, [middle])
        if sum(sample["cpu_secs"].values()) < _WARM_SECS:
            [sample] = call_each(build, [middle])
    if not sample["documents"]:
        raise UserError(
            f"{shown} has no page that survives ({describe_drops(sample['dropped'])}): run "
            "`mswitch corpus build` on it to see why"
        )
    bytes_in = sum(file.size_bytes for file in files)
    total = _scale(sample, bytes_in / middle.size_bytes)
    sampled_secs = sum(sample["cpu_secs"].values())
    rate = mb_per_second or sample["text_bytes"] / 1e6 / sampled_secs
    cpu_hours = total["text_bytes"] / 1e6 / rate / 3600
    shuffles, buckets = _estimate_shuffles(total, config, recipe)
    by_size = sorted(total["bytes"], key=lambda lang: (-total["bytes"][lang], lang))
    estimated: dict[str, Any] = {
        **{name: total[name] for name in ("records", "dropped", "pages", "text_bytes")},
        "survives": {
            lang: {name: total[name][lang] for name in ("documents", "bytes")} for lang in by_size
        },
        "shuffle_bytes": shuffles,
        "buckets": buckets,
        "shards_at_least": sum(-(-size // config.shard_bytes) for size in total["bytes"].values()),
        "temporary_bytes": total["temporary_bytes"],
        "cpu_hours": round(cpu_hours, 4),
        "wall_hours": round(cpu_hours / min(workers, len(files)), 4),
    }
    scales = [file.size_bytes / middle.size_bytes for file in files]
    counts = _count_requests(sample, scales, estimated, config, recipe)
    phases = {
        name: Phase(cpu_hours * 3600 * secs / sampled_secs, *counts[name])
        for name, secs in sample["cpu_secs"].items()
    }
    phases["shards"] = dataclasses.replace(phases["shards"], shuffle_bytes=2 * total["run_bytes"])
    estimated["dataflow"] = table.estimate(phases, workers)
    return {
        "stage": "corpus-plan",
        "files": len(files),
        "bytes_in": bytes_in,
        "sampled": shown,
        "workers": workers,
        "mb_per_second": round(rate, 3),
        "estimated": estimated,
    }


def _scale(counts: Any, scale: float) -> Any:
    """Multiply all numbers in nested mappings by `scale`; round up."""
    if isinstance(counts, Mapping):
        return {name: _scale(count, scale) for name, count in counts.items()}
    return math.ceil(counts * scale)


def _estimate_shuffles(
    total: Mapping[str, Any], config: CorpusConfig, recipe: Recipe
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the maximum number of bytes that each shuffle moves, and its number of buckets."""
    moved, buckets = {}, {}
    for step in recipe.dedups:
        # The number of buckets depends on the maximum number of keys, as in `phases`.
        rows = step.candidates(total["pages"], total["lines"])
        moved[step.name] = total["moved"][step.name]
        buckets[step.name] = 1 << choose_shared_bits(rows * step.width * 8, config.bucket_bytes)
        if config.keep_fingerprints:
            kept = f"kept_{step.kind}"
            moved[kept] = total["keys"][step.kind] * FINGERPRINT_BYTES
            buckets[kept] = 1 << choose_bits(moved[kept], config.bucket_bytes)
    return {**moved, "text": sum(total["bytes"].values())}, buckets


def _count_requests(
    sample: Mapping[str, Any],
    scales: Sequence[float],
    estimated: Mapping[str, Any],
    config: CorpusConfig,
    recipe: Recipe,
) -> dict[str, tuple[int, int, int]]:
    """Return each phase's numbers of tasks, of write requests and of read requests to a bucket.

    In a large corpus, most requests are for one group of files in one bucket of keys.
    """
    pages, lines = ([math.ceil(sample[name] * n) for n in scales] for name in ("pages", "lines"))
    pairs = list(zip(pages, lines, strict=True))
    keys = [max(step.candidates(*pair) for step in recipe.dedups) for pair in pairs]
    files, groups = len(scales), len(group_shards(pages, lines, keys, 4 * MOST_SORTING_BYTES))
    kinds = len(recipe.kinds) if config.keep_fingerprints else 0
    buckets, shards = estimated["buckets"], estimated["shards_at_least"]
    kept = sum(count for name, count in buckets.items() if name.startswith("kept_"))
    # An ingest or finish task writes one result file, which the build reads three times. The build
    # reads each Parquet file of pages twice: first the number of lines, then the pages.
    tasks, writes, opens, ranges = groups, (2 + kinds) * groups, 5 * files + 3 * groups, 0
    # To learn the decisions of earlier deduplications, each group of shards reads `places` files
    # and `choices` byte ranges.
    places = choices = 0
    for step in recipe.dedups:
        shared, near = buckets[step.name], isinstance(step, NearDedup)
        tasks += groups + shared + 16 * near
        writes += 3 * groups + 2 * shared + 32 * near
        opens += files * (1 + near) + groups * (1 + places)
        ranges += 2 * shared * (groups + near * len(languages())) + groups * choices
        places += not near
        choices += 32 if near else 1 + 2 * shared
    opens, ranges = opens + groups * places, ranges + groups * choices
    finish = _add_up(tasks, writes, opens, ranges, 1 + 2 * len(recipe.dedups))
    ends, spread = shards + kept, 2 * groups * kept
    return {
        "ingest": (files, *_add_up(files, 2 * files, files, 0, 1)),
        "finish": (max(groups, *buckets.values()), *finish),
        "shards": (shards, *_add_up(ends, 2 * ends, 2 * groups + ends, spread, 1 + kinds)),
    }


def _add_up(tasks: int, writes: int, opens: int, ranges: int, lists: int) -> tuple[int, int]:
    """Return the numbers of write requests and of read requests.

    A task looks for its note. To open a file takes requests for bucket, description, content and
    end; a write describes the bucket. A list of tasks is written, read, and looked for six times.
    A job is staged, its progress watched, and its results are read.
    """
    return writes + 6 * lists + 18, tasks + writes + 4 * opens + ranges + 6 * lists + 20


def format_plan(plan: Mapping[str, Any]) -> str:
    """Format a plan as a table."""
    rows: list[tuple[str, str]] = []
    for name, value in {**plan, **plan["estimated"]}.items():
        if isinstance(value, Mapping):
            if name != "estimated":
                rows += [(f"{name}: {part}", _format_cell(count)) for part, count in value.items()]
        elif name != "stage":
            rows.append((name, _format_cell(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in rows)


def _format_cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{_format_cell(count)} {name.replace('_', ' ')}" for name, count in value.items()
        )
    if isinstance(value, list):
        low, high = value
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{value:,}" if isinstance(value, int | float) else value
