"""TFRecord files, each with an index of offsets; seqio reads sequentially, mswitch at random.

A record is framed as length (uint64, little endian), masked CRC32C of those 8 bytes, data, masked
CRC32C of the data. `<file>.index` has the byte offset of every record as raw little-endian uint64,
so that any range of records is one read. `<file>.lengths`, if present, has the number of tokens of
every record's inputs and targets as uint32.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import write_atomically

HEADER_BYTES, FOOTER_BYTES = 12, 4
INDEX_SUFFIX = ".index"
LENGTHS_SUFFIX = ".lengths"
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def compute_masked_crc32c(data: bytes) -> int:
    """Return TFRecord's checksum: CRC32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return the bytes of a record in a file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (
            length,
            _CRC.pack(compute_masked_crc32c(length)),
            data,
            _CRC.pack(compute_masked_crc32c(data)),
        )
    )


def index_path(path: str | Path) -> str:
    """Return the path of a TFRecord file's offset index."""
    return f"{path}{INDEX_SUFFIX}"


def lengths_path(path: str | Path) -> str:
    """Return the path of the lengths of a TFRecord file's examples."""
    return f"{path}{LENGTHS_SUFFIX}"


class Written(NamedTuple):
    """A written TFRecord file: number of records, size, SHA-256."""

    records: int
    size_bytes: int
    sha256: str


def write_tfrecord(path: str | Path, records: Iterable[bytes]) -> Written:
    """Write records and their index; each file appears only when complete."""
    offsets: list[int] = []
    size, sha256 = 0, hashlib.sha256()
    with storage.publish(path, sync=True) as temporary:
        with open(temporary, "wb") as file:
            for record in records:
                offsets.append(size)
                framed = frame(record)
                sha256.update(framed)
                size += file.write(framed)
        write_atomically(index_path(path), np.array(offsets, "<u8").tobytes())
    return Written(len(offsets), size, sha256.hexdigest())


def _damaged(path: str | Path, problem: str) -> UserError:
    return UserError(f"{path} is damaged ({problem}): build the examples again")


@dataclasses.dataclass(frozen=True)
class Records:
    """Adjacent records of a file, in memory.

    Attributes:
        path: the file.
        data: its bytes from the first of the records to the end of the last.
        edges: offset of each record in the file, and the end of the last.
    """

    path: str
    data: bytes
    edges: NDArray[np.uint64]

    def __len__(self) -> int:
        return self.edges.size - 1

    def __getitem__(self, index: int) -> bytes:
        """Return a record after verifying its checksums."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = int(self.edges[index]), int(self.edges[index + 1])
        origin = int(self.edges[0])
        raw = self.data[start - origin : end - origin]
        if len(raw) < end - start:
            raise _damaged(self.path, f"record at byte {start} is cut off")
        length, crc = _HEADER.unpack(raw[:HEADER_BYTES])
        if compute_masked_crc32c(raw[:8]) != crc:
            raise _damaged(self.path, f"checksum of the length at byte {start} is wrong")
        if length != end - start - HEADER_BYTES - FOOTER_BYTES:
            raise _damaged(self.path, f"record at byte {start} has another length in its index")
        data = raw[HEADER_BYTES:-FOOTER_BYTES]
        if compute_masked_crc32c(data) != _CRC.unpack(raw[-FOOTER_BYTES:])[0]:
            raise _damaged(self.path, f"checksum of the record at byte {start} is wrong")
        return data


class TFRecordFile:
    """A TFRecord file, local or in a bucket, for reading ranges of records.

    Attributes:
        path: path or URL of the file.
        size_bytes: its size.
    """

    def __init__(self, path: str | Path, size_bytes: int, index_bytes: int):
        """Check the sizes of the file and its index against each other, without reading either."""
        self.path, self.size_bytes = str(path), size_bytes
        if index_bytes % 8:
            raise _damaged(index_path(path), "its size is not a multiple of 8")
        self._records = index_bytes // 8
        if bool(self._records) != bool(self.size_bytes):
            raise _damaged(path, "its index does not belong to it")

    def __len__(self) -> int:
        return self._records

    def edges(self, first: int = 0, stop: int | None = None) -> NDArray[np.uint64]:
        """Read offsets of records `first` to `stop` from the index, and the last record's end."""
        stop = len(self) if stop is None else stop
        raw = storage.read_range(index_path(self.path), first * 8, min(stop + 1, len(self)) * 8)
        end = np.array([self.size_bytes] if stop == len(self) else [], "<u8")
        edges = np.concatenate([np.frombuffer(raw[: len(raw) // 8 * 8], "<u8"), end])
        if edges.size != stop - first + 1 or (first == 0 and edges[0] != 0):
            raise _damaged(index_path(self.path), "it does not belong to its file")
        sizes = np.diff(edges.astype(np.int64))
        if sizes.size and sizes.min() < HEADER_BYTES + FOOTER_BYTES:
            raise _damaged(self.path, "its index has impossible records")
        return edges

    def read(self, edges: NDArray[np.uint64]) -> Records:
        """Read all records between the offsets `edges` with one read."""
        return Records(
            self.path, storage.read_range(self.path, int(edges[0]), int(edges[-1])), edges
        )

    def __getitem__(self, index: int) -> bytes:
        """Return a single record, with two reads."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.read(self.edges(index, index + 1))[0]
