"""TFRecord files with an offset index beside them: sequential for seqio, random access for us.

Framing of a record: length (uint64, little endian), masked CRC32C of those 8 bytes, data, masked
CRC32C of the data. `<file>.index` holds the byte offset of every record as raw little-endian
uint64, so that record i is one `pread`.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipelines import storage
from pipelines.errors import UserError
from pipelines.outputs import write_atomically

HEADER_BYTES, FOOTER_BYTES = 12, 4
INDEX_SUFFIX = ".index"
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, _CRC.pack(masked_crc32c(length)), data, _CRC.pack(masked_crc32c(data)))
    )


def index_path(path: str | Path) -> Path:
    """The offset index that belongs to a TFRecord file."""
    return Path(f"{path}{INDEX_SUFFIX}")


def write_tfrecord(path: str | Path, records: Iterable[bytes]) -> tuple[int, int]:
    """Write records and their index, each under a temporary name first.

    Returns:
        (number of records, bytes of the TFRecord file).
    """
    offsets: list[int] = []
    size = 0
    with storage.publish(path, sync=True) as temporary:
        with open(temporary, "wb") as file:
            for record in records:
                offsets.append(size)
                size += file.write(frame(record))
        write_atomically(index_path(path), np.array(offsets, "<u8").tobytes())
    return len(offsets), size


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged ({what}): build the examples again")


def read_sequentially(path: str | Path) -> Iterator[bytes]:
    """All records of a file in order, without an index.

    Raises:
        UserError: a record is cut off or its checksum is wrong.
    """
    path = Path(path)
    with open(path, "rb") as file:
        offset = 0
        while header := file.read(HEADER_BYTES):
            length = _checked_length(path, header, offset)
            body = file.read(length + FOOTER_BYTES)
            yield _checked_data(path, body, length, offset)
            offset += HEADER_BYTES + length + FOOTER_BYTES


def _checked_length(path: Path, header: bytes, offset: int) -> int:
    if len(header) < HEADER_BYTES:
        raise _damaged(path, f"record at byte {offset} is cut off")
    length, crc = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise _damaged(path, f"checksum of the length at byte {offset} is wrong")
    return length


def _checked_data(path: Path, body: bytes, length: int, offset: int) -> bytes:
    if len(body) < length + FOOTER_BYTES:
        raise _damaged(path, f"record at byte {offset} is cut off")
    data = body[:length]
    if masked_crc32c(data) != _CRC.unpack(body[length:])[0]:
        raise _damaged(path, f"checksum of the record at byte {offset} is wrong")
    return data


class TFRecordFile:
    """One TFRecord file read by record number; opened when first read, in each process anew."""

    def __init__(self, path: str | Path):
        """Load the index and check it against the file's size.

        Raises:
            UserError: file or index is missing, or they do not belong together.
        """
        self.path = Path(path)
        try:
            self.size_bytes = self.path.stat().st_size
            raw = index_path(self.path).read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename}: {error.strerror}; build the examples again"
            ) from error
        if len(raw) % 8:
            raise _damaged(index_path(self.path), "its size is not a multiple of 8")
        self.offsets: NDArray[np.uint64] = np.frombuffer(raw, "<u8")
        self._descriptor: int | None = None
        self._process = 0
        last = int(self.offsets[-1]) if self.offsets.size else 0
        if self.offsets.size and last + HEADER_BYTES + FOOTER_BYTES > self.size_bytes:
            raise _damaged(self.path, f"it ends at byte {self.size_bytes}, before its last record")
        if bool(self.offsets.size) != bool(self.size_bytes):
            raise _damaged(self.path, "its index does not belong to it")

    def __len__(self) -> int:
        return self.offsets.size

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __getitem__(self, index: int) -> bytes:
        """Record number `index`, checksum verified.

        Raises:
            IndexError: there is no such record.
            UserError: the record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.offsets[index])
        end = int(self.offsets[index + 1]) if index + 1 < len(self) else self.size_bytes
        raw = os.pread(self._open(), end - start, start)
        length = _checked_length(self.path, raw[:HEADER_BYTES], start)
        if length != end - start - HEADER_BYTES - FOOTER_BYTES:
            raise _damaged(self.path, f"record at byte {start} has not the length of its index")
        return _checked_data(self.path, raw[HEADER_BYTES:], length, start)

    def _open(self) -> int:
        if self._descriptor is None or self._process != os.getpid():
            self._descriptor = os.open(self.path, os.O_RDONLY)
            self._process = os.getpid()
        return self._descriptor

    def close(self) -> None:
        """Give the file descriptor back; the next read opens the file again."""
        if self._descriptor is not None and self._process == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()
