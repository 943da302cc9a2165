"""Checks a finished corpus."""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import (
    DECONTAMINATION,
    STATS,
    Base,
    find_unfinished_changes,
    list_entries,
)
from mswitch.pipelines.corpus.ledger import check_accounts
from mswitch.pipelines.corpus.reader import open_shard
from mswitch.pipelines.corpus.recipes import MC4
from mswitch.pipelines.corpus.removed import Records, load_removed, read_sample_urls
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import call_each
from mswitch.pipelines.outputs import (
    MANIFEST,
    MARKER,
    SEAL,
    canonical_json,
    file_sha256,
    read_json_object,
    read_manifest,
    seal_manifest,
)
from mswitch.pipelines.runners import worker_processes

#: Files for which earlier versions recorded no checksum.
_BESIDE = (STATS, DECONTAMINATION, "rejected/")
#: Files that are part of a corpus only if the manifest names them.
_OWN = (*_BESIDE, "data/", "fingerprints/", "removals/")


def verify_corpus(corpus: str | Path) -> dict[str, Any]:
    """Read a whole corpus and compare it with its manifest and statistics.

    It checks sizes and checksums of files, files that the manifest does not name, rows of shards
    (language, id of the URL, order, no removed page), samples, accounts, records of removals, and
    leftovers of killed commands.

    Args:
        corpus: its path or URL.

    Returns:
        stage, out, files, documents, problems (a sentence each), unchecked (files and folders
        without a checksum in the manifest).
    """
    manifest = read_manifest(corpus, "corpus")
    directory = str(corpus) if storage.is_remote(corpus) else os.path.abspath(corpus)
    result = {"stage": "corpus", "out": str(corpus), "files": 0, "documents": 0, "unchecked": []}
    text = storage.read_bytes(storage.join(corpus, MANIFEST)).decode()
    recorded = "files" in manifest
    if (recorded or SEAL in manifest) and text != storage.json_text(seal_manifest(manifest)):
        problem = f"{MANIFEST} is damaged (its SHA-256 is not the one that it records): restore it"
        return {**result, "problems": [problem]}
    entries = [*list_entries(manifest), *manifest.get("files", [])]
    removals, problems = Base(directory, manifest, {}, MC4).removals, []
    known = {MANIFEST, MARKER, *(entry["path"] for entry in entries)}
    others = storage.file_sizes(directory).keys() - known - {"removals/key" if removals else ""}
    own = {path for path in others if path.startswith(_OWN)}
    without = set() if recorded else {path for path in own if path.startswith(_BESIDE)}
    entries += [{"path": path} for path in sorted(without)]
    try:
        load_removed(removals)
    except (UserError, OSError) as error:
        problems.append(f"{error}; removed pages were not checked")
        removals = ()
    check = partial(_check_file, directory=directory, removals=removals)
    with worker_processes("local"):
        problems += [message for messages in call_each(check, entries) for message in messages]
    problems += [f"{path} is not in the manifest" for path in sorted(own - without)]
    marker = canonical_json({"config_hash": manifest["config_hash"]}) + "\n"
    if storage.read_bytes(storage.join(directory, MARKER)) != marker.encode():
        problems.append(f"{MARKER} is damaged (its hash is not the manifest's)")
    for path in find_unfinished_changes(directory):
        problems.append(
            f"{path} was left by a killed command: run that command again, or remove the path"
        )
    before = ""
    for path, sha256 in removals:
        if storage.read_json(path)["previous"] != before:
            problems.append(f"{path} does not name the record before it")
        before = sha256
    problems += _check_accounts(directory, manifest["shards"])
    return {
        **result,
        "files": len(entries),
        "documents": sum(shard["rows"] for shard in manifest["shards"]),
        "problems": problems,
        "unchecked": sorted({path.partition("/")[0] for path in others - own | without}),
    }


def _check_file(entry: Mapping[str, Any], *, directory: str, removals: Records) -> list[str]:
    name = entry["path"]
    path = storage.join(directory, name)
    if not storage.exists(path):
        return [f"{name} is missing"]
    with storage.fetch(path) as local:
        if "sha256" in entry and (
            local.stat().st_size != entry["bytes"] or file_sha256(local) != entry["sha256"]
        ):
            return [f"{name} is damaged (its SHA-256 is not the manifest's)"]
        try:
            if "rows" in entry:
                return [f"{name} {problem}" for problem in _check_rows(str(local), entry, removals)]
            urls = []
            if name.endswith(".jsonl"):
                urls = read_sample_urls(path)
            elif name == DECONTAMINATION:
                urls = [match["url"] for match in read_json_object(path)["matches"]]
        except UserError as error:
            return [str(error)]
        except (LookupError, TypeError) as error:
            return [f"{name} is not as a build writes it ({error!r}): restore it"]
    removed = load_removed(removals)
    count = sum(bool(removed and removed.match(url)) for url in urls)
    return [f"{name} names {count} pages that were removed"] if count else []


def _check_rows(path: str, entry: Mapping[str, Any], removals: Records) -> Iterator[str]:
    removed = load_removed(removals)
    rows, last, wrong = 0, "", collections.Counter[str]()
    foreign = f"rows of another language than {entry['lang']}"
    with open_shard(path) as shard:
        for batch in shard.iter_batches(columns=["id", "url", "lang"]):
            for page_id, url, lang in zip(
                *(batch[n].to_pylist() for n in batch.schema.names), strict=True
            ):
                wrong[foreign] += lang != entry["lang"]
                is_other = page_id != make_document_id(url).hex()
                wrong["rows whose id is not that of their URL"] += is_other
                wrong["rows that are not in the order of their ids"] += page_id <= last
                is_removed = bool(removed and removed.match(url, page_id))
                wrong["rows that were removed"] += is_removed
                last, rows = page_id, rows + 1
    if rows != entry["rows"]:
        yield f"has {rows} rows; the manifest says {entry['rows']}"
    yield from (f"has {count} {problem}" for problem, count in wrong.items() if count)


def _check_accounts(directory: str, shards: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    documents = collections.Counter[tuple[str, str]]()
    for shard in shards:
        documents[shard["lang"], shard["split"]] += shard["rows"]
    try:
        stats = read_json_object(storage.join(directory, STATS))
        counted = {
            (lang, split): counts["documents"]
            for lang, splits in stats["languages"].items()
            for split, counts in splits.items()
        }
        for lang, split in sorted(documents.keys() | counted.keys()):
            there, count = documents[lang, split], counted.get((lang, split), 0)
            if there != count:
                counts = f"counts {count} documents of {lang} in {split}; the shards have {there}"
                yield f"{STATS} {counts}"
        check_accounts(stats["stages"], documents.total())
    except UserError as error:
        yield str(error)
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        yield f"{STATS}: {error}"
