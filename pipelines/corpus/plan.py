"""What a build will take, from a listing of its input and one file of it read to the end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.corpus.apply_rules import ask, read_file
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup.buckets import bits_for, shared_bits
from pipelines.corpus.fingerprints import (
    FINGERPRINT_BYTES,
    fingerprint,
    line_fingerprints,
    normalize_url,
)
from pipelines.corpus.recipe import Recipe
from pipelines.corpus.rules.length_and_paragraphs import MaxLength, Paragraphs
from pipelines.crawl.files import CrawlFile, find_crawl_files
from pipelines.errors import UserError
from pipelines.records import Page, Rejected

#: MB of text (10^6 bytes after decompression and extraction) that one core builds a second, all
#: phases together. See docs/tutorials/on-dataflow.md for what this was measured on.
MEASURED_MB_PER_SECOND: Mapping[str, float] = {"mc4": 9.0, "modern": 5.0}
#: The same for recipes that were not measured: that of the slower profile.
_OTHER_MB_PER_SECOND = min(MEASURED_MB_PER_SECOND.values())


def read_sample(file: CrawlFile, config: CorpusConfig, recipe: Recipe) -> dict[str, int]:
    """Read a file to the end as ingest does, and count.

    Returns:
        `pages` that pass the length rule, their `text_bytes`, `lines` and distinct `urls`; of those
        that pass the paragraph rule `kept_text_bytes`, `kept_lines` and `distinct_lines`.
    """
    pages = text_bytes = lines = kept_text_bytes = kept_lines = 0
    urls: set[bytes] = set()
    lines_seen: set[bytes] = set()
    for page in read_file(file, config):
        if isinstance(page, Rejected) or _drops(recipe, MaxLength, page):
            continue
        size, count = len(page.utf8), page.utf8.count(b"\n") + 1
        pages += 1
        text_bytes += size
        lines += count
        urls.add(fingerprint(normalize_url(page.url)))
        if not _drops(recipe, Paragraphs, page):
            kept_text_bytes += size
            kept_lines += count
            hashes = line_fingerprints(page.text)
            step = FINGERPRINT_BYTES
            lines_seen.update(hashes[i : i + step] for i in range(0, len(hashes), step))
    return {
        "pages": pages,
        "text_bytes": text_bytes,
        "lines": lines,
        "urls": len(urls),
        "kept_text_bytes": kept_text_bytes,
        "kept_lines": kept_lines,
        "distinct_lines": len(lines_seen),
    }


def _drops(recipe: Recipe, kind: type[MaxLength] | type[Paragraphs], page: Page) -> bool:
    rule = recipe.first(kind)
    return rule is not None and ask(rule, [page], recipe)[0] is not None


def plan_build(
    inputs: Sequence[str],
    config: CorpusConfig,
    *,
    workers: int = 1,
    mb_per_second: float | None = None,
    price_per_cpu_hour: float | None = None,
) -> dict[str, Any]:
    """Estimate a build.

    Args:
        inputs: see `build_corpus`.
        config: see `build_corpus`.
        workers: worker processes at a time; on Dataflow one for each vCPU.
        mb_per_second: text that one of them builds; by default `MEASURED_MB_PER_SECOND`.
        price_per_cpu_hour: what an hour of one vCPU costs, to have a price.

    Returns:
        Figures by name; what follows from the sample is marked in `estimated`.

    Raises:
        UserError: no input, or no page in the file that is read.
    """
    if workers < 1 or (mb_per_second is not None and not mb_per_second > 0):
        raise UserError("give at least one worker, and a rate above 0")
    files = find_crawl_files(inputs)
    middle = sorted(files, key=lambda file: file.size_bytes)[len(files) // 2]
    recipe = config.load(config.source())
    sample = read_sample(middle, config, recipe)
    if not sample["pages"]:
        raise UserError(f"{middle.path} has no page: `mswitch corpus build` of it says why")
    bytes_in = sum(file.size_bytes for file in files)
    scale = bytes_in / middle.size_bytes
    total = {name: round(value * scale) for name, value in sample.items()}
    shuffles, buckets = _shuffles(total, config, recipe)
    rate = mb_per_second or MEASURED_MB_PER_SECOND.get(recipe.name, _OTHER_MB_PER_SECOND)
    cpu_hours = total["text_bytes"] / 1e6 / rate / 3600
    fingerprints = sum(size for name, size in shuffles.items() if name != "text")
    estimated: dict[str, Any] = {
        "pages": total["pages"],
        "text_bytes": total["text_bytes"],
        "shuffle_bytes": shuffles,
        "buckets": buckets,
        "shards_at_least": math.ceil(total["kept_text_bytes"] / config.shard_bytes),
        # Pages (as compressed as the input), their lines' hashes, candidates, and the runs.
        "temporary_bytes": bytes_in
        + total["lines"] * FINGERPRINT_BYTES
        + fingerprints
        + total["kept_text_bytes"],
        "cpu_hours": round(cpu_hours, 4),
        "wall_hours": round(cpu_hours / min(workers, len(files)), 4),
    }
    if price_per_cpu_hour is not None:
        estimated["price"] = round(cpu_hours * price_per_cpu_hour, 2)
    return {
        "stage": "corpus-plan",
        "files": len(files),
        "bytes_in": bytes_in,
        "sampled": middle.path,
        "workers": workers,
        "mb_per_second": rate,
        "estimated": estimated,
    }


def _shuffles(
    total: Mapping[str, int], config: CorpusConfig, recipe: Recipe
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes that each shuffle moves at most, and into how many buckets it is cut."""
    moved, buckets = {}, {}
    for step in recipe.dedups:
        # One candidate for each key of a file, and all of them to cut buckets for (`phases`).
        keys = step.candidates(total["urls"], total["distinct_lines"])
        rows = step.candidates(total["pages"], total["kept_lines"])
        moved[step.name] = keys * step.width * 8
        buckets[step.name] = 1 << shared_bits(rows * step.width * 8, config.bucket_bytes)
        if config.keep_fingerprints:
            kept = f"kept_{step.kind}"
            moved[kept] = keys * FINGERPRINT_BYTES
            buckets[kept] = 1 << bits_for(moved[kept], config.bucket_bytes)
    return {**moved, "text": total["kept_text_bytes"]}, buckets


def format_plan(plan: Mapping[str, Any]) -> str:
    """Return a plan as a table."""
    rows: list[tuple[str, str]] = []
    for name, value in {**plan, **plan["estimated"]}.items():
        if isinstance(value, Mapping):
            if name != "estimated":
                rows += [(f"{name}: {part}", f"{count:,}") for part, count in value.items()]
        elif name != "stage":
            rows.append((name, f"{value:,}" if isinstance(value, int | float) else value))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in rows)
