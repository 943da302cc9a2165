"""Deduplication as a recipe lists it: of URLs and of lines; near-duplicates are in `near`.

Each step gives pages deduplication keys at ingest. Beam jobs (`pipelines.corpus.pipeline`) group
equal keys of all shards and choose what stays; `reasons` applies what was chosen.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.corpus.dedup.exact import UrlWinner, own_lines
from pipelines.corpus.dedup.fingerprints import (
    FINGERPRINT_BYTES,
    fingerprint,
    line_fingerprints,
    normalize_url,
    unpack,
)
from pipelines.corpus.rules.base import Step
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.records import Page
from pipelines.validation import check_fields

DedupScope = Literal["global", "language", "none"]


def _binary(name: str, size: int = -1) -> pa.Field:
    return pa.field(name, pa.binary(size), nullable=False)


class Dedup(Step):
    """A deduplication in a recipe.

    Attributes:
        shuffle: what its Beam job, its files and `shuffled_bytes` are called.
        kind: what the keys are called that a corpus keeps of it.
        stored: what is stored of each page for it.
        before_edits: whether its keys are those of pages as they were before edits.
    """

    shuffle: ClassVar[str]
    kind: ClassVar[str]
    stored: ClassVar[tuple[pa.Field, ...]]
    before_edits: ClassVar[bool] = False

    @property
    def needs_language(self) -> bool:
        """Whether pages need a language before it."""
        return False

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return the `stored` columns of each page that was not dropped at ingest."""
        raise NotImplementedError

    def chosen(self, work: WorkDirectory, shard: int, lines: np.ndarray) -> Any:
        """Return what was chosen for each page of a shard.

        Args:
            work: where the Beam job has left it.
            shard: number of the shard.
            lines: int64 [pages] how many lines of each page have keys.
        """
        raise NotImplementedError

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        """Apply what was chosen: return why to drop each page, or None.

        Args:
            pages: some pages of a shard.
            chosen: what was chosen for each of them.
            lines: counts lines that stay (`out`) and that do not, by reason.
        """
        raise NotImplementedError

    def detail(self, page: Page) -> str:
        """Return what samples of dropped pages show of one."""
        return page.text

    def kept_keys(self, page: Page) -> np.ndarray:
        """Return the keys of a document that a corpus keeps: uint64 [n, 2]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class UrlDedup(Dedup):
    """Keeps one page of each URL.

    Attributes:
        url_winner: which of the pages of one URL stays: the newest (mC4 3.1.0), or the one whose
            text has the largest md5 (3.0.1).
    """

    name: ClassVar[str] = "url_dedup"
    shuffle: ClassVar[str] = "winners"
    kind: ClassVar[str] = "urls"
    stored: ClassVar[tuple[pa.Field, ...]] = (
        _binary("id", 16),
        _binary("url_hash", 16),
        _binary("text_hash", 16),
    )
    url_winner: UrlWinner = "newest"

    def __post_init__(self):
        check_fields(self)

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return fingerprints of URL and text."""
        return [
            {
                "id": fingerprint(normalize_url(page.url)),
                "url_hash": fingerprint(page.url),
                "text_hash": fingerprint(page.utf8),
            }
            for page in pages
        ]

    def chosen(self, work: WorkDirectory, shard: int, lines: np.ndarray) -> list[bool]:
        return work.selected(self.shuffle, shard, len(lines)).tolist()

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        return [None if stays else "duplicate_url" for stays in chosen]

    def kept_keys(self, page: Page) -> np.ndarray:
        return unpack(page.columns["id"])


@dataclasses.dataclass(frozen=True)
class LineDedup(Dedup):
    """Keeps each line on one page only, that of smallest md5 of its URL (mC4's rule).

    Attributes:
        dedup_scope: within what a line is kept once: `global`, the whole corpus, or `language`.
    """

    name: ClassVar[str] = "line_dedup"
    shuffle: ClassVar[str] = "owners"
    kind: ClassVar[str] = "lines"
    stored: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("lines", pa.int32(), nullable=False),
        _binary("line_hashes"),
    )
    dedup_scope: Literal["global", "language"] = "global"

    def __post_init__(self):
        check_fields(self)

    @property
    def needs_language(self) -> bool:
        """Whether only lines of one language can be equal."""
        return self.dedup_scope == "language"

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return how many lines a page has, and their fingerprints one after the other."""
        rows = []
        for page in pages:
            hashes = line_fingerprints(page.text, page.lang if self.needs_language else "")
            rows.append({"lines": len(hashes) // FINGERPRINT_BYTES, "line_hashes": hashes})
        return rows

    def chosen(self, work: WorkDirectory, shard: int, lines: np.ndarray) -> list[np.ndarray]:
        """Return which of its lines each page keeps: bool [lines]."""
        ends = np.cumsum(lines)
        kept = work.selected(self.shuffle, shard, int(ends[-1]) if len(ends) else 0)
        return np.split(kept, ends[:-1])

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        """Leave each page its own lines; return `no_own_lines` where it has none."""
        reasons: list[str | None] = []
        for page, kept in zip(pages, chosen, strict=True):
            hashes = unpack(page.columns["line_hashes"])
            own = own_lines(page.utf8, hashes, kept, lines)
            reasons.append(None if own else "no_own_lines")
            if own:
                page.utf8 = own
                page.columns["own_line_keys"] = hashes[kept]
        return reasons

    def kept_keys(self, page: Page) -> np.ndarray:
        return page.columns["own_line_keys"]
