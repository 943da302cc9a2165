"""Adds another crawl to a finished corpus (see `change`).

Documents and splits of the corpus stay as they are (a page's split follows from its URL). New pages
lose to the corpus where they share deduplication keys: URLs, lines, bands of near-duplicates. What
remains of them becomes further shards. Removed pages (`removal`) stay out.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import DECONTAMINATION, STATS, Base, open_base
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.removed import load_removed
from mswitch.pipelines.corpus.rules.decontamination import merge_reports
from mswitch.pipelines.corpus.stats import add_up
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MANIFEST, setting_changes


def open_for_addition(out: str | Path, config: Mapping[str, Any], recipe: Recipe) -> Base:
    """Read the corpus to add to; its settings must equal those of the addition."""
    base = open_base(out, recipe)
    manifest = base.manifest
    before = {key: value for key, value in manifest["config"].items() if key != "inputs"}
    changed = setting_changes(before, config)
    if "recipe" in before and "recipe" not in config:
        raise UserError(
            f"{out} was built with recipe {before['recipe']['name']}: give --recipe FILE again to "
            "add to it"
        )
    if changed:
        was = ", ".join(f"{key}, was {json.dumps(value)[:200]}" for key, value in changed.items())
        raise UserError(
            f"{out} was built with other settings (changed: {was}): give the same ones to add to it"
        )
    if not manifest["fingerprints"]:
        raise UserError(
            f"{out} was built without --keep-fingerprints: it cannot grow; build it again"
        )
    smallest = min(manifest["shards"], key=lambda shard: shard["bytes"])
    with storage.fetch(storage.join(out, smallest["path"])) as path:
        columns = pq.read_schema(path).names
    stages = [row["name"] for row in base.stats["stages"]]
    kinds = {os.path.splitext(entry["path"])[1] for entry in manifest["fingerprints"]}
    for difference, others, mine in (
        ("accounts have other stages", stages, list(recipe.stages)),
        ("documents have other columns", columns, recipe.documents.names),
        ("fingerprints are other files", sorted(kinds), [".keys"]),
    ):
        if others != mine:
            raise UserError(
                f"{out} was built by another version of mswitch, whose {difference} "
                f"({', '.join(others)}): build it again to add to it"
            )
    load_removed(base.removals)  # damaged records must raise an error before work begins
    return base


def merge_addition(base: Base, staging: str, inputs_hash: str) -> dict[str, Any]:
    """Return manifest, statistics and report of the corpus including the addition in `staging`."""
    addition = storage.read_json(storage.join(staging, MANIFEST))
    stats = storage.read_json(storage.join(staging, STATS))
    manifest = dict(base.manifest)
    for key in ("shards", "fingerprints"):
        manifest[key] = [*manifest[key], *addition[key]]
    if "files" in manifest:
        manifest["files"] = [*manifest["files"], *addition["files"]]
    added = {"inputs": addition["inputs"], "inputs_hash": inputs_hash}
    manifest["additions"] = [*base.additions, added]
    merged = {"manifest": manifest, "stats": add_up(base.stats, stats)}
    if storage.exists(report := storage.join(staging, DECONTAMINATION)):
        before = storage.read_json(storage.join(base.directory, DECONTAMINATION))
        merged["decontamination"] = merge_reports(before, storage.read_json(report))
    return merged
