"""Adding a further crawl to a finished corpus: the monthly job.

Documents stay as they are, and so does the split, which follows from URLs. The deduplication keys
of the corpus (URLs, lines, bands of near-duplicates) come before those of all new pages; what is
left of these is appended as further shards. Only the manifest makes a shard part of the corpus: it
is replaced last.

An addition is prepared for one state of the corpus, which the name of its staging has: once
another has gone in, what it decided no longer holds, and it starts over. Once it is ready
(`merged.json` says what the corpus will be), it is published before anything else is added.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.card import CARD, data_card
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.rules.decontamination import merge_reports
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import (
    MANIFEST,
    canonical_json,
    config_hash,
    file_sha256,
    read_manifest,
    write_atomically,
)
from mswitch.pipelines.progress import say

STATS, DECONTAMINATION = "stats.json", "decontamination.json"
_LISTS = ("shards", "fingerprints")
_MERGED, _CLAIM = "merged.json", "claim.json"


@dataclasses.dataclass(frozen=True)
class Base:
    """The corpus that a crawl is added to.

    Attributes:
        directory: path or URL, absolute.
        manifest: its manifest.
        stats: its statistics.
        recipe: its recipe.
    """

    directory: str
    manifest: Mapping[str, Any]
    stats: Mapping[str, Any]
    recipe: Recipe

    @property
    def additions(self) -> list[dict[str, Any]]:
        """What was added before: `inputs_hash`, `inputs`."""
        return self.manifest.get("additions", [])

    @property
    def state(self) -> str:
        """Identifies what the corpus has now."""
        return config_hash("corpus-state", self.manifest)

    @property
    def prefix(self) -> str:
        """What the names of the next addition's shards begin with, after the split."""
        return f"{addition_name(len(self.additions) + 1)}-"

    def known(self, kind: str) -> tuple[str, ...]:
        """The files of keys of a kind, which come before all others."""
        entries = self.manifest["fingerprints"]
        paths = [entry["path"] for entry in entries if entry["kind"] == kind]
        return tuple(storage.join(self.directory, path) for path in paths)

    def keys(self, kind: str) -> int:
        """How many fingerprints these files have."""
        entries = self.manifest["fingerprints"]
        return sum(entry["keys"] for entry in entries if entry["kind"] == kind)

    def validation_documents(self) -> dict[str, int]:
        """How many validation documents each language has."""
        return {
            lang: splits.get("validation", {}).get("documents", 0)
            for lang, splits in self.stats["languages"].items()
        }


def addition_name(number: int) -> str:
    """Return what the files of an addition are named by, counted from 1."""
    return f"added-{number:03d}"


def open_base(out: str | Path, config: Mapping[str, Any], recipe: Recipe) -> Base:
    """Read the corpus to add to.

    Args:
        out: the corpus.
        config: the settings of the addition; they must be those of the corpus.
        recipe: of the addition; the accounts of its stages are added up.
    """
    manifest = read_manifest(out, "corpus")
    before = {key: value for key, value in manifest["config"].items() if key != "inputs"}
    config = json.loads(canonical_json(config))  # as the manifest has it: lists, no tuples
    changed = sorted(
        key for key in before.keys() | config.keys() if before.get(key) != config.get(key)
    )
    if "recipe" in before and "recipe" not in config:
        raise UserError(
            f"{out} was built with recipe {before['recipe']['name']}: give --recipe FILE again to "
            "add to it"
        )
    if changed:
        was = ", ".join(f"{key}, was {json.dumps(before.get(key))[:200]}" for key in changed)
        raise UserError(
            f"{out} was built with other settings (changed: {was}): give the same ones to add to it"
        )
    if not manifest["fingerprints"]:
        raise UserError(
            f"{out} was built without --keep-fingerprints: it cannot grow; build it again"
        )
    directory = str(out) if storage.is_remote(out) else os.path.abspath(out)
    _check_files(directory, manifest)
    stats = storage.read_json(storage.join(out, STATS))
    smallest = min(manifest["shards"], key=lambda shard: shard["bytes"])
    with storage.fetch(storage.join(out, smallest["path"])) as path:
        columns = pq.read_schema(path).names
    stages = [row["name"] for row in stats["stages"]]
    kinds = {os.path.splitext(entry["path"])[1] for entry in manifest["fingerprints"]}
    for what, others, mine in (
        ("accounts have other stages", stages, list(recipe.stages)),
        ("documents have other columns", columns, recipe.documents.names),
        ("fingerprints are other files", sorted(kinds), [".keys"]),
    ):
        if others != mine:
            raise UserError(
                f"{out} was built by another version of mswitch, whose {what} "
                f"({', '.join(others)}): build it again to add to it"
            )
    return Base(directory, manifest, stats, recipe)


