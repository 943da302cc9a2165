"""Base of a recipe's deduplications: `urls`, `lines` and `near`.

Each step computes deduplication keys of pages at ingest. An `Exchange` compares the keys of all
shards and chooses the pages or lines that stay; `reasons` applies these choices.
"""

import collections
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mswitch.pipelines.corpus.rules.base import Step
from mswitch.pipelines.records import Page


class Dedup(Step):
    """A deduplication in a recipe.

    Attributes:
        width: number of 64-bit numbers in a candidate: a 128-bit key, then its ranks.
        kind: name of the keys that a corpus keeps.
        stored: columns that it stores of each page.
        before_edits: whether keys are computed before edits.
    """

    width: ClassVar[int]
    kind: ClassVar[str]
    stored: ClassVar[tuple[pa.Field, ...]]
    before_edits: ClassVar[bool] = False

    @property
    def needs_language(self) -> bool:
        """Whether the language of pages must be known first."""
        return False

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return the `stored` columns of each page, in the order of the pages."""
        raise NotImplementedError

    def candidates(self, pages: int, lines: int) -> int:
        """Return the maximum number of deduplication keys in `pages` pages with `lines` lines."""
        raise NotImplementedError

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        """Return the reason to drop each page as a duplicate, or None to keep the page.

        Args:
            pages: pages of a shard.
            chosen: choice for each page, from `Exchange.read_choices`.
            lines: counts lines that stay (`out`), and dropped lines by reason.
        """
        raise NotImplementedError

    def kept_keys(self, page: Page) -> np.ndarray:
        """Return the keys that a corpus keeps for a document: uint64 [n, 2]."""
        raise NotImplementedError


def make_binary_field(name: str, size: int = -1) -> pa.Field:
    """Return the schema's field for a column of bytes."""
    return pa.field(name, pa.binary(size), nullable=False)


def rank_newest_first(timestamps_micros: np.ndarray) -> np.ndarray:
    """Return uint64 ranks of signed times; newer times have smaller ranks."""
    # `~` reverses the order of signed numbers. The XOR flips the sign bit, which turns signed order
    # into unsigned order.
    return (~timestamps_micros).view(np.uint64) ^ np.uint64(1 << 63)
