"""Files of sorted 128-bit keys for deduplication, within a build and against an existing corpus.

A corpus keeps the keys of all documents, so that later crawls can be added:
`fingerprints/urls-*.keys`, `lines-*.keys` and `bands-*.keys` (of near-duplicates).

A row is a few uint64: a key, its upper half first, then further numbers. A file begins with an
index, so that two requests can read a range of the key space (a bucket), in object stores too. The
index has `bits`, the number of rows before each of 2**bits ranges, and the total. All numbers are
little-endian.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.fingerprints import order_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.outputs import file_sha256

#: The key space, and the index of a key file, have at most 2**12 buckets.
MOST_BITS = 12
_INDEX_BYTES = 8 * (2 + (1 << MOST_BITS))
_ROWS_PER_RANGE = 4096

#: Bytes of memory that sorting takes per row, and maximum bytes for the rows of one sort.
SORTING_BYTES = 100
MOST_SORTING_BYTES = 256 << 20

#: Data of at most `_SHARED_BUCKET_BYTES` bytes is not split for parallel tasks. Data of at least
#: `_SHARED_BUCKETS * _SHARED_BUCKET_BYTES` bytes is split into at least `_SHARED_BUCKETS` buckets.
_SHARED_BUCKET_BYTES = 4 << 20
_SHARED_BUCKETS = 8


def choose_bits(size_bytes: int, bucket_bytes: int) -> int:
    """Return the smallest `bits` (at most `MOST_BITS`) for which 2**bits buckets hold the data."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(size_bytes / bucket_bytes, 1)))))


def choose_shared_bits(size_bytes: int, bucket_bytes: int) -> int:
    """Call `choose_bits`; limit the bucket size, so that several workers can share large data."""
    shared = max(_SHARED_BUCKET_BYTES, size_bytes // _SHARED_BUCKETS)
    return choose_bits(size_bytes, min(bucket_bytes, shared))


def write_keys(path: str, parts: Iterable[np.ndarray], rows: int, bits: int = 0) -> int:
    """Write a file of keys, which appears only when complete; see `save_keys`."""
    with storage.publish(path) as temporary:
        return save_keys(temporary, parts, rows, bits)


def save_keys(path: Path, parts: Iterable[np.ndarray], rows: int, bits: int = 0) -> int:
    """Write keys to a local file; return its number of rows.

    `parts` are uint64 [n, columns], sorted by key over all parts, and have about `rows` rows. The
    index has at least 2**bits ranges.
    """
    bits = max(bits, choose_bits(rows, _ROWS_PER_RANGE))
    # A shift by 64 is undefined, so shift by 63 for a single range, which starts at 0.
    starts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - max(bits, 1))
    before = np.zeros(len(starts) + 1, np.int64)
    with open(path, "wb") as file:
        file.write(bytes(8 + before.nbytes))
        for part in parts:
            before[:-1] += np.searchsorted(part[:, 0], starts)
            before[-1] += len(part)
            file.write(np.ascontiguousarray(part).data)
        file.seek(0)
        file.write(np.array([bits, *before]).data)
    return int(before[-1])


def count_rows_before(path: str, bits: int) -> np.ndarray:
    """Return the number of rows before each of 2**bits buckets, and the total: int64 [n + 1].

    The index must have at least 2**bits ranges.
    """
    index = _index(path)
    return index[:: (len(index) - 1) >> bits]


def read_keys(path: str, columns: int, bits: int = 0, bucket: int = 0) -> np.ndarray:
    """Return the rows in one of a file's 2**bits buckets: uint64 [n, columns]."""
    index = _index(path)
    own = (len(index) - 1).bit_length() - 1
    # A small file has fewer index ranges than buckets, so an index range may contain several
    # buckets.
    within = max(0, bits - own)
    first, last = bucket >> within, (bucket >> within) + 1
    start, stop = index[[first << max(0, own - bits), last << max(0, own - bits)]].tolist()
    row, begin = 8 * columns, 8 * (len(index) + 1)
    data = storage.read_range(path, begin + start * row, begin + stop * row)
    rows = np.frombuffer(data, np.uint64).reshape(-1, columns)
    if within:
        buckets = rows[:, 0] >> np.uint64(64 - bits)
        rows = rows[slice(*np.searchsorted(buckets, np.array([bucket, bucket + 1], np.uint64)))]
    return rows


def _index(path: str) -> np.ndarray:
    numbers = np.frombuffer(storage.read_range(path, 0, _INDEX_BYTES), np.int64)
    return numbers[1 : (1 << int(numbers[0])) + 2]


def choose_best_rows(candidates: np.ndarray) -> np.ndarray:
    """Return the index of the best row for each key, in the order of the keys.

    Args:
        candidates: uint64 [n, 2 + ranks]: a 128-bit key, then ranks; smaller ranks are better. Of
            equal rows, the first wins.
    """
    if not len(candidates):
        return np.zeros(0, np.int64)
    order = np.argsort(candidates[:, 0], kind="stable")
    high = candidates[order, 0]
    same = high[1:] == high[:-1]
    # Most keys occur once. Only repeated keys need the slow sort by all columns.
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
    read: Callable[[], Iterable[np.ndarray]],
    columns: int,
    rows: int,
    order: Callable[[np.ndarray], np.ndarray],
    most_bytes: int = MOST_SORTING_BYTES,
) -> Iterator[np.ndarray]:
    """Sort any number of rows in bounded memory; yield them, a range of keys at a time.

    Args:
        read: yields rows (uint64 [n, columns]), part by part; called once for each range.
        columns: number of columns of a row.
        rows: number of all rows.
        order: returns the indices of the rows to keep, in the order of their keys.
        most_bytes: most memory for rows that are sorted at once.
    """
    bits = choose_bits(rows * SORTING_BYTES, most_bytes)
    for number in range(1 << bits):
        parts = [np.zeros((0, columns), np.uint64)]
        for part in read():
            inside = part
            if bits:
                inside = part[part[:, 0] >> np.uint64(64 - bits) == number]
                # Keep only the best rows of each part, to limit memory: if all input lines are
                # equal, all rows are in one bucket.
                inside = inside[order(inside)]
            parts.append(inside)
        together = np.concatenate(parts)
        yield together[order(together)]


def gather_keys(
    bucket: int,
    *,
    kind: str,
    work: WorkDirectory,
    groups: int,
    directory: str,
    prefix: str,
    bits: int,
) -> dict[str, Any]:
    """Write a file of all documents' keys in one of 2**bits ranges; return its manifest entry.

    The file is below `directory`, and its name begins with `prefix`.
    """
    files = [work.fingerprints(kind, group) for group in range(groups)]
    keys = np.concatenate([read_keys(path, 2, bits, bucket) for path in files])
    path = f"fingerprints/{prefix}{kind}-{bucket:05d}-of-{1 << bits:05d}.keys"
    storage.make_directory(storage.join(directory, "fingerprints"))
    with storage.publish(storage.join(directory, path), sync=True) as temporary:
        save_keys(temporary, [keys[order_keys(keys)]], len(keys))
        return {
            "path": path,
            "kind": kind,
            "keys": len(keys),
            "bytes": temporary.stat().st_size,
            "sha256": file_sha256(temporary),
        }
