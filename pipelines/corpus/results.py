"""Adds up the counts that the tasks of a corpus build stored in result files.

A build may have tens of thousands of shards, so only what is needed later stays in memory.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.recipe import READ
from mswitch.pipelines.crawl.files import UNREAD
from mswitch.pipelines.records import SPLITS

#: Facts about each input file, for the manifest. The first three are numbers of pages. `form` is
#: the published corpus that has the file's field names. `lost_values` is the number of dropped
#: values in each column of --keep.
_NOTED = ("undated", "made_urls", "corrected_charsets", "form", "lost_values")


@dataclasses.dataclass(frozen=True)
class Ingested:
    """Results of ingest.

    Attributes:
        pages: number of pages of each shard that passed ingest.
        lines: number of their lines that have keys.
        text_bytes: bytes of their text.
        statuses: for the manifest, the `status` of each shard (read, damaged, or why nothing was
            read: `UNREAD`), `records`, `pages`, and its values of `_NOTED`.
        ledger: accounts of all shards.
    """

    pages: list[int]
    lines: list[int]
    text_bytes: list[int]
    statuses: list[dict[str, Any]]
    ledger: Ledger


@dataclasses.dataclass
class LanguageIndex:
    """The documents of one language.

    Attributes:
        totals: documents, characters and bytes of each split, as the hash of the URL decides it.
        smallest: id (hex), characters and bytes of the training documents that would move to
            validation first.
        pieces: their places: group of shards, batch, start and stop.
    """

    totals: dict[str, list[int]] = dataclasses.field(
        default_factory=lambda: {split: [0, 0, 0] for split in SPLITS}
    )
    smallest: list[list[Any]] = dataclasses.field(default_factory=list)
    pieces: list[tuple[int, int, int, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Finished:
    """Results of the finish phase.

    Attributes:
        languages: the documents of each language.
        keys: number of fingerprints of each kind.
        ledger: accounts of all shards.
    """

    languages: dict[str, LanguageIndex]
    keys: collections.Counter[str]
    ledger: Ledger


def read_ingested(notes: Iterable[Mapping[str, Any]], job: Job) -> Ingested:
    """Add up the notes of `ingest_shard` about each shard."""
    ingested = Ingested([], [], [], [], make_ledger(job))
    for accounts in notes:
        ingested.pages.append(accounts["pages"])
        ingested.lines.append(accounts["lines"])
        ingested.text_bytes.append(accounts["text_bytes"])
        ingested.statuses.append(_describe_status(accounts))
        ingested.ledger.merge(accounts["ledger"])
    return ingested


def read_finished(notes: Iterable[Mapping[str, Any]], job: Job, *, pieces: bool) -> Finished:
    """Add up the finish phase's task results; collect documents' positions if `pieces` is true."""
    languages: dict[str, LanguageIndex] = collections.defaultdict(LanguageIndex)
    keys: collections.Counter[str] = collections.Counter()
    ledger = make_ledger(job)
    for group, accounts in enumerate(notes):
        for lang, entry in accounts["languages"].items():
            index = languages[lang]
            for split, total in index.totals.items():
                total[:] = [a + b for a, b in zip(total, entry[split], strict=True)]
            smallest = sorted([*index.smallest, *entry["smallest"]])
            index.smallest = smallest[: job.config.min_validation_documents]
            if pieces:
                index.pieces += [(group, *piece) for piece in entry["pieces"]]
        keys.update(accounts["keys"])
        ledger.merge(accounts["ledger"])
    return Finished(dict(languages), keys, ledger)


def list_dropped_records(
    names: Iterable[str], notes: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield rows of `rejected/records.parquet`: records that each file's reader dropped."""
    for name, accounts in zip(names, notes, strict=True):
        dropped = accounts["ledger"]["dropped"][READ]
        for reason, places in accounts["places"].items():
            yield {"file": name, "reason": reason, "records": dropped[reason], "offsets": places}


def count_for_engine(accounts: Mapping[str, Any]) -> dict[str, int]:
    """Convert the result of an ingest or finish task to counters that Beam displays."""
    ledger = accounts["ledger"]
    counts: collections.Counter[str] = collections.Counter(pages_read=ledger["kept"].get(READ, 0))
    for reasons in ledger["dropped"].values():
        counts.update({f"dropped_{reason}": count for reason, count in reasons.items()})
    if "places" in accounts:
        counts["damaged_files"] = int(_describe_status(accounts)["status"] == "damaged")
    for lang, splits in accounts.get("languages", {}).items():
        for split in SPLITS:
            documents, _, size = splits[split]
            counts.update({f"documents_{lang}": documents, "documents": documents, "bytes": size})
    return dict(counts)


def make_ledger(job: Job) -> Ledger:
    """Return a ledger for all stages of a job."""
    return Ledger(job.config.rejected_per_reason, job.recipe.stages)


def _describe_status(accounts: Mapping[str, Any]) -> dict[str, Any]:
    ledger = accounts["ledger"]
    dropped = ledger["dropped"][READ]
    # A truncated JSONL file ends in a line that is not JSON.
    damaged = "damaged" in dropped or "bad_json" in dropped
    status = next((name for name in UNREAD.values() if name in dropped), None)
    pages = ledger["kept"].get(READ, 0)
    return {
        "status": status or ("damaged" if damaged else "read"),
        "records": pages + sum(dropped.values()),
        "pages": pages,
        **{name: accounts[name] for name in _NOTED if accounts.get(name)},
    }
