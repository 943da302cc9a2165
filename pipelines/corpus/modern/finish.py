"""Finish of profile `modern`: keep what won and represents, drop what evaluation sets have."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.corpus.accounts import Ledger
from pipelines.corpus.badwords import BadWordsFilter
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.fingerprints import unpack
from pipelines.corpus.modern.contest import cluster_sizes
from pipelines.corpus.modern.decontamination import NGRAM_WORDS
from pipelines.corpus.modern.lists import read_evaluation_index
from pipelines.corpus.modern.records import DOCUMENT_COLUMNS
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.records import Rejected

_SAMPLE_CHARACTERS = 300
_STORED = [name for name in DOCUMENT_COLUMNS.names if name != "cluster_size"]


def modern_documents(
    unit: int,
    work: WorkDirectory,
    config: CorpusConfig,
    bad_words: BadWordsFilter | None,
    ledger: Ledger,
    keys: dict[str, list[np.ndarray]],
    contamination: list[dict[str, Any]],
) -> Iterator[list[dict[str, Any]]]:
    """Yield a unit's documents, a row group of pages at a time; account for all else.

    Appends each evaluation item that was found to `contamination`, and the band keys of the
    documents to `keys["bands"]`.
    """
    index = read_evaluation_index(work, config.modern.contamination_share)
    with storage.fetch(work.pages(unit)) as path, pq.ParquetFile(path) as file:
        pages = file.metadata.num_rows
        won = work.selected("winners", unit, pages)
        sizes = cluster_sizes(work, unit, pages)
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=[*_STORED, "band_keys"]).to_pylist()
            kept = []
            for row, wins, size in zip(rows, won[start:], sizes[start:], strict=False):
                if not wins:
                    ledger.drop(_rejected("url_dedup", "duplicate_url", row))
                    continue
                ledger.keep("url_dedup")
                if size == 0:
                    ledger.drop(_rejected("near_dedup", "near_duplicate", row))
                    continue
                ledger.keep("near_dedup")
                kept.append({**row, "cluster_size": int(size)})
            found = index.check([row["text"] for row in kept])
            for one in found:
                row = kept[one.page]
                item = {k: v for k, v in dataclasses.asdict(one).items() if k != "page"}
                contamination.append({**item, "id": row["id"].hex(), "url": row["url"]})
            contaminated = {one.page for one in found}
            for page in sorted(contaminated):
                ledger.drop(_rejected("decontamination", "evaluation_item", kept[page]))
            clean = [row for page, row in enumerate(kept) if page not in contaminated]
            ledger.keep("decontamination", len(clean))
            documents = []
            for row in clean:
                if bad_words and (reason := bad_words.reason(row["lang"], row["text"], row["id"])):
                    ledger.drop(_rejected("badwords", reason, row))
                    continue
                ledger.keep("badwords")
                keys["bands"].append(unpack(row.pop("band_keys")))
                documents.append(row)
            yield documents
            start += len(rows)


def contamination_report(work: WorkDirectory, units: int, config: CorpusConfig) -> dict[str, Any]:
    """Return decontamination.json: each set's items, and which of them are on which page.

    Every `match` names set, line of the item, n-grams of the item found of how many, and the
    dropped page. Pages are sorted by id, so the report does not depend on the input's order.
    """
    index = read_evaluation_index(work, config.modern.contamination_share)
    matches = [
        match
        for accounts in storage.read_json_files([work.finished(unit) for unit in range(units)])
        for match in accounts["contamination"]
    ]
    found = _found(matches)
    sets: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for key in index.items:
        sets[key[0]].update(items=1, found=key in found)
    for name, _ in index.too_short:
        sets[name].update(items=1, too_short=1)
    return {
        "ngram_words": NGRAM_WORDS,
        "min_share": index.min_share,
        "sets": {
            name: {"items": n["items"], "found": n["found"], "too_short": n["too_short"]}
            for name, n in sorted(sets.items())
        },
        "matches": _in_order(matches),
    }


def merge_reports(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a corpus and a crawl that was added, checked against the same sets."""
    matches = _in_order([*one["matches"], *other["matches"]])
    found = collections.Counter(name for name, _ in _found(matches))
    sets = {name: {**counts, "found": found[name]} for name, counts in one["sets"].items()}
    return {**one, "sets": sets, "matches": matches}


def _found(matches: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
    return {(match["set"], match["line"]) for match in matches}


def _in_order(matches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(matches, key=lambda one: (one["set"], one["line"], one["id"]))


def _rejected(stage: str, reason: str, row: dict[str, Any]) -> Rejected:
    return Rejected(stage, reason, row["source"], row["url"], row["text"][:_SAMPLE_CHARACTERS])
