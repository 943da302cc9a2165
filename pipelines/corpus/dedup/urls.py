"""Deduplication of URLs: one page of each normalised URL stays."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.dedup.base import Dedup, make_binary_field, rank_newest_first
from mswitch.pipelines.corpus.fingerprints import fingerprint, unpack, unpack_column
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.records import Page

UrlWinner = Literal["largest_hash", "newest"]


@dataclasses.dataclass(frozen=True)
class UrlDedup(Dedup):
    """Keeps one page of each URL.

    Attributes:
        url_winner: which page of a URL to keep: the newest (mC4 3.1.0), or the one whose text has
            the largest md5 (3.0.1).
    """

    name: ClassVar[str] = "url_dedup"
    kind: ClassVar[str] = "urls"
    width: ClassVar[int] = 5
    stored: ClassVar[tuple[pa.Field, ...]] = (
        make_binary_field("id", 16),
        make_binary_field("url_hash", 16),
        make_binary_field("text_hash", 16),
    )
    reads: ClassVar[tuple[str, ...]] = ("id", "text_hash", "timestamp_micros", "url_hash")
    url_winner: UrlWinner = "newest"

    def __post_init__(self):
        check_fields(self)

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return fingerprints of URL and text of each page."""
        return [
            {
                "id": make_document_id(page.url),
                "url_hash": fingerprint(page.url),
                "text_hash": fingerprint(page.utf8),
            }
            for page in pages
        ]

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        return [None if stays else "duplicate_url" for stays in chosen]

    def kept_keys(self, page: Page) -> np.ndarray:
        return unpack(page.columns["id"])

    def candidates(self, pages: int, lines: int) -> int:
        return pages

    def candidates_in(
        self, table: pa.Table, come: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return keys and ranking values of pages, the pages' positions, and the table's row count.

        Ranks are the newest timestamp and the largest md5 of the text, `url_winner` first, then the
        smallest md5 of the raw URL. Only the upper 64 bits of each hash are compared. Pages with
        equal ranks are the same document, and the first wins.
        """
        ids, texts = unpack_column(table["id"]), unpack_column(table["text_hash"])[:, 0]
        urls = unpack_column(table["url_hash"])[:, 0]
        ranks = [rank_newest_first(table["timestamp_micros"].to_numpy()), ~texts]
        ranks = ranks if self.url_winner == "newest" else ranks[::-1]
        pages = np.flatnonzero(come)
        return np.column_stack([ids, *ranks, urls])[pages], pages, len(table)
