"""Deduplication of lines."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from mswitch.pipelines.compiled import choose_table_size, compiled, get_random_seed
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.dedup.base import Dedup, make_binary_field
from mswitch.pipelines.corpus.fingerprints import (
    FINGERPRINT_BYTES,
    fingerprint_lines,
    unpack,
    unpack_column,
)
from mswitch.pipelines.crawl.text_lines import keep_lines
from mswitch.pipelines.records import Page

DedupScope = Literal["global", "language", "none"]

#: Multiplier that spreads differences in any bits of a hash over its upper bits.
_MIXER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class LineDedup(Dedup):
    """Keeps each line only on the page whose URL has the smallest md5 (mC4's rule).

    `minimum_per_key.MinimumPerKey.choose` chooses the page.

    Attributes:
        dedup_scope: where each line is kept once: `global`, the whole corpus, or `language`.
    """

    name: ClassVar[str] = "line_dedup"
    kind: ClassVar[str] = "lines"
    width: ClassVar[int] = 3
    stored: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("lines", pa.int32(), nullable=False),
        make_binary_field("line_hashes"),
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
        """Whether lines are compared only within a language."""
        return self.dedup_scope == "language"

    def keys(self, pages: Sequence[Page]) -> list[dict[str, Any]]:
        """Return each page's number of lines, and the packed fingerprints of the lines."""
        rows = []
        for page in pages:
            hashes = fingerprint_lines(page.text, page.lang if self.needs_language else "")
            rows.append({"lines": len(hashes) // FINGERPRINT_BYTES, "line_hashes": hashes})
        return rows

    def reasons(
        self, pages: Sequence[Page], chosen: Sequence[Any], lines: collections.Counter[str]
    ) -> list[str | None]:
        """Remove duplicate lines; return `no_own_lines` for pages that become empty, else None."""
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
        """Return keys and ranking values of lines, their positions, and the table's line count.

        The smallest upper 64 bits of the md5 of the raw URL win. Two pages with a common line
        almost never agree in these bits; if they do, the first wins. Pages without paragraphs have
        no lines here.
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
    """Remove duplicate lines from a page's text (c4_utils._remove_lines_from_text).

    Args:
        utf8: text of the page.
        hashes: uint64 [lines, 2], fingerprints of its lines.
        kept: bool [lines], whether the line stays.
        lines: as for `Dedup.reasons`.
    """
    lines["out"] += int(kept.sum())
    if kept.all():
        return utf8
    # Half a fingerprint is enough to distinguish the few lines of a page.
    repeats = _count_repeats(np.ascontiguousarray(hashes[:, 0]), kept, get_random_seed())
    lines["local_duplicate"] += repeats
    lines["global_duplicate"] += int((~kept).sum()) - repeats
    return keep_lines(utf8, kept)


@compiled
def _count_repeats(hashes, kept, seed):
    """Return the number of lines that are not kept but equal a kept line."""
    table = np.zeros(choose_table_size(len(hashes)), np.int64)
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
