"""Removes pages from a finished corpus on request.

Their documents leave the shards, the samples of dropped pages, the statistics and the data card.
Their deduplication keys stay, so a later crawl cannot bring back the page. If lines or
near-duplicates have keys, a later crawl cannot bring back a duplicate of the page either.
`removals/` has a record of each removal: date, basis, counts, and the requested entries as keyed
hashes. A record has no text and no name.

A removal changes the corpus (`change`), and does not rebuild it without the page. Lines that other
pages lost because the removed page had them, and near-duplicates that the removed page represented,
do not return. Ids and splits stay.
"""

import collections
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import io
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import (
    DECONTAMINATION,
    WORK,
    Base,
    begin_change,
    decide_change,
    finish_decided,
    locate_staging,
    open_base,
    publish_change,
)
from mswitch.pipelines.corpus.holders import find_holders, list_identities
from mswitch.pipelines.corpus.ledger import REMOVED, check_accounts
from mswitch.pipelines.corpus.reader import open_shard
from mswitch.pipelines.corpus.removed import (
    KEY,
    REMOVALS,
    Removed,
    keyed_hash,
    load_removed,
    make_probe,
    name_page,
    name_site,
    name_url,
    read_sample_urls,
)
from mswitch.pipelines.corpus.rules.blocklist import canonical_host
from mswitch.pipelines.corpus.rules.decontamination import merge_reports
from mswitch.pipelines.corpus.rules.list_files import open_list
from mswitch.pipelines.corpus.stats import add_up
from mswitch.pipelines.directory_lock import follow_link, lock_directory
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Engine, Tasks, run_tasks
from mswitch.pipelines.local_pool import call_each
from mswitch.pipelines.outputs import (
    canonical_json,
    config_hash,
    file_entry,
    file_sha256,
    read_json_object,
    write_atomically,
)
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import RunnerName, use_runner, worker_processes

STAGE = "corpus"
Basis = Literal["copyright", "personal-data", "opt-out", "unlawful", "other"]
_ID = re.compile(r"[0-9a-f]{32}")
_SUFFIX = re.compile(r"(-removed-\d+)?\.parquet$")
_COUNTS = ("documents", "characters", "bytes")

#: Path of the file with the entries to remove, and the file's SHA-256.
Request = tuple[str, str]


