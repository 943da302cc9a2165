"""Adding a further crawl to a finished corpus: the monthly job.

Documents stay as they are, and so does the split, which follows from URLs. The URLs and lines (in
profile `modern` the band keys of near-duplicates) of the corpus win every contest against the new
pages; what is left of these is appended as shards of its own. Only the manifest makes a shard part
of the corpus: it is replaced last.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.corpus.card import data_card
from pipelines.corpus.fingerprint_store import KINDS
from pipelines.corpus.modern.finish import merge_reports
from pipelines.corpus.profiles import PROFILES
from pipelines.errors import UserError
from pipelines.faults import fault_point
from pipelines.outputs import (
    MANIFEST,
    canonical_json,
    read_manifest,
    write_atomically,
    write_json,
)

STATS, DECONTAMINATION = "stats.json", "decontamination.json"
_LISTS = ("shards", "fingerprints")


@dataclasses.dataclass(frozen=True)
class Base:
    """The corpus that a crawl is added to.

    Attributes:
        directory: path or URL, absolute.
        manifest: its manifest.
        stats: its statistics.
    """

    directory: str
    manifest: Mapping[str, Any]
    stats: Mapping[str, Any]

    @property
    def additions(self) -> list[dict[str, Any]]:
        """What was added before: `inputs_hash`, `inputs`."""
        return self.manifest.get("additions", [])

    @property
    def prefix(self) -> str:
        """What the names of the next addition's shards begin with, after the split."""
        return f"added-{len(self.additions) + 1:03d}-"

    def incumbents(self, contest: str) -> tuple[str, ...]:
        """The files of fingerprints that win a contest."""
        return tuple(
            storage.join(self.directory, entry["path"])
            for entry in self.manifest["fingerprints"]
            if KINDS[entry["kind"]] == contest
        )

    def validation_documents(self) -> dict[str, int]:
        """How many validation documents each language has."""
        return {
            lang: splits.get("validation", {}).get("documents", 0)
            for lang, splits in self.stats["languages"].items()
        }


def open_base(out: str | Path, config: Mapping[str, Any], stages: Sequence[str]) -> Base:
    """Read the corpus to add to.

    Args:
        out: the corpus.
        config: the settings of the addition; they must be those of the corpus.
        stages: what a record of the addition passes through, whose accounts are added up.

    Raises:
        UserError: it is no finished corpus, was built with other settings or by a version with
            other stages, or kept no fingerprints.
    """
    manifest = read_manifest(out, "corpus")
    before = {key: value for key, value in manifest["config"].items() if key != "inputs"}
    config = json.loads(canonical_json(config))  # as the manifest has it: lists, no tuples
    changed = sorted(
        key for key in before.keys() | config.keys() if before.get(key) != config.get(key)
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
    stats = storage.read_json(storage.join(out, STATS))
    if (others := [row["name"] for row in stats["stages"]]) != list(stages):
        raise UserError(
            f"{out} was built by another version of mswitch, whose accounts have other stages "
            f"({', '.join(others)}): build it again to add to it"
        )
    directory = str(out) if storage.is_remote(out) else os.path.abspath(out)
    return Base(directory, manifest, stats)


def staging_of(directory: str, inputs_hash: str) -> str:
    """Return where an addition is prepared: beside a local corpus, within a remote one."""
    if storage.is_remote(directory):
        return storage.join(directory, f"_ADDING-{inputs_hash}")
    parent, name = os.path.split(directory)
    return storage.join(parent, f".{name}.partial-{inputs_hash}")


def remove_unlisted(base: Base) -> None:
    """Remove what another addition, which was given up, left among the corpus's files."""
    listed = {entry["path"] for key in _LISTS for entry in base.manifest[key]}
    if storage.is_remote(base.directory):
        found = [status.path for status in storage.match(storage.join(base.directory, "**"))]
    else:
        found = [str(path) for path in Path(base.directory).rglob("*") if path.is_file()]
    start = len(base.directory) + 1
    storage.remove(
        path for path in found if base.prefix in path[start:] and path[start:] not in listed
    )


def publish_addition(base: Base, staging: str, inputs_hash: str) -> None:
    """Make a finished addition part of the corpus; may be repeated after a kill.

    Args:
        base: the corpus.
        staging: where manifest, statistics and (of a local corpus) shards of the addition are.
        inputs_hash: identifies its input.
    """
    # Worked out once: a rerun may find the corpus's statistics replaced, its manifest not yet.
    merged = storage.join(staging, "merged.json")
    if not storage.exists(merged):
        storage.write_json(merged, _merge(base, staging, inputs_hash))
    if not storage.is_remote(staging):
        for source in sorted(Path(staging).glob("*/**/*")):
            target = Path(base.directory, source.relative_to(staging))
            if source.is_file() and not source.name.endswith(".tmp"):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
    whole = storage.read_json(merged)
    settings = {key: value for key, value in base.manifest["config"].items() if key != "inputs"}
    schema = PROFILES[settings["profile"]].documents
    card = data_card(settings, _all_inputs(whole["manifest"]), whole["stats"], schema)
    for name, text in card.items():
        write_atomically(storage.join(base.directory, name), text)
    if "decontamination" in whole:
        write_json(storage.join(base.directory, DECONTAMINATION), whole["decontamination"])
    write_json(storage.join(base.directory, STATS), whole["stats"])
    fault_point("corpus.before_growth")
    write_json(storage.join(base.directory, MANIFEST), whole["manifest"])
    fault_point("corpus.after_growth")


def _all_inputs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest whose inputs are those of all crawls."""
    added = [entry for addition in manifest["additions"] for entry in addition["inputs"]]
    return {**manifest, "inputs": [*manifest["inputs"], *added]}


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
