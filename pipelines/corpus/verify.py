"""Checks a finished corpus: is every file as the manifest says, and does it say all?"""

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import DECONTAMINATION, Base, listed_files, unfinished_changes
from mswitch.pipelines.corpus.ledger import check_accounts
from mswitch.pipelines.corpus.reader import open_shard
from mswitch.pipelines.corpus.recipes import MC4
from mswitch.pipelines.corpus.removed import Records, load_removed
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.corpus.url_normalization import document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import call_each
from mswitch.pipelines.outputs import file_sha256, read_manifest
from mswitch.pipelines.runners import worker_processes

#: Folders whose files the manifest names, all of them.
_FOLDERS = ("data/", "fingerprints/", "removals/")


def verify_corpus(corpus: str | Path) -> dict[str, Any]:
    """Read a whole corpus and compare it with its manifest and statistics.

    Checked are sizes and checksums of files, files that the manifest does not name, the rows of
    shards (language, id of the URL, order, nothing that was removed), samples, accounts, the
    records of removals, and what commands that were killed have left.

    Args:
        corpus: its directory, or its URL.

    Returns:
        stage, out, files, documents, and problems: a sentence each, none if all is well.
    """
    manifest = read_manifest(corpus, "corpus")
    base = Base(str(corpus), manifest, load_stats(corpus), MC4)
    entries = listed_files(manifest)
    problems, removals = [], base.removals
    try:
        load_removed(removals)
    except (UserError, OSError) as error:
        problems.append(f"{error}; nothing is said about what was removed")
        removals = ()
    check = partial(_check_file, directory=str(corpus), removals=removals)
    with worker_processes("local"):
        problems += itertools.chain(*call_each(check, entries))
    problems += [*_unlisted(base), *_samples(base, removals), *_accounts(base), *_chain(base)]
    return {
        "stage": "corpus",
        "out": str(corpus),
        "files": len(entries),
        "documents": sum(one["rows"] for one in manifest["shards"]),
        "problems": problems,
    }


def _check_file(entry: Mapping[str, Any], *, directory: str, removals: Records) -> list[str]:
    path = storage.join(directory, entry["path"])
    if not storage.exists(path):
        return [f"{entry['path']} is missing"]
    with storage.fetch(path) as local:
        if local.stat().st_size != entry["bytes"] or file_sha256(local) != entry["sha256"]:
            return [f"{entry['path']} is damaged (its SHA-256 is not the manifest's)"]
        if "rows" not in entry:
            return []
        try:
            return [f"{entry['path']} {what}" for what in _rows(str(local), entry, removals)]
        except UserError as error:
            return [str(error)]


def _rows(path: str, entry: Mapping[str, Any], removals: Records) -> Iterator[str]:
    """Yield what is wrong with the rows of a shard."""
    removed = load_removed(removals)
    rows, last, wrong = 0, "", dict.fromkeys(("language", "id", "order", "removed"), 0)
    with open_shard(path) as shard:
        for batch in shard.iter_batches(columns=["id", "url", "lang"]):
            for page_id, url, lang in zip(
                *(batch[n].to_pylist() for n in batch.schema.names), strict=True
            ):
                wrong["language"] += lang != entry["lang"]
                wrong["id"] += page_id != document_id(url).hex()
                wrong["order"] += page_id <= last
                wrong["removed"] += bool(removed and removed.found(url, page_id))
                last, rows = page_id, rows + 1
    if rows != entry["rows"]:
        yield f"has {rows} rows; the manifest says {entry['rows']}"
    for count, what in zip(
        wrong.values(),
        (
            f"rows of another language than {entry['lang']}",
            "rows whose id is not that of their URL",
            "rows that are not in the order of their ids",
            "rows that were removed",
        ),
        strict=True,
    ):
        if count:
            yield f"has {count} {what}"


def _unlisted(base: Base) -> Iterator[str]:
    listed = {entry["path"] for entry in listed_files(base.manifest)} | {"removals/key"}
    for path in sorted(storage.file_sizes(base.directory).keys() - listed):
        if path.startswith(_FOLDERS):
            yield f"{path} is not in the manifest"


def _samples(base: Base, removals: Records) -> Iterator[str]:
    """Yield what names a removed page beside the shards, and changes that were not finished."""
    removed = load_removed(removals)
    for path in sorted(storage.file_sizes(base.directory)):
        if path.startswith("rejected/") and path.endswith(".jsonl"):
            lines = storage.read_bytes(storage.join(base.directory, path)).splitlines()
            urls = [json.loads(line).get("url", "") for line in lines]
        elif path == DECONTAMINATION:
            report = storage.read_json(storage.join(base.directory, path))
            urls = [match["url"] for match in report["matches"]]
        else:
            continue
        if removed and (count := sum(bool(removed.found(url)) for url in urls)):
            yield f"{path} names {count} pages that were removed"
    for path in unfinished_changes(base.directory):
        yield f"{path} was left by a command that was killed: give that again, or remove it"


def _accounts(base: Base) -> Iterator[str]:
    """Yield where statistics and manifest differ."""
    documents: dict[tuple[str, str], int] = {}
    for one in base.manifest["shards"]:
        key = (one["lang"], one["split"])
        documents[key] = documents.get(key, 0) + one["rows"]
    counted = {
        (lang, split): counts["documents"]
        for lang, splits in base.stats["languages"].items()
        for split, counts in splits.items()
    }
    for lang, split in sorted(documents.keys() | counted.keys()):
        key = (lang, split)
        if documents.get(key, 0) != counted.get(key, 0):
            yield (
                f"stats.json counts {counted.get(key, 0)} documents of {lang} in {split}; "
                f"the shards have {documents.get(key, 0)}"
            )
    try:
        check_accounts(base.stats["stages"], sum(documents.values()))
    except RuntimeError as error:
        yield f"stats.json: {error}"


def _chain(base: Base) -> Iterator[str]:
    """Yield where the records of removals do not follow from each other."""
    before = ""
    for path, sha256 in base.removals:
        if storage.exists(path) and storage.read_json(path)["previous"] != before:
            yield f"{path} does not name the record before it"
        before = sha256
