"""Changes a finished corpus: adds a crawl (`append`) or removes pages (`removal`).

A change is prepared in a staging directory, whose name has the state of the corpus that the change
is for. If another change is published first, this one is invalid and starts over. A change that is
ready (`decided.json` has the new contents of the corpus) is published before anything else changes.
Only the manifest makes a file part of the corpus. It is replaced last; then files that only the old
manifest names are removed.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus import recipes
from mswitch.pipelines.corpus.card import CARD, render_card
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.removed import Records
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import (
    MANIFEST,
    config_hash,
    file_entry,
    file_sha256,
    read_json_object,
    read_manifest,
    seal_manifest,
    write_atomically,
)
from mswitch.pipelines.progress import say

STATS, DECONTAMINATION = "stats.json", "decontamination.json"
_LISTS = ("shards", "fingerprints", "removals")
_DECIDED, _CLAIM = "decided.json", "claim.json"
#: Folder in a staging directory that never becomes part of the corpus.
WORK = "work"


@dataclasses.dataclass(frozen=True)
class Base:
    """A corpus to change.

    Attributes:
        directory: absolute path or URL.
        manifest: its manifest.
        stats: its statistics.
        recipe: its recipe; if only figures of the card change, any recipe of the same name.
    """

    directory: str
    manifest: Mapping[str, Any]
    stats: Mapping[str, Any]
    recipe: Recipe

    @property
    def additions(self) -> list[dict[str, Any]]:
        """Crawls added to the corpus earlier: manifest entries with `inputs_hash` and `inputs`."""
        return self.manifest.get("additions", [])

    @property
    def removals(self) -> Records:
        """Records of earlier removals, in order."""
        return tuple(
            (storage.join(self.directory, entry["path"]), entry["sha256"])
            for entry in self.manifest.get("removals", [])
        )

    @property
    def state(self) -> str:
        """Hash of what the corpus contains now."""
        return config_hash("corpus-state", self.manifest)

    @property
    def prefix(self) -> str:
        """Label in the shard names of the next crawl to add, such as `added-001-`."""
        return f"{name_addition(len(self.additions) + 1)}-"

    @property
    def rejected(self) -> str:
        """Folder of the samples of pages dropped from the next crawl to add."""
        return f"rejected/{name_addition(len(self.additions) + 1)}"

    @property
    def suffix(self) -> str:
        """Suffix in the names of shards that the next removal writes, such as `-removed-001`."""
        return f"-removed-{len(self.removals) + 1:03d}"

    def list_key_files(self, kind: str) -> tuple[str, ...]:
        """Return the paths of the corpus's deduplication key files of a kind, such as `urls`."""
        entries = self.manifest["fingerprints"]
        paths = [entry["path"] for entry in entries if entry["kind"] == kind]
        return tuple(storage.join(self.directory, path) for path in paths)

    def count_keys(self, kind: str) -> int:
        """Return the number of keys of a kind in the corpus."""
        entries = self.manifest["fingerprints"]
        return sum(entry["keys"] for entry in entries if entry["kind"] == kind)

    def count_validation_documents(self) -> dict[str, int]:
        """Return the number of validation documents of each language."""
        return {
            lang: splits.get("validation", {}).get("documents", 0)
            for lang, splits in self.stats["languages"].items()
        }


def name_addition(number: int) -> str:
    """Return the label in file names of an added crawl; the first added crawl has number 1."""
    return f"added-{number:03d}"


