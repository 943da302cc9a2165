"""What the shards of a build noted of themselves, read once and added up.

A build may have tens of thousands of shards: of each only what is needed later is kept in memory.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.recipe import READ
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.pages import UNREAD
from mswitch.pipelines.records import SPLITS


@dataclasses.dataclass(frozen=True)
class Ingested:
    """What was read.

    Attributes:
        pages: pages of all shards that passed ingest.
        lines: their lines, as far as they have keys.
        text_bytes: their text, shard by shard.
        statuses: of each shard its `status` (read, damaged, or why nothing was read: `UNREAD`),
            `records`, `pages`, and `undated` pages and `corrected_charsets` if it has any, for the
            manifest.
        ledger: the accounts of all shards.
    """

    pages: int
    lines: int
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
        pieces: where they lie: shard, batch, start and stop.
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


def read_ingested(job: Job, shards: int) -> Ingested:
    """Add up what `ingest_shard` noted."""
    pages = lines = 0
    text_bytes, statuses, ledger = [], [], empty_ledger(job)
    for accounts in _accounts(job.work.ingested, shards):
        pages += accounts["pages"]
        lines += accounts["lines"]
        text_bytes.append(accounts["text_bytes"])
        statuses.append(_status(accounts))
        ledger.merge(accounts["ledger"])
    return Ingested(pages, lines, text_bytes, statuses, ledger)


def read_finished(job: Job, shards: int, *, pieces: bool) -> Finished:
    """Add up what `finish_shard` noted.

    Args:
        job: where the notes are, and settings.
        shards: how many there are.
        pieces: whether the places of all documents are wanted.
    """
    languages: dict[str, LanguageIndex] = collections.defaultdict(LanguageIndex)
    keys: collections.Counter[str] = collections.Counter()
    ledger = empty_ledger(job)
    for shard, accounts in enumerate(_accounts(job.work.finished, shards)):
        for lang, found in accounts["languages"].items():
            index = languages[lang]
            for split, total in index.totals.items():
                total[:] = [a + b for a, b in zip(total, found[split], strict=True)]
            smallest = sorted([*index.smallest, *found["smallest"]])
            index.smallest = smallest[: job.config.min_validation_documents]
            if pieces:
                index.pieces += [(shard, *piece) for piece in found["pieces"]]
        keys.update(accounts["keys"])
        ledger.merge(accounts["ledger"])
    return Finished(dict(languages), keys, ledger)


def dropped_records(
    work: WorkDirectory, names: Sequence[str]
) -> Iterator[tuple[str, str, int, list[int]]]:
    """Yield what each file's reader dropped: its name, reason, how many records, the first places.

    Args:
        work: where the notes are.
        names: of the files, shard by shard.
    """
    for name, accounts in zip(names, _accounts(work.ingested, len(names)), strict=True):
        dropped = accounts["ledger"]["dropped"][READ]
        for reason, places in accounts["places"].items():
            yield name, reason, dropped[reason], places


def empty_ledger(job: Job) -> Ledger:
    """Return a ledger for all stages of a job."""
    return Ledger(job.config.rejected_per_reason, job.recipe.stages)


def _accounts(path: Callable[[int], str], shards: int) -> Iterator[dict[str, Any]]:
    yield from storage.read_json_files([path(shard) for shard in range(shards)])


def _status(accounts: dict[str, Any]) -> dict[str, Any]:
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
        **{name: accounts[name] for name in ("undated", "corrected_charsets") if accounts[name]},
    }
