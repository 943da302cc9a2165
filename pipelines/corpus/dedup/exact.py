"""Exact deduplication: of all candidates with one deduplication key, the minimum by rank stays.

`winners`: the key is the normalised URL; the newest page stays, or in mC4 3.0.1 the one of largest
md5. `owners`: the key is a line; it stays on the page of smallest md5 of the raw URL (mC4's rule).
Each shard sends one candidate per distinct key, packed in arrays; no text moves, and what comes
back is one bit per candidate. `pipelines.corpus.pipeline` puts the steps into Beam transforms.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.compiled import compiled, random_seed, table_size
from pipelines.corpus.dedup.fingerprints import unpack
from pipelines.corpus.work_directory import (
    WorkDirectory,
    array_writer,
    load_array,
    save_array,
)
from pipelines.crawl.text_lines import keep_lines
from pipelines.faults import fault_point

UrlWinner = Literal["largest_hash", "newest"]

#: Numbers of 8 bytes in a candidate: a 128-bit key, then what to rank by.
WIDTHS = {"winners": 5, "owners": 3}

#: What a candidate takes while a shard's are sorted, and what all that are sorted at once may.
_SORTING_BYTES = 100
MOST_SORTING_BYTES = 256 << 20

#: Buckets smaller than this are not worth a worker's while; larger ones are cut into so many.
_SHARED_BUCKET_BYTES = 4 << 20
_SHARED_BUCKETS = 8

#: Spreads what differs in any bits of a hash over the upper ones.
_MIXER = np.uint64(0x9E3779B97F4A7C15)

#: What comes back for a slice: its shard, then its start and length, and a bit per candidate.
Chosen = tuple[int, tuple[int, int, bytes]]


def bits_for(size_bytes: int, bucket_bytes: int) -> int:
    """Return into how many buckets, as a power of two, something of this size is cut."""
    return min(16, max(0, math.ceil(math.log2(max(size_bytes / bucket_bytes, 1)))))


def shared_bits(size_bytes: int, bucket_bytes: int) -> int:
    """Return `bits_for`, where something large is cut into several, for workers to share."""
    shared = max(_SHARED_BUCKET_BYTES, size_bytes // _SHARED_BUCKETS)
    return bits_for(size_bytes, min(bucket_bytes, shared))


def best_of_each(candidates: np.ndarray) -> np.ndarray:
    """Return the index of the best row for each key, in the order of the keys.

    Args:
        candidates: uint64 [n, 2 + ranks]: a 128-bit key, then what to rank by, smaller first.
            Equal rows are settled by their order.
    """
    if not len(candidates):
        return np.zeros(0, np.int64)
    order = np.argsort(candidates[:, 0], kind="stable")
    high = candidates[order, 0]
    same = high[1:] == high[:-1]
    # Most keys occur once. Only the others need the slow sort by all columns.
    shared = np.zeros(len(order), bool)
    shared[1:] |= same
    shared[:-1] |= same
    places = np.flatnonzero(shared)
    rows = candidates[order[places]]
    order[places] = order[places][np.lexsort(rows.T[::-1])]
    keys = candidates[order[places], :2]
    first = np.ones(len(order), bool)
    again = np.zeros(len(places), bool)
    again[1:] = (keys[1:] == keys[:-1]).all(axis=1)
    first[places[again]] = False
    return order[first]


def in_key_order(
    read: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    rows: int,
    width: int,
    order: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sort candidates of any number in bounded memory: yield them a range of keys at a time.

    Args:
        read: yields candidates (uint64 [n, width], the upper half of the key first) and what each
            stands for (int64 [n]), part by part; called once for each range.
        rows: how many candidates there are in all.
        width: columns of a candidate.
        order: returns the indices of those that stay, in the order of their keys.
    """
    bits = bits_for(rows * _SORTING_BYTES, MOST_SORTING_BYTES)
    for number in range(1 << bits):
        parts = [(np.zeros((0, width), np.uint64), np.zeros(0, np.int64))]
        for part, places in read():
            inside = slice(None)
            if bits:
                inside = np.flatnonzero(part[:, 0] >> np.uint64(64 - bits) == number)
                # A single line, repeated, may be all there is.
                inside = inside[order(part[inside])]
            parts.append((part[inside], places[inside]))
        candidates, positions = map(np.concatenate, zip(*parts, strict=True))
        chosen = order(candidates)
        yield candidates[chosen], positions[chosen]


