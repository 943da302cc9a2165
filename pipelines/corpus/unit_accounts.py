"""What the units of a build noted of themselves, read once and added up.

A build may have tens of thousands of units: of each only what is needed later is kept in memory.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines import storage
from pipelines.corpus.accounts import STAGES, Ledger
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.profiles import profile_of
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.crawl.pages import UNREAD
from pipelines.records import SPLITS


@dataclasses.dataclass(frozen=True)
class Ingested:
    """What was read.

    Attributes:
        pages: pages of all units that passed ingest.
        lines: their lines, as far as these compete.
        text_bytes: their text, unit by unit.
        statuses: of each unit its `status` (read, damaged, or why nothing was read: `UNREAD`),
            `records`, `pages`, and `undated` pages if it has any, for the manifest.
        ledger: the accounts of all units.
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
        pieces: where they lie: unit, batch, start and stop.
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
        ledger: the accounts of all units.
        contamination: what profile `modern` found of evaluation sets, match by match.
    """

    languages: dict[str, LanguageIndex]
    keys: collections.Counter[str]
    ledger: Ledger
    contamination: list[dict[str, Any]]


def read_ingested(work: WorkDirectory, units: int, config: CorpusConfig) -> Ingested:
    """Add up what `ingest_unit` noted."""
    pages = lines = 0
    text_bytes, statuses, ledger = [], [], _ledger(config)
    for accounts in _accounts(work.ingested, units):
        pages += accounts["pages"]
        lines += accounts["lines"]
        text_bytes.append(accounts["text_bytes"])
        statuses.append(_status(accounts))
        ledger.merge(accounts["ledger"])
    return Ingested(pages, lines, text_bytes, statuses, ledger)


def read_finished(
    work: WorkDirectory, units: int, config: CorpusConfig, *, pieces: bool
) -> Finished:
    """Add up what `finish_unit` noted.

    Args:
        work: where the notes are.
        units: how many.
        config: see `CorpusConfig`.
        pieces: whether the places of all documents are wanted.
    """
    languages: dict[str, LanguageIndex] = collections.defaultdict(LanguageIndex)
    keys: collections.Counter[str] = collections.Counter()
    contamination: list[dict[str, Any]] = []
    ledger = _ledger(config)
    for unit, accounts in enumerate(_accounts(work.finished, units)):
        for lang, found in accounts["languages"].items():
            index = languages[lang]
            for split, total in index.totals.items():
                total[:] = [a + b for a, b in zip(total, found[split], strict=True)]
            smallest = sorted([*index.smallest, *found["smallest"]])
            index.smallest = smallest[: config.min_validation_documents]
            if pieces:
                index.pieces += [(unit, *piece) for piece in found["pieces"]]
        keys.update(accounts["keys"])
        contamination += accounts["contamination"]
        ledger.merge(accounts["ledger"])
    return Finished(dict(languages), keys, ledger, contamination)


def dropped_records(
    work: WorkDirectory, names: Sequence[str]
) -> Iterator[tuple[str, str, int, list[int]]]:
    """Yield what each file's reader dropped: its name, reason, how many records, the first places.

    Args:
        work: where the notes are.
        names: of the files, unit by unit.
    """
    for name, accounts in zip(names, _accounts(work.ingested, len(names)), strict=True):
        dropped = accounts["ledger"]["dropped"][STAGES[0]]
        for reason, places in accounts["places"].items():
            yield name, reason, dropped[reason], places


def _ledger(config: CorpusConfig) -> Ledger:
    return Ledger(config.rejected_per_reason, profile_of(config).stages)


def _accounts(path: Callable[[int], str], units: int) -> Iterator[dict[str, Any]]:
    yield from storage.read_json_files([path(unit) for unit in range(units)])


def _status(accounts: dict[str, Any]) -> dict[str, Any]:
    ledger, undated = accounts["ledger"], accounts["undated"]
    dropped = ledger["dropped"]["read"]
    # A line that is not JSON is what remains of a JSONL file that was cut off.
    damaged = "damaged" in dropped or "bad_json" in dropped
    status = next((name for name in UNREAD.values() if name in dropped), None)
    pages = ledger["kept"].get("read", 0)
    return {
        "status": status or ("damaged" if damaged else "read"),
        "records": pages + sum(dropped.values()),
        "pages": pages,
        **({"undated": undated} if undated else {}),
    }