def _check_files(directory: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a corpus whose files are not those of its manifest.

    Only what was written later than the manifest, which is written last, is read for its checksum.
    """
    files = storage.files_below(directory)
    for entry in itertools.chain.from_iterable(manifest[key] for key in _LISTS):
        file, wrong = files.get(entry["path"]), "missing"
        if file:
            same = file.size_bytes == entry["bytes"]
            if same and file.updated > files[MANIFEST].updated:
                with storage.fetch(file.path) as local:
                    same = file_sha256(local) == entry["sha256"]
            if same:
                continue
            wrong = "not as the manifest says"
        path = storage.join(directory, entry["path"])
        raise UserError(f"{path} is {wrong}: restore it, or build the corpus again")


def staging_of(base: Base, inputs_hash: str) -> str:
    """Return where an addition is prepared: beside a local corpus, within a remote one."""
    return f"{_staging_prefix(base.directory)}{base.state}-{inputs_hash}"


def _staging_prefix(directory: str) -> str:
    if storage.is_remote(directory):
        return storage.join(directory, "_ADDING-")
    parent, name = os.path.split(directory)
    return storage.join(parent, f".{name}.partial-")


def _stagings(directory: str) -> dict[str, str]:
    """Find the additions that were begun: the state of the corpus that each is for, by path."""
    prefix = _staging_prefix(directory)
    if storage.is_remote(directory):
        found = [status.path for status in storage.match(f"{prefix}**")]
    else:
        parent = os.path.dirname(directory)
        found = [storage.join(parent, name) for name in storage.list_names(parent)]
    named = re.compile(re.escape(prefix) + r"([0-9a-f]{16})-[0-9a-f]{16}(?=/|\Z)")
    return {match[0]: match[1] for match in map(named.match, found) if match}


def finish_decided(base: Base) -> bool:
    """Publish an addition that was ready when its run was killed; tell whether there was one.

    What an addition to an earlier state of the corpus left is removed.
    """
    for staging, state in _stagings(base.directory).items():
        if state != base.state:
            storage.remove_tree(staging)
        elif storage.exists(storage.join(staging, _MERGED)):
            publish_addition(base, staging)
            storage.remove_tree(staging)
            return True
    return False


def begin_addition(base: Base, staging: str, inputs: Sequence[Mapping[str, Any]]) -> None:
    """Make the staging of an addition; one that was begun before continues."""
    claim = storage.join(staging, _CLAIM)
    if storage.exists(claim):
        return
    if storage.is_remote(base.directory) and (others := _stagings(base.directory)):
        raise UserError(
            f"another crawl is being added to {base.directory}: finish that with its own "
            f"command, or remove {', '.join(others)} if it was given up"
        )
    remove_unlisted(base)
    storage.make_directory(staging)
    storage.write_json(claim, {"inputs": list(inputs)}, scratch=True)


def remove_unlisted(base: Base) -> None:
    """Remove what another addition, which was given up, left among the corpus's files."""
    listed = {entry["path"] for key in _LISTS for entry in base.manifest[key]}
    storage.remove(
        storage.join(base.directory, path)
        for path in storage.file_sizes(base.directory)
        if base.prefix in path and path not in listed
    )


def decide_addition(base: Base, staging: str, inputs_hash: str) -> None:
    """Note what the corpus will be with a finished addition, which is published from now on.

    Args:
        base: the corpus.
        staging: where manifest, statistics and (of a local corpus) shards of the addition are.
        inputs_hash: identifies its input.
    """
    merged = storage.join(staging, _MERGED)
    if not storage.exists(merged):
        storage.write_json(merged, _merge(base, staging, inputs_hash), scratch=True)
        fault_point("corpus.after_deciding_growth")


def publish_addition(base: Base, staging: str) -> None:
    """Make a decided addition part of the corpus; may be repeated after a kill."""
    if not storage.is_remote(staging):
        for source in sorted(Path(staging).glob("*/**/*")):
            target = Path(base.directory, source.relative_to(staging))
            if source.is_file() and not source.name.endswith(".tmp"):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
                fault_point("corpus.during_growth")
    whole = storage.read_json(storage.join(staging, _MERGED))
    before = _card(base.manifest, base.stats, base.recipe)
    card = _card(whole["manifest"], whole["stats"], base.recipe)
    path = storage.join(base.directory, CARD)
    if storage.exists(path) and storage.read_bytes(path).decode() not in (before, card):
        say("corpus", f"{path} was edited and stays as it is; its figures are those of before")
    else:
        write_atomically(path, card)
    if "decontamination" in whole:
        storage.write_json(storage.join(base.directory, DECONTAMINATION), whole["decontamination"])
    storage.write_json(storage.join(base.directory, STATS), whole["stats"])
    fault_point("corpus.before_growth")
    storage.write_json(storage.join(base.directory, MANIFEST), whole["manifest"])
    fault_point("corpus.after_growth")


def _card(manifest: Mapping[str, Any], stats: Mapping[str, Any], recipe: Recipe) -> str:
    """Return the data card of a corpus, whose inputs are those of all crawls."""
    settings = {key: value for key, value in manifest["config"].items() if key != "inputs"}
    added = [entry for one in manifest.get("additions", []) for entry in one["inputs"]]
    whole = {**manifest, "inputs": [*manifest["inputs"], *added]}
    return data_card(settings, whole, stats, recipe)


def _merge(base: Base, staging: str, inputs_hash: str) -> dict[str, Any]:
    """Return manifest, statistics and report of the corpus with the addition."""
    addition = storage.read_json(storage.join(staging, MANIFEST))
    stats = storage.read_json(storage.join(staging, STATS))
    manifest = dict(base.manifest)
    for key in _LISTS:
        manifest[key] = [*manifest[key], *addition[key]]
    added = {"inputs": addition["inputs"], "inputs_hash": inputs_hash}
    manifest["additions"] = [*base.additions, added]
    merged = {"manifest": manifest, "stats": _sum(base.stats, stats)}
    if storage.exists(report := storage.join(staging, DECONTAMINATION)):
        before = storage.read_json(storage.join(base.directory, DECONTAMINATION))
        merged["decontamination"] = merge_reports(before, storage.read_json(report))
    return merged


def _sum(one: Any, other: Any) -> Any:
    """Add the numbers of two JSON values of one form; what only one of them has stays."""
    if one is None or other is None or isinstance(one, str):
        return other if one is None else one
    if isinstance(one, Mapping):
        return {key: _sum(one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other])}
    if isinstance(one, Sequence):
        return [_sum(*rows) for rows in zip(one, other, strict=True)]
    return one + other
