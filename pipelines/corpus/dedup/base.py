"""What deduplications of a recipe have in common: `urls`, `lines` and `near`.

Each step gives pages deduplication keys at ingest. An `Exchange` brings equal keys of all shards
together and chooses what stays; `reasons` applies what was chosen.
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
        width: 64-bit numbers in a candidate: a 128-bit key, then what to rank by.
        kind: what the keys are called that a corpus keeps of it.
        stored: what is stored of each page for it.
        before_edits: whether its keys are those of pages as they were before edits.
    """

    width: ClassVar[int]
    kind: ClassVar[str]
    stored: ClassVar[tuple[pa.Field, ...]]
    before_edits: ClassVar[bool] = False

    @property
    def needs_language(self) -> bool:
        """Whether pages need a language before it."""
        return False

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return the `stored` columns of each page that comes to this step."""
        raise NotImplementedError

    def candidates(self, pages: int, lines: int) -> int:
        """Return how many candidates so many pages and lines have at most."""
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

    def kept_keys(self, page: Page) -> np.ndarray:
        """Return the keys of a document that a corpus keeps: uint64 [n, 2]."""
        raise NotImplementedError


def binary(name: str, size: int = -1) -> pa.Field:
    """Return a column of bytes."""
    return pa.field(name, pa.binary(size), nullable=False)


def newest_first(timestamps_micros: np.ndarray) -> np.ndarray:
    """Return uint64 ranks of signed times, smaller for what is newer."""
    # ~x reverses the order of signed numbers; flipping the sign bit makes it that of unsigned.
    return (~timestamps_micros).view(np.uint64) ^ np.uint64(1 << 63)