def remove_pages(
    corpus: str | Path,
    *,
    urls: str = "",
    sites: str = "",
    ids: str = "",
    basis: Basis = "other",
    reference: str = "",
    search: Sequence[str] = (),
    dry_run: bool = False,
    runner: RunnerName = "local",
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Remove pages from a finished corpus.

    Args:
        corpus: path or URL of the corpus directory.
        urls: path or URL of a file of URLs, one per line. URLs that differ only in scheme, `www.`
            or tracking are one page.
        sites: a file of hosts; each includes its subdomains.
        ids: a file of documents' ids.
        basis: reason for the removal, for the record.
        reference: reference of the request, for the record; no name and no address.
        search: directories to search for vocabularies, examples and runs made from the corpus
            before.
        dry_run: count the pages on this machine and change nothing.
        runner: where shards are read and written.
        beam_options: options for Beam itself.

    Returns:
        A summary: stage, out, reused, removed_documents, removed_samples, languages (documents of
        each), entries_not_found (their number), not_found (the entries), held_by (outputs that
        were made from the corpus before, and still have the pages).
    """
    asked = _read_requests(urls, sites, ids)
    if not re.fullmatch(r"[\w.:/#-]{0,80}", reference):
        raise UserError(
            f"reference {reference!r}: give at most 80 letters, digits or ._:/#-, such as a "
            "ticket's number; a corpus must not say who asked"
        )
    use_runner(runner, beam_options)
    out = corpus if storage.is_remote(corpus) else follow_link(corpus)
    with contextlib.nullcontext() if storage.is_remote(out) else lock_directory(out):
        base, finished = open_base(out), False
        while not dry_run and finish_decided(base):
            say(STAGE, f"published a change of {out} that was ready when its command was killed")
            base, finished = open_base(out), True
        before = load_removed(base.removals)
        new = {
            name
            for name in itertools.chain.from_iterable(asked.values())
            if not (before and keyed_hash(before.key, name) in before.hashes)
        }
        holders = find_holders(base, search)
        if dry_run:
            return {**_summarize(out, *_count_matches(base, new), asked, holders), "dry_run": True}
        if before and not new:
            # All requested pages are already removed. If this command has just finished a killed
            # command's removal, report the record of that removal.
            record = storage.read_json(base.removals[-1][0]) if finished else {}
            if not finished:
                say(STAGE, f"all of these were removed from {out} before, nothing to do")
            return _summarize(out, record, before, asked, holders)
        change = config_hash(
            "corpus-removal", {"names": sorted(new), "basis": basis, "reference": reference}
        )
        staging = locate_staging(base, change)
        begin_change(base, staging, {"removes": len(new)})
        request = _write_request(staging, base, new, basis, reference)
        identity = f"{base.state}-{change}"
        engine = Engine(STAGE, base.directory, identity, runner, tuple(beam_options))
        with worker_processes(runner, beam_options):
            record = _remove(base, staging, request, engine)
        removed, _ = _read_request(request)
        publish_change(base, staging)
    say(
        STAGE,
        f"{record['documents']:,} documents removed; no later crawl brings them back. Lines that "
        "other pages lost to them, and near-duplicates that they represented, do not return: to "
        "get these, build again without the removed pages",
    )
    return _summarize(out, record, removed, asked, holders)


def _read_requests(urls: str, sites: str, ids: str) -> dict[str, list[str]]:
    asked: dict[str, list[str]] = {}
    for path, names in ((urls, _name_url), (sites, _name_site), (ids, _name_id)):
        if not path:
            continue
        with open_list(path, "the list") as opened:
            lines = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace")
            numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
        entries = {entry: number for number, entry in numbered if entry and entry[0] != "#"}
        shown = storage.hide_secrets(path)
        if not entries:
            raise UserError(f"the list {shown} has no entry: give one per line, or leave it out")
        for entry, number in entries.items():
            asked.setdefault(entry, names(entry, f"{shown}, line {number}"))
    if not asked:
        raise UserError("nothing to remove: give --urls, --sites or --ids, files with entries")
    return asked


def _name_url(entry: str, where: str) -> list[str]:
    if not (names := name_url(entry)):
        raise UserError(f"{where}: {entry[:80]!r} is not a URL: remove it")
    return names


def _name_site(entry: str, where: str) -> list[str]:
    host = canonical_host(entry)
    if re.search("[/: ]", entry) or "." not in host:
        raise UserError(
            f"{where}: {entry[:80]!r} is not the host of a site: give one per line, such as "
            "a.example; give pages by --urls"
        )
    return [name_site(host)]


def _name_id(entry: str, where: str) -> list[str]:
    if not _ID.fullmatch(entry):
        raise UserError(
            f"{where}: {entry[:80]!r} is not a document's id (32 hexadecimal digits): correct it"
        )
    return [name_page(entry)]


def _count_matches(base: Base, names: Collection[str]) -> tuple[dict[str, Any], Removed]:
    languages: collections.Counter[str] = collections.Counter()
    hashes: set[str] = set()
    shards = base.manifest["shards"]
    with tempfile.TemporaryDirectory() as staging, worker_processes("local"):
        request = _write_request(staging, base, names, "", "")
        look = partial(_match_rows, directory=base.directory, request=request)
        for entry, matched in zip(shards, call_each(look, shards), strict=True):
            languages[entry["lang"]] += sum(map(bool, matched))
            hashes.update(*matched)
        removed, _ = _read_request(request)
    counts = {lang: count for lang, count in languages.items() if count}
    return {"found": hashes, "documents": languages.total(), "languages": counts}, removed


def _match_rows(entry: Mapping[str, Any], *, directory: str, request: Request) -> list[set[str]]:
    removed, _ = _read_request(request)
    with open_shard(storage.join(directory, entry["path"])) as shard:
        return [
            removed.match(row["url"], row["id"])
            for batch in shard.iter_batches(columns=["id", "url"])
            for row in batch.to_pylist()
        ]


def _write_request(
    staging: str, base: Base, names: Collection[str], basis: str, reference: str
) -> Request:
    path = storage.join(staging, WORK, "request.json")
    if storage.exists(path):
        # Keep the file, because it contains the date on which the removal began.
        return path, hashlib.sha256(storage.read_bytes(path)).hexdigest()
    before = load_removed(base.removals)
    key = before.key if before else secrets.token_bytes(32)
    kinds = collections.Counter(name.partition(":")[0] for name in names)
    last = base.manifest.get("removals", [])[-1:]
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "basis": basis,
        "reference": reference,
        "code_version": importlib.metadata.version("mswitch"),
        "requested": {"pages": kinds["page"], "sites": kinds["site"]},
        "hashes": sorted(keyed_hash(key, name) for name in names),
        "probe": make_probe(key),
        "previous": last[0]["sha256"] if last else "",
    }
    storage.make_directory(storage.join(staging, WORK))
    content = canonical_json({"key": key.hex(), "record": record})
    _write_secret(path, content.encode())
    return path, hashlib.sha256(content.encode()).hexdigest()


def _write_secret(path: str, content: bytes) -> None:
    """Write a file that other users of this machine cannot read."""
    with storage.publish(path, sync=True) as temporary:
        temporary.touch(0o600)
        temporary.write_bytes(content)


@functools.lru_cache(maxsize=1)
def _read_request(request: Request) -> tuple[Removed, dict[str, Any]]:
    content = storage.read_json(request[0])
    record = content["record"]
    hashes = frozenset(record["hashes"])
    return Removed(bytes.fromhex(content["key"]), hashes, record["requested"]["sites"] > 0), record


def _remove(base: Base, staging: str, request: Request, engine: Engine) -> dict[str, Any]:
    removed, record = _read_request(request)
    # Objects cannot be renamed, so remote files are written at their final place.
    directory = base.directory if storage.is_remote(staging) else staging
    shards = base.manifest["shards"]
    function = partial(
        remove_from_shard,
        source=base.directory,
        directory=directory,
        suffix=base.suffix,
        request=request,
    )
    notes = storage.join(staging, WORK, "removal")
    tasks = Tasks("removal", function, shards, notes, [shard["bytes"] for shard in shards], "bytes")
    run_tasks([tasks], engine)
    done = [(entry, note) for entry, note in zip(shards, tasks.read(), strict=True)]
    kept = [note["entry"] for _, note in done if note["entry"]]
    if not kept:
        storage.remove_tree(staging)
        raise UserError(f"no document of {base.directory} would be left: delete it instead")
    changed = [(entry, note) for entry, note in done if note["documents"]]
    languages: collections.Counter[str] = collections.Counter()
    for entry, note in changed:
        languages[entry["lang"]] += note["documents"]
    hashes = {name for _, note in changed for name in note["found"]}
    samples = _clean_samples(base.directory, directory, staging, removed)
    record = {
        **record,
        "found": sorted(hashes),
        "documents": languages.total(),
        "languages": dict(sorted(languages.items())),
        "files": [
            {
                "before": entry["path"],
                "after": note["entry"]["path"] if note["entry"] else None,
                "documents": note["documents"],
            }
            for entry, note in changed
        ],
        "samples": samples["count"],
        "corpus": sorted(list_identities(base)),
    }
    whole = {
        "manifest": {
            **base.manifest,
            "shards": kept,
            "removals": [
                *base.manifest.get("removals", []),
                _write_record(directory, len(base.removals) + 1, record, removed.key),
            ],
        },
        "stats": _reduce_stats(base.stats, changed, languages),
        "gone": [entry["path"] for entry, _ in changed],
    }
    if "files" in base.manifest:
        whole["manifest"]["files"] = [*base.manifest["files"], *samples["files"]]
    path = storage.join(base.directory, DECONTAMINATION)
    if storage.exists(path):
        report = read_json_object(path)
        matches = [match for match in report["matches"] if not removed.match(match["url"])]
        whole["decontamination"] = merge_reports({**report, "matches": matches}, {"matches": []})
    decide_change(staging, whole)
    return record


def remove_from_shard(
    entry: Mapping[str, Any], *, source: str, directory: str, suffix: str, request: Request
) -> dict[str, Any]:
    """Rewrite a shard of `source` without its removed documents, if it contains any.

    Memory: a row group, and the URLs.

    Returns:
        entry (of the new shard; None if nothing is left), found (hashes), and the numbers
        of removed documents, characters and bytes.
    """
    matched = _match_rows(entry, directory=source, request=request)
    if not any(matched):
        return {"entry": dict(entry), "found": [], **dict.fromkeys(_COUNTS, 0)}
    with open_shard(storage.join(source, entry["path"]), entry["sha256"]) as shard:
        gone = pa.array([bool(hashes) for hashes in matched], pa.bool_())
        counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        kept = _split(shard, gone, counts)
        after: dict[str, Any] | None = None
        if all(matched):
            collections.deque(kept, maxlen=0)
        else:
            path = _SUFFIX.sub(f"{suffix}.parquet", entry["path"])
            final = storage.join(directory, path)
            storage.make_directory(os.path.dirname(final))
            with storage.publish(final, sync=True) as temporary:
                schema = shard.schema_arrow
                with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                    for table in kept:
                        writer.write_table(table, row_group_size=len(table))
                after = {
                    **entry,
                    "path": path,
                    "rows": entry["rows"] - counts["documents"],
                    "bytes": temporary.stat().st_size,
                    "sha256": file_sha256(temporary),
                }
    return {"entry": after, "found": sorted(set().union(*matched)), **counts}


def _split(shard: pq.ParquetFile, gone: pa.Array, counts: dict[str, int]) -> Iterator[pa.Table]:
    """Yield the remaining rows of each row group; add the removed rows to `counts`."""
    start = 0
    for number in range(shard.num_row_groups):
        table = shard.read_row_group(number)
        leaves = gone.slice(start, len(table))
        start += len(table)
        texts = table["text"].filter(leaves)
        counts["documents"] += len(texts)
        for name, length in (("characters", "utf8_length"), ("bytes", "binary_length")):
            lengths = pc.call_function(length, [texts])
            counts[name] += pc.call_function("sum", [lengths]).as_py() or 0
        stays = table.filter(pc.call_function("invert", [leaves]))
        if len(stays):
            yield stays
        pa.default_memory_pool().release_unused()


def _clean_samples(source: str, directory: str, staging: str, removed: Removed) -> dict[str, Any]:
    """Delete removed pages from `rejected/`; return sample `count`, `files` (manifest entries)."""
    cleaned, count = dict[str, bytes](), 0
    for path in storage.file_sizes(source):
        if path.startswith("rejected/") and path.endswith(".jsonl"):
            lines = storage.read_bytes(storage.join(source, path)).splitlines(True)
            urls = read_sample_urls(storage.join(source, path))
            kept = [line for line, url in zip(lines, urls, strict=True) if not removed.match(url)]
            if len(kept) < len(lines):
                cleaned[path] = b"".join(kept)
                count += len(lines) - len(kept)
    # In object storage, a run overwrites files of samples in place. After a kill, the repeated run
    # finds fewer samples to remove, so store the first run's count.
    noted = storage.join(staging, WORK, "cleaned.json")
    if not storage.exists(noted):
        files = [file_entry(path, content) for path, content in sorted(cleaned.items())]
        storage.write_json(noted, {"count": count, "files": files}, scratch=True)
    for path, content in cleaned.items():
        final = storage.join(directory, path)
        storage.make_directory(os.path.dirname(final))
        write_atomically(final, content)
    return storage.read_json(noted)


def _write_record(directory: str, number: int, record: Any, key: bytes) -> dict[str, Any]:
    folder = storage.join(directory, REMOVALS)
    storage.make_directory(folder)
    _write_secret(storage.join(folder, KEY), key)
    text = storage.json_text(record).encode()
    name = f"{number:03d}.json"
    write_atomically(storage.join(folder, name), text)
    return file_entry(f"{REMOVALS}/{name}", text)


def _reduce_stats(
    stats: Mapping[str, Any],
    changed: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    languages: Mapping[str, int],
) -> dict[str, Any]:
    """Return stats.json after a removal; the last stage counts the removed documents as drops."""
    gone: dict[str, dict[str, collections.Counter[str]]] = {lang: {} for lang in languages}
    for entry, note in changed:
        split_counts = gone[entry["lang"]].setdefault(entry["split"], collections.Counter())
        split_counts.subtract({name: note[name] for name in _COUNTS})
    total = sum(languages.values())
    before = [{} for _ in stats["stages"][:-1]]
    without = add_up(
        stats,
        {
            "languages": gone,
            "stages": [*before, {"out": -total, "dropped": {REMOVED: total}}],
            "dropped_languages": {lang: {REMOVED: count} for lang, count in languages.items()},
        },
    )
    left = {
        lang: {split: counts for split, counts in splits.items() if counts["documents"]}
        for lang, splits in without["languages"].items()
    }
    without["languages"] = {lang: splits for lang, splits in left.items() if splits}
    documents = sum(n["documents"] for splits in left.values() for n in splits.values())
    check_accounts(without["stages"], documents)
    return without


def _summarize(
    out: str | Path,
    record: Mapping[str, Any],
    removed: Removed,
    asked: Mapping[str, Sequence[str]],
    holders: Sequence[str],
) -> dict[str, Any]:
    matched = {*record.get("found", removed.hashes)}
    missing = [
        entry
        for entry, names in asked.items()
        if not matched.intersection(keyed_hash(removed.key, name) for name in names)
    ]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
        say(STAGE, f"{len(missing):,} entries match no document: {shown}")
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": not record,
        "removed_documents": record.get("documents", 0),
        "removed_samples": record.get("samples", 0),
        "languages": record.get("languages", {}),
        "entries_not_found": len(missing),
        "not_found": missing,
        "held_by": list(holders),
    }
