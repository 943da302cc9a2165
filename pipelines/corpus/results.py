"""What the shards of a build noted of themselves, read once and added up.

A build may have tens of thousands of shards: of each only what is needed later is kept in memory.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.recipe import READ
from mswitch.pipelines.crawl.pages import UNREAD
from mswitch.pipelines.records import SPLITS

#: Pages of these kinds in a file; the published corpus whose fields it has.
_NOTED = ("undated", "made_urls", "corrected_charsets", "form")


@dataclasses.dataclass(frozen=True)
class Ingested:
    """What was read.

    Attributes:
        pages: how many pages of each shard passed ingest.
        lines: how many lines they have, as far as these have keys.
        text_bytes: their text.
        statuses: of each shard its `status` (read, damaged, or why nothing was read: `UNREAD`),
            `records`, `pages`, and what it has of `_NOTED`, for the manifest.
        ledger: the accounts of all shards.
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
        totals: documents, characters and bytes of each split, by the hash of the URL.
        smallest: id (hex), characters and bytes of the training documents that would move to
            validation first.
        pieces: where they lie: group of shards, batch, start and stop.
    """

    totals: dict[str, list[int]] = dataclasses.field(
        default_factory=lambda: {split: [0, 0, 0] for split in SPLITS}
    )
    smallest: list[list[Any]] = dataclasses.field(default_factory=list)
    pieces: list[tuple[int, int, int, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Finished:
    """What remained.

    Attributes:
        languages: the documents of each language.
        keys: how many fingerprints of each kind there are.
        ledger: the accounts of all shards.
    """

    languages: dict[str, LanguageIndex]
    keys: collections.Counter[str]
    ledger: Ledger


def read_ingested(notes: Iterable[Mapping[str, Any]], job: Job) -> Ingested:
    """Add up what `ingest_shard` noted of each shard."""
    found = Ingested([], [], [], [], empty_ledger(job))
    for accounts in notes:
        found.pages.append(accounts["pages"])
        found.lines.append(accounts["lines"])
        found.text_bytes.append(accounts["text_bytes"])
        found.statuses.append(_status(accounts))
        found.ledger.merge(accounts["ledger"])
    return found


def read_finished(notes: Iterable[Mapping[str, Any]], job: Job, *, pieces: bool) -> Finished:
    """Add up what `finish_group` noted of each group; places of documents if `pieces` is set."""
    languages: dict[str, LanguageIndex] = collections.defaultdict(LanguageIndex)
    keys: collections.Counter[str] = collections.Counter()
    ledger = empty_ledger(job)
    for group, accounts in enumerate(notes):
        for lang, found in accounts["languages"].items():
            index = languages[lang]
            for split, total in index.totals.items():
                total[:] = [a + b for a, b in zip(total, found[split], strict=True)]
            smallest = sorted([*index.smallest, *found["smallest"]])
            index.smallest = smallest[: job.config.min_validation_documents]
            if pieces:
                index.pieces += [(group, *piece) for piece in found["pieces"]]
        keys.update(accounts["keys"])
        ledger.merge(accounts["ledger"])
    return Finished(dict(languages), keys, ledger)


def dropped_records(
    names: Iterable[str], notes: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield what each file's reader dropped: rows of `rejected/records.parquet`."""
    for name, accounts in zip(names, notes, strict=True):
        dropped = accounts["ledger"]["dropped"][READ]
        for reason, places in accounts["places"].items():
            yield {"file": name, "reason": reason, "records": dropped[reason], "offsets": places}


def counters(accounts: Mapping[str, Any]) -> dict[str, int]:
    """Return what people watch while an engine builds, of a note of ingest or finish.

    Pages that were read, damaged files, drops by reason; documents by language, and their bytes.
    """
    ledger = accounts["ledger"]
    found: collections.Counter[str] = collections.Counter(pages_read=ledger["kept"].get(READ, 0))
    for reasons in ledger["dropped"].values():
        found.update({f"dropped_{reason}": count for reason, count in reasons.items()})
    if "places" in accounts:
        found["damaged_files"] = int(_status(accounts)["status"] == "damaged")
    for lang, of_lang in accounts.get("languages", {}).items():
        for split in SPLITS:
            documents, _, size = of_lang[split]
            found.update({f"documents_{lang}": documents, "documents": documents, "bytes": size})
    return dict(found)


def empty_ledger(job: Job) -> Ledger:
    """Return a ledger for all stages of a job."""
    return Ledger(job.config.rejected_per_reason, job.recipe.stages)


def _status(accounts: Mapping[str, Any]) -> dict[str, Any]:
    ledger = accounts["ledger"]
    dropped = ledger["dropped"][READ]
    # A line that is not JSON is what remains of a JSONL file that was cut off.
    damaged = "damaged" in dropped or "bad_json" in dropped
    status = next((name for name in UNREAD.values() if name in dropped), None)
    pages = ledger["kept"].get(READ, 0)
    return {
        "status": status or ("damaged" if damaged else "read"),
        "records": pages + sum(dropped.values()),
        "pages": pages,
        **{name: accounts[name] for name in _NOTED if accounts.get(name)},
    }