def page_candidates(table: pa.Table, url_winner: UrlWinner = "newest") -> np.ndarray:
    """Return the candidate that each page is for its URL.

    Ranked by: newest timestamp and largest md5 of the text (`url_winner` names the first), then
    smallest md5 of the raw URL; of the hashes, the upper 64 bits. What is left, pages equal in all
    of these, shard and position settle: either choice gives the same document.
    """
    ids, texts = _halves(table, "id"), _halves(table, "text_hash")[:, 0]
    urls = _halves(table, "url_hash")[:, 0]
    timestamps = table["timestamp_micros"].to_numpy()
    # ~x reverses the order of signed numbers; flipping the sign bit makes it that of unsigned.
    newest_first = (~timestamps).view(np.uint64) ^ np.uint64(1 << 63)
    ranks = [newest_first, ~texts] if url_winner == "newest" else [~texts, newest_first]
    return np.column_stack([ids, *ranks, urls])


def line_candidates(table: pa.Table, competes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates for lines of some pages, and the line of these that each is.

    Ranked by the upper 64 bits of the md5 of the raw URL. (That two pages with one line in common
    agree in them is as good as impossible; their order would then settle it.)

    Args:
        table: columns url_hash, lines, line_hashes.
        competes: bool [pages]: pages that stay for their URL and represent their near-duplicates.
    """
    counts = table["lines"].to_numpy()
    lines = unpack(b"".join(table["line_hashes"].to_pylist()))
    page_of_line = np.repeat(np.arange(len(counts)), counts)
    positions = np.flatnonzero(competes[page_of_line])
    owners = _halves(table, "url_hash")[page_of_line[positions], 0]
    return np.column_stack([lines[positions], owners]), positions


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


def _halves(table: pa.Table, column: str) -> np.ndarray:
    return unpack(b"".join(table[column].to_pylist()))


def _row_groups(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=columns)


def _read_lines(
    file: pq.ParquetFile, competes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    page = line = 0
    for table in _row_groups(file, ["url_hash", "lines", "line_hashes"]):
        candidates, positions = line_candidates(table, competes[page : page + len(table)])
        yield candidates, positions + line
        page += len(table)
        line += int(table["lines"].to_numpy().sum(dtype=np.int64))


def bucket_starts(bits: int) -> np.ndarray:
    """Return the smallest upper key half of each of 2**bits buckets."""
    # A shift by 64 is undefined; one bucket starts at 0 whatever the shift.
    return np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - max(bits, 1))


@dataclasses.dataclass(frozen=True)
class Slice:
    """The candidates of one shard in one bucket of the key space.

    `payload` holds the rows themselves; None refers to the shard's candidates file instead, which
    keeps them out of the shuffle (FnApiRunner shuffles in memory).
    """

    shard: int
    start: int
    stop: int
    payload: bytes | None


@dataclasses.dataclass(frozen=True)
class SmallestPerKey:
    """One of the two deduplications over the shards of a work directory.

    Attributes:
        name: "winners" or "owners".
        work: where the shards are.
        bucket_bits: the key space is cut into 2**bucket_bits buckets.
        by_reference: shuffle references to candidates, not candidates.
        shards: how many shards there are.
        known: files of sorted keys [n, 2] that come before every candidate: those of the corpus
            that is added to. They count as shards from `shards` on.
        url_winner: which page of a URL stays; see `UrlDedup`.
    """

    name: str
    work: WorkDirectory
    bucket_bits: int
    by_reference: bool
    shards: int
    known: tuple[str, ...] = ()
    url_winner: UrlWinner = "newest"

    def prepare(self, shard: int) -> None:
        """Write a shard's candidates, one for each key, unless an earlier run has."""
        if shard >= self.shards or storage.exists(self.work.positions(self.name, shard)):
            return
        width = WIDTHS[self.name]
        with (
            storage.fetch(self.work.pages(shard)) as path,
            pq.ParquetFile(path) as file,
            # Positions, which complete a shard, are closed last.
            array_writer(self.work.positions(self.name, shard), np.int64) as write_positions,
            array_writer(self.work.candidates(self.name, shard), np.uint64, (width,)) as write,
        ):
            if self.name == "winners":
                rows, read = file.metadata.num_rows, partial(self._read_pages, file)
            else:
                # (Pages without paragraphs have no lines here.)
                counts = file.read(columns=["lines"])["lines"].to_numpy()
                rows = int(counts.sum(dtype=np.int64))
                competes = self.work.selected("winners", shard, file.metadata.num_rows)
                competes &= self.work.cluster_sizes(shard, len(competes)) > 0
                read = partial(_read_lines, file, competes)
            for candidates, positions in in_key_order(read, rows, width, best_of_each):
                write(candidates)
                write_positions(positions)

    def _read_pages(self, file: pq.ParquetFile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        page = 0
        for table in _row_groups(file, ["id", "text_hash", "timestamp_micros", "url_hash"]):
            yield page_candidates(table, self.url_winner), np.arange(page, page + len(table))
            page += len(table)

    def slices(self, shard: int) -> Iterator[tuple[int, Slice]]:
        """Yield a shard's candidates by bucket; bucket 0 always, so that no shard goes missing."""
        candidates = self._candidates(shard)
        edges = np.searchsorted(candidates[:, 0], bucket_starts(self.bucket_bits)).tolist()
        for bucket, (start, stop) in enumerate(itertools.pairwise([*edges, len(candidates)])):
            if start < stop or bucket == 0:
                rows = candidates[start:stop]
                payload = None if self.by_reference else rows.tobytes()
                yield bucket, Slice(shard, start, stop, payload)

    def _candidates(self, shard: int) -> np.ndarray:
        """Return a shard's candidates, of a corpus that is added to the keys alone."""
        if shard >= self.shards:
            return load_array(self.known[shard - self.shards])
        return load_array(self.work.candidates(self.name, shard))

    def choose(self, slices: Iterable[Slice]) -> list[Chosen]:
        """Tell for each slice of a bucket which of its candidates are the minimum of their key."""
        ordered = sorted(slices, key=lambda piece: piece.shard)
        candidates = np.concatenate([self._rows(piece) for piece in ordered])
        smallest = np.zeros(len(candidates), bool)
        smallest[best_of_each(candidates)] = True
        chosen = []
        done = 0
        for piece in ordered:
            size = piece.stop - piece.start
            bits = np.packbits(smallest[done : done + size]).tobytes()
            if piece.shard < self.shards:
                chosen.append((piece.shard, (piece.start, size, bits)))
            done += size
        return chosen

    def _rows(self, piece: Slice) -> np.ndarray:
        width = WIDTHS[self.name] if piece.shard < self.shards else 2
        if piece.payload is not None:
            rows = np.frombuffer(piece.payload, np.uint64).reshape(-1, width)
        else:
            rows = self._candidates(piece.shard)[piece.start : piece.stop]
        # A rank of zeros is the smallest there can be.
        return np.pad(rows, ((0, 0), (0, WIDTHS[self.name] - width)))

    def record(self, shard: int, chosen: Iterable[tuple[int, int, bytes]]) -> None:
        """Write what came back for a shard as one array over its candidates."""
        parts = [
            np.unpackbits(np.frombuffer(bits, np.uint8), count=size).astype(bool)
            for _, size, bits in sorted(chosen)
        ]
        save_array(self.work.chosen(self.name, shard), np.concatenate(parts))
        fault_point("corpus.after_choosing")
