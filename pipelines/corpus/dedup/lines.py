"""Deduplication of lines: each stays on one page only."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from mswitch.pipelines.compiled import compiled, random_seed, table_size
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.dedup.base import Dedup, binary
from mswitch.pipelines.corpus.fingerprints import (
    FINGERPRINT_BYTES,
    line_fingerprints,
    unpack,
    unpack_column,
)
from mswitch.pipelines.crawl.text_lines import keep_lines
from mswitch.pipelines.records import Page

DedupScope = Literal["global", "language", "none"]

#: Spreads what differs in any bits of a hash over the upper ones.
_MIXER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class LineDedup(Dedup):
    """Keeps each line on one page only, that of smallest md5 of its URL (mC4's rule).

    `minimum_per_key.MinimumPerKey.choose` decides which page that is.

    Attributes:
        dedup_scope: within what a line is kept once: `global`, the whole corpus, or `language`.
    """

    name: ClassVar[str] = "line_dedup"
    kind: ClassVar[str] = "lines"
    width: ClassVar[int] = 3
    stored: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("lines", pa.int32(), nullable=False),
        binary("line_hashes"),
    )
    reads: ClassVar[tuple[str, ...]] = ("url_hash", "lines", "line_hashes")
    dedup_scope: Literal["global", "language"] = "global"

    def __post_init__(self):
        check_fields(self)

    @property
    def changes_text(self) -> bool:
        return True

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

    def candidates(self, pages: int, lines: int) -> int:
        return lines

    def candidates_in(
        self, table: pa.Table, come: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the candidates among lines of some pages, the line that each is, and all lines.

        The smallest upper 64 bits of the md5 of the raw URL win. Two pages with a line in common
        hardly ever agree in them; the first would win. Pages without paragraphs have no lines here.
        """
        counts = table["lines"].to_numpy()
        lines = unpack_column(table["line_hashes"])
        page_of_line = np.repeat(np.arange(len(counts)), counts)
        positions = np.flatnonzero(come[page_of_line])
        owners = unpack_column(table["url_hash"])[page_of_line[positions], 0]
        return np.column_stack([lines[positions], owners]), positions, len(lines)


def own_lines(
    utf8: bytes, hashes: np.ndarray, kept: np.ndarray, lines: collections.Counter[str]
) -> bytes:
    """Return the lines of a page that it owns, each once (c4_utils._remove_lines_from_text).

    Args:
        utf8: the page.
        hashes: uint64 [lines, 2], the fingerprints of its lines.
        kept: bool [lines], which ones it owns.
        lines: counts lines that stay (`out`) and that do not, by reason.
    """
    lines["out"] += int(kept.sum())
    if kept.all():
        return utf8
    # Half a fingerprint tells the few lines of one page apart.
    repeats = _count_repeats(np.ascontiguousarray(hashes[:, 0]), kept, random_seed())
    lines["local_duplicate"] += repeats
    lines["global_duplicate"] += int((~kept).sum()) - repeats
    return keep_lines(utf8, kept)


@compiled
def _count_repeats(hashes, kept, seed):
    """Return how many of the others are equal to one that is kept."""
    table = np.zeros(table_size(len(hashes)), np.int64)
    mask = np.uint64(len(table) - 1)
    repeats = 0
    for keep in (True, False):
        for line in range(len(hashes)):
            if kept[line] != keep:
                continue
            mixed = (hashes[line] ^ seed) * _MIXER
            slot = (mixed >> np.uint64(32)) & mask
            while table[slot] and hashes[table[slot] - 1] != hashes[line]:
                slot = (slot + np.uint64(1)) & mask
            if keep:
                table[slot] = line + 1
            elif table[slot]:
                repeats += 1
    return repeats