def list_entries(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the manifest entries of shards, key files and removal records: path, bytes, sha256.

    A change never overwrites these files; it may overwrite those of `manifest["files"]`.
    """
    return [entry for key in _LISTS for entry in manifest.get(key, [])]


def open_base(out: str | Path, recipe: Recipe | None = None) -> Base:
    """Read the corpus to change; its files must match its manifest."""
    manifest = read_manifest(out, "corpus")
    directory = str(out) if storage.is_remote(out) else os.path.abspath(out)
    _check_files(directory, manifest)
    stats = read_json_object(storage.join(directory, STATS))
    if recipe is None:
        own = manifest["config"].get("recipe")
        name = own["name"] if own else manifest["config"]["profile"]
        recipe = dataclasses.replace(recipes.MC4, name=name)
    return Base(directory, manifest, stats, recipe)


def _check_files(directory: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a corpus whose files do not match its manifest.

    The manifest is written last, so checksums are computed only for files that are newer.
    """
    files = storage.files_below(directory)
    for entry in list_entries(manifest):
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


def locate_staging(base: Base, change_hash: str) -> str:
    """Return a change's staging directory: beside a local corpus, or within a remote corpus."""
    return f"{_make_staging_prefix(base.directory)}{base.state}-{change_hash}"


def _make_staging_prefix(directory: str) -> str:
    if storage.is_remote(directory):
        return storage.join(directory, "_CHANGING-")
    parent, name = os.path.split(directory)
    return storage.join(parent, f".{name}.partial-")


def find_unfinished_changes(directory: str) -> dict[str, str]:
    """Return the paths of staging directories, each with the corpus state that it was made for."""
    prefix = _make_staging_prefix(directory)
    if storage.is_remote(directory):
        paths = [status.path for status in storage.match(f"{prefix}**")]
    else:
        parent = os.path.dirname(directory)
        paths = [storage.join(parent, name) for name in storage.list_names(parent)]
    named = re.compile(re.escape(prefix) + r"([0-9a-f]{16})-[0-9a-f]{16}(?=/|\Z)")
    return {match[0]: match[1] for match in map(named.match, paths) if match}


def finish_decided(base: Base) -> bool:
    """Publish a change that was ready when its run was killed; return whether there was one.

    Remove staging directories of changes to an earlier state of the corpus.
    """
    for staging, state in find_unfinished_changes(base.directory).items():
        decided = storage.join(staging, _DECIDED)
        whole = storage.read_json(decided) if storage.exists(decided) else {}
        if whole and (state == base.state or whole["manifest"] == base.manifest):
            if _is_complete(base, staging, whole["manifest"]):
                publish_change(base, staging)
                return True
            say("corpus", f"{staging} lacks files of its change: the change starts over")
            storage.remove_tree(staging)
        elif state != base.state:
            storage.remove_tree(staging)
    return False


def _is_complete(base: Base, staging: str, manifest: Mapping[str, Any]) -> bool:
    """Return whether all files of the changed corpus exist, in the corpus or in staging.

    Moved files are lost if the corpus was restored from a copy later.
    """
    files = storage.file_sizes(base.directory)
    if not storage.is_remote(staging):
        files |= storage.file_sizes(staging)
    return all(files.get(entry["path"]) == entry["bytes"] for entry in list_entries(manifest))


def finish_interrupted(out: str | Path) -> None:
    """If a change of `out` was ready when its run was killed, publish this change."""
    directory = str(out) if storage.is_remote(out) else os.path.abspath(out)
    if find_unfinished_changes(directory) and finish_decided(open_base(directory)):
        say("corpus", f"published a change of {out} that was ready when its command was killed")


def begin_change(base: Base, staging: str, claim: Mapping[str, Any]) -> None:
    """Make or continue a change's staging directory; `claim` explains it to people."""
    path = storage.join(staging, _CLAIM)
    if storage.exists(path):
        return
    if storage.is_remote(base.directory) and (others := find_unfinished_changes(base.directory)):
        raise UserError(
            f"{base.directory} is being changed by another command: finish that first, or remove "
            f"{', '.join(others)} if it was abandoned"
        )
    # Remove what an abandoned change left among the files of the corpus.
    listed = {entry["path"] for entry in list_entries(base.manifest)}
    labels = (base.prefix, base.suffix, f"{base.rejected}/")
    storage.remove(
        storage.join(base.directory, path)
        for path in storage.file_sizes(base.directory)
        if any(label in path for label in labels) and path not in listed
    )
    storage.make_directory(staging)
    storage.write_json(path, claim, scratch=True)


def decide_change(staging: str, whole: Mapping[str, Any]) -> None:
    """Record the new contents of the corpus; from now on, the change will be published.

    Keys of `whole`: `manifest`, `stats`, and optionally `decontamination` and `gone` (files to
    remove).
    """
    manifest = whole["manifest"]
    if "files" in manifest:  # earlier versions did not write this entry
        again = {STATS: whole["stats"], DECONTAMINATION: whole.get("decontamination")}
        texts = {path: storage.json_text(value) for path, value in again.items() if value}
        entries = {entry["path"]: entry for entry in manifest["files"]}
        entries |= {path: file_entry(path, text.encode()) for path, text in texts.items()}
        files = [entries[path] for path in sorted(entries)]
        whole = {**whole, "manifest": seal_manifest({**manifest, "files": files})}
    storage.write_json(storage.join(staging, _DECIDED), whole, scratch=True)
    fault_point("corpus.after_deciding_change")


def publish_change(base: Base, staging: str) -> None:
    """Publish a prepared change of a corpus; if this call is killed, repeat it."""
    if not storage.is_remote(staging):
        for source in sorted(Path(staging).glob("*/**/*")):
            below = source.relative_to(staging)
            if source.is_file() and source.suffix != ".tmp" and below.parts[0] != WORK:
                target = Path(base.directory, below)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
                fault_point("corpus.during_change")
    whole = storage.read_json(storage.join(staging, _DECIDED))
    _change_card(base, whole)
    if "decontamination" in whole:
        storage.write_json(storage.join(base.directory, DECONTAMINATION), whole["decontamination"])
    storage.write_json(storage.join(base.directory, STATS), whole["stats"])
    fault_point("corpus.before_change")
    storage.write_json(storage.join(base.directory, MANIFEST), whole["manifest"])
    fault_point("corpus.after_change")
    files = storage.file_sizes(base.directory)
    gone = [path for path in whole.get("gone", []) if path in files]
    storage.remove(storage.join(base.directory, path) for path in gone)
    # Other changes were prepared for the old state, and may contain text that is now removed.
    for other in find_unfinished_changes(base.directory):
        storage.remove_tree(other)


def _change_card(base: Base, whole: Mapping[str, Any]) -> None:
    """Update the figures of the data card; keep what people wrote into it."""
    path = storage.join(base.directory, CARD)
    before = _render_card(base.manifest, base.stats, base.recipe)
    after = _render_card(whole["manifest"], whole["stats"], base.recipe)
    card = storage.read_bytes(path).decode() if storage.exists(path) else before
    changed = _apply_edits(card, before, after)
    if changed is not None:
        write_atomically(path, changed)
    elif _apply_edits(card, after, before) is None:
        # The card contains neither the old nor the new figures, so a user edited it. (A killed run
        # may already have written the new figures.)
        say("corpus", f"{path} was edited and stays as it is; its figures are out of date")


def _render_card(manifest: Mapping[str, Any], stats: Mapping[str, Any], recipe: Recipe) -> str:
    settings = {key: value for key, value in manifest["config"].items() if key != "inputs"}
    added = [entry for addition in manifest.get("additions", []) for entry in addition["inputs"]]
    whole = {**manifest, "inputs": [*manifest["inputs"], *added]}
    return render_card(settings, whole, stats, recipe)


def _apply_edits(text: str, before: str, after: str) -> str | None:
    """Apply the diff from `before` to `after` to `text`; return None if the diff does not apply."""
    old, new, mine = (version.splitlines(keepends=True) for version in (before, after, text))
    match = partial(difflib.SequenceMatcher, None, old, autojunk=False)
    blocks = match(mine).get_matching_blocks()
    there = {a + n: b + n for a, b, size in blocks for n in range(size)}
    edits = []
    for tag, start, stop, new_start, new_stop in match(new).get_opcodes():
        if tag == "equal":
            continue
        # An insertion follows a line that stays, so look for that line.
        first = start - (tag == "insert")
        lines = old[first:stop]
        places = [there.get(first, -1)]
        if mine[places[0] : places[0] + len(lines)] != lines:
            places = [n for n in range(len(mine)) if mine[n : n + len(lines)] == lines]
        if len(places) != 1:
            return None
        place = places[0] + start - first
        edits.append((place, place + stop - start, new[new_start:new_stop]))
    for start, stop, lines in sorted(edits, reverse=True):
        mine[start:stop] = lines
    return "".join(mine)
