"""Finish of profile `modern`: keep what won and represents, drop what evaluation sets have."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.corpus.accounts import Ledger
from pipelines.corpus.badwords import BadWordsFilter
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup import own_lines
from pipelines.corpus.fingerprints import unpack
from pipelines.corpus.modern.decontamination import NGRAM_WORDS, EvaluationIndex
from pipelines.corpus.modern.lists import read_evaluation_index
from pipelines.corpus.modern.records import DOCUMENT_COLUMNS
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.records import Rejected

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

    Appends each evaluation item that was found to `contamination`, and the documents' keys of bands
    (and lines) to `keys`.
    """
    index = read_evaluation_index(work, config.modern.contamination_share)
    for pages in _page_groups(unit, work, config.line_scope() == "language"):
        staying = [page for page in pages if _stays(page, ledger)]
        documents = []
        for page in _decontaminated(staying, index, ledger, contamination):
            if bad_words and (reason := bad_words.reason(page["lang"], page["text"], page["id"])):
                ledger.drop(_rejected("badwords", reason, page))
                continue
            ledger.keep("badwords")
            keys["bands"].append(unpack(page["band_keys"]))
            if page["owns"] is not None:
                keys["lines"].append(unpack(page["line_hashes"])[page["owns"]])
            documents.append(page)
        yield documents


def _page_groups(unit: int, work: WorkDirectory, by_lines: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield row groups of pages, each with what the contests decided about it.

    That is `wins` (its URL), `cluster_size` and `owns`: bool [lines], None unless `by_lines`.
    """
    columns = [*_STORED, "band_keys", *(("lines", "line_hashes") if by_lines else ())]
    with storage.fetch(work.pages(unit)) as path, pq.ParquetFile(path) as file:
        total = file.metadata.num_rows
        won, sizes = work.selected("winners", unit, total), work.cluster_sizes(unit, total)
        owned = np.zeros(0, bool)
        if by_lines:
            lines = file.read(columns=["lines"])["lines"].to_numpy().sum(dtype=np.int64)
            owned = work.selected("owners", unit, int(lines))
        page = line = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=columns).to_pylist()
            for row in rows:
                row |= {"wins": won[page], "cluster_size": int(sizes[page]), "owns": None}
                page += 1
                if by_lines:
                    row["owns"] = owned[line : line + row["lines"]]
                    line += row["lines"]
            yield rows


def _stays(page: dict[str, Any], ledger: Ledger) -> bool:
    """Apply what the contests decided: leave a page the lines it owns, or drop it."""
    if not page["wins"]:
        ledger.drop(_rejected("url_dedup", "duplicate_url", page))
        return False
    ledger.keep("url_dedup")
    if page["cluster_size"] == 0:
        ledger.drop(_rejected("near_dedup", "near_duplicate", page))
        return False
    ledger.keep("near_dedup")
    if page["owns"] is None:
        return True
    text = own_lines(page["text"].encode(), unpack(page["line_hashes"]), page["owns"], ledger)
    if not text:
        ledger.drop(_rejected("line_dedup", "no_own_lines", page))
        return False
    ledger.keep("line_dedup")
    page["text"] = text
    return True


def _decontaminated(
    pages: list[dict[str, Any]],
    index: EvaluationIndex,
    ledger: Ledger,
    contamination: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return the pages without an evaluation item; note the items of the others."""
    found = index.check([page["text"] for page in pages])
    for one in found:
        page = pages[one.page]
        item = {k: v for k, v in dataclasses.asdict(one).items() if k != "page"}
        contamination.append({**item, "id": page["id"].hex(), "url": page["url"]})
    contaminated = {one.page for one in found}
    for number in sorted(contaminated):
        ledger.drop(_rejected("decontamination", "evaluation_item", pages[number]))
    clean = [page for number, page in enumerate(pages) if number not in contaminated]
    ledger.keep("decontamination", len(clean))
    return clean


def contamination_report(
    work: WorkDirectory, config: CorpusConfig, matches: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return decontamination.json: each set's items, and which of them are on which page.

    Every `match` names set, line of the item, n-grams of the item found of how many, and the
    dropped page. Pages are sorted by id, so the report does not depend on the input's order.
    """
    index = read_evaluation_index(work, config.modern.contamination_share)
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


def _in_order(matches: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(matches, key=lambda one: (one["set"], one["line"], one["id"]))


def _rejected(stage: str, reason: str, row: dict[str, Any]) -> Rejected:
    return Rejected(stage, reason, row["source"], row["url"], row["text"], row["lang"])
