"""Checks a finished corpus: is every file as the manifest says, and does it say all?"""

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import Base, listed_files
from mswitch.pipelines.corpus.fingerprints import fingerprint, normalize_url
from mswitch.pipelines.corpus.ledger import check_accounts
from mswitch.pipelines.corpus.reader import open_shard
from mswitch.pipelines.corpus.recipes import MC4
from mswitch.pipelines.corpus.removal import load_removed
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import call_each
from mswitch.pipelines.outputs import file_sha256, read_manifest
from mswitch.pipelines.runners import worker_processes

#: Folders whose files the manifest names, all of them.
_FOLDERS = ("data/", "fingerprints/", "removals/")


def verify_corpus(corpus: str | Path) -> dict[str, Any]:
    """Read a whole corpus and compare it with its manifest and statistics.

    Checked are sizes and checksums of files, files that the manifest does not name, the rows of
    shards (language, id of the URL, order, nothing that was removed), and the accounts.

    Args:
        corpus: its directory, or its URL.

    Returns:
        stage, out, files, documents, and problems: a sentence each, none if all is well.
    """
    manifest = read_manifest(corpus, "corpus")
    base = Base(str(corpus), manifest, load_stats(corpus), MC4)
    entries = listed_files(manifest)
    check = partial(_check_file, directory=str(corpus), removals=base.removals)
    with worker_processes("local"):
        found = call_each(check, entries)
    problems = list(itertools.chain(*found, _unlisted(base), _accounts(base), _chain(base)))
    return {
        "stage": "corpus",
        "out": str(corpus),
        "files": len(entries),
        "documents": sum(one["rows"] for one in manifest["shards"]),
        "problems": problems,
    }


def _check_file(
    entry: Mapping[str, Any], *, directory: str, removals: tuple[str, ...]
) -> list[str]:
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


def _rows(path: str, entry: Mapping[str, Any], removals: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with the rows of a shard."""
    removed = load_removed(removals)
    rows, last, wrong = 0, "", dict.fromkeys(("language", "id", "order", "removed"), 0)
    with open_shard(path) as shard:
        for batch in shard.iter_batches(columns=["id", "url", "lang"]):
            for page_id, url, lang in zip(
                *(batch[n].to_pylist() for n in batch.schema.names), strict=True
            ):
                wrong["language"] += lang != entry["lang"]
                wrong["id"] += page_id != fingerprint(normalize_url(url)).hex()
                wrong["order"] += page_id <= last
                wrong["removed"] += bool(removed and removed.found(url))
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
    for path, entry in zip(base.removals, base.manifest.get("removals", []), strict=True):
        if storage.exists(path) and storage.read_json(path)["previous"] != before:
            yield f"{entry['path']} does not name the record before it"
        before = entry["sha256"]
