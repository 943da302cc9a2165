"""Deduplication of URLs: of the pages of one normalised URL, one stays."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.corpus.dedup.base import Dedup, binary, newest_first, row_groups
from mswitch.pipelines.corpus.fingerprints import fingerprint, normalize_url, unpack, unpack_column
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.records import Page
from mswitch.pipelines.validation import check_fields

UrlWinner = Literal["largest_hash", "newest"]


@dataclasses.dataclass(frozen=True)
class UrlDedup(Dedup):
    """Keeps one page of each URL.

    Attributes:
        url_winner: which of the pages of one URL stays: the newest (mC4 3.1.0), or the one whose
            text has the largest md5 (3.0.1).
    """

    name: ClassVar[str] = "url_dedup"
    kind: ClassVar[str] = "urls"
    width: ClassVar[int] = 5
    stored: ClassVar[tuple[pa.Field, ...]] = (
        binary("id", 16),
        binary("url_hash", 16),
        binary("text_hash", 16),
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
        return work.selected(self.name, shard, len(lines)).tolist()

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        return [None if stays else "duplicate_url" for stays in chosen]

    def kept_keys(self, page: Page) -> np.ndarray:
        return unpack(page.columns["id"])

    def candidates(self, pages: int, lines: int) -> int:
        return pages

    def candidates_of(
        self, file: pq.ParquetFile, shard: int, work: WorkDirectory
    ) -> tuple[int, Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]]:
        """Return how many candidates a shard has, and what yields them with their pages."""

        def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            page = 0
            for table in row_groups(file, ["id", "text_hash", "timestamp_micros", "url_hash"]):
                yield page_candidates(table, self.url_winner), np.arange(page, page + len(table))
                page += len(table)

        return file.metadata.num_rows, read


def page_candidates(table: pa.Table, url_winner: UrlWinner = "newest") -> np.ndarray:
    """Return the candidate that each page is for its URL.

    Ranked by: newest timestamp and largest md5 of the text (`url_winner` names the first), then
    smallest md5 of the raw URL; of the hashes, the upper 64 bits. What is left, pages equal in all
    of these, shard and position settle: either choice gives the same document.
    """
    ids, texts = unpack_column(table["id"]), unpack_column(table["text_hash"])[:, 0]
    urls = unpack_column(table["url_hash"])[:, 0]
    ranks = [newest_first(table["timestamp_micros"].to_numpy()), ~texts]
    return np.column_stack([ids, *(ranks if url_winner == "newest" else ranks[::-1]), urls])
