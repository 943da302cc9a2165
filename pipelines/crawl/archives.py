"""Reads WARC and WET archives (gzip, zstd or plain), whatever state they are in."""

import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipelines.crawl.streams import (
    GZIP_MAGIC,
    ZSTD_MAGIC,
    Compression,
    DamagedStreamError,
    DecompressedStream,
    compression_of,
    open_input,
    zstd_dictionary,
)

RECORD_START = b"WARC/"
_STARTS = {
    "gzip": re.compile(b"(" + re.escape(GZIP_MAGIC) + b")"),
    "zstd": re.compile(b"(" + re.escape(ZSTD_MAGIC) + b")"),
    "none": re.compile(rb"\n(WARC/\d\.\d\r?\n)"),
}
_VERSION_LINE = re.compile(rb"[\r\n]*WARC/\d+\.\d+[ \t]*\r?\n")
_SCAN_BYTES = 1 << 20
_OVERLAP_BYTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record that may hold a page.

    Attributes:
        offset: byte offset in the file; where a gzip member or zstd frame holds several records,
            of that.
        kind: "text" (conversion record, as in WET), "http" (response record) or "other".
        url: WARC-Target-URI, b"" if absent.
        timestamp: WARC-Date, b"" if absent.
        record_id: WARC-Record-ID, b"" if absent.
        payload: the record's block; None where it is larger than allowed or of another kind.
    """

    offset: int
    kind: Literal["text", "http", "other"]
    url: bytes
    timestamp: bytes
    record_id: bytes
    payload: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """A place in a file where a record should be and cannot be read."""

    offset: int
    error: str


class _Archive:
    """An open archive: its compression, and where in it records may start."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.compression: Compression = "none"
        self.dictionary: zstandard.ZstdCompressionDict | None = None
        file.seek(0)
        head = file.read(64)
        looks_like = self.compression = compression_of(head)
        if looks_like == "zstd":
            try:
                self.dictionary = zstd_dictionary(file)
            except DamagedStreamError:
                if self.next_record(0) is None:
                    raise
        if _VERSION_LINE.match(head) if looks_like == "none" else self._is_record(0):
            return
        # The very first bytes are damaged, whatever they look like: what comes later tells.
        for self.compression in sorted(("gzip", "zstd"), key=lambda kind: kind != looks_like):
            if self.next_record(0) is not None:
                return
        self.compression = looks_like

    def records(self, start: int, max_bytes: int) -> Iterator[Record]:
        """Read on from an offset; an exception where that is not possible."""
        if self.compression == "zstd":
            # fastwarc reads zstd too, but gives a dictionary all the memory that it asks for.
            stream = DecompressedStream(self.file, "zstd", start, self.dictionary)
            archive = ArchiveIterator(stream, parse_http=False, stream_detect=False)
            yield from _records(archive, max_bytes, stream.member_start)
        else:
            self.file.seek(start)
            yield from _records(ArchiveIterator(self.file, parse_http=False), max_bytes)

    def next_record(self, start: int) -> int | None:
        """Find the first offset from `start` on at which a record seems to start."""
        while True:
            self.file.seek(start)
            block = self.file.read(_SCAN_BYTES)
            for match in _STARTS[self.compression].finditer(block):
                found = start + match.start(1)
                if self.compression == "none" or self._is_record(found):
                    return found
            if len(block) < _SCAN_BYTES:
                return None
            start += _SCAN_BYTES - _OVERLAP_BYTES

    def _is_record(self, member: int) -> bool:
        stream = DecompressedStream(
            self.file, self.compression, member, self.dictionary, salvage=True
        )
        try:
            return stream.read(64).lstrip(b"\r\n").startswith(RECORD_START)
        except DamagedStreamError:
            return False


def begins_damaged(head: bytes) -> bool:
    """Tell of a file that looks like no archive whether a compressed record is in its first bytes.

    Where the first bytes of an archive are damaged, they look like anything.
    """
    return _Archive(io.BytesIO(head)).compression != "none"


def read_archive(path: str | Path, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Yield every record of an archive, and a `Damage` for each place that cannot be read.

    After damage reading goes on at the next gzip member or zstd frame that begins a record (or
    the next line `WARC/1.x` of a plain file). No record is read into memory that is larger than
    `max_record_bytes`.

    Raises:
        OSError: the file cannot be opened, or the disk cannot be read.
    """
    with open_input(str(path)) as file:
        try:
            archive = _Archive(file)
        except DamagedStreamError as damaged:
            # Without its dictionary nothing of a file can be read.
            yield Damage(damaged.offset, str(damaged))
            return
        yield from _read(archive, max_record_bytes)


def _read(archive: _Archive, max_bytes: int) -> Iterator[Record | Damage]:
    compressed = archive.compression != "none"
    start: int | None = 0
    nothing_found = True
    unreported: Damage | None = None
    while start is not None:
        offset, error = start, None
        came_far = False
        try:
            for record in archive.records(start, max_bytes):
                if unreported:
                    yield unreported
                    unreported = None
                offset, came_far = record.offset, True
                yield record
        except (OSError, EOFError, DamagedStreamError) as caught:
            if isinstance(caught, OSError) and caught.errno is not None:
                raise
            error = str(caught)
        nothing_found &= not came_far
        if error is None and compressed and archive.next_record(offset + 1):
            # A damaged gzip header can make a member swallow the ones after it.
            error = "the reader passed over further members"
        if error is None:
            is_gzip = archive.compression == "gzip"
            if tail := _unread_tail(archive.file, offset) if is_gzip else None:
                yield tail
            elif nothing_found and not unreported:
                yield Damage(start, "there is no record")
            break
        nothing_found = False
        if came_far:
            # The damage lies after `offset`; if a member starts there, it is reported as that.
            unreported = Damage(offset, f"after the record at {offset}: {error}")
        else:
            unreported = None
            yield Damage(start, error)
        start = archive.next_record(offset + 1)
    if unreported:
        yield unreported


def _records(
    archive: ArchiveIterator, max_bytes: int, offset_of: Callable[[int], int] | None = None
) -> Iterator[Record]:
    """Turn fastwarc's records into ours; EOFError where a record ends too early.

    Args:
        archive: where they come from.
        max_bytes: larger records are passed over.
        offset_of: turns fastwarc's position of a record into an offset in the file.
    """
    for record in archive:
        kind = _kind(record.record_type)
        header = record.headers.get_bytes
        stated = (header(b"Content-Length") or b"").strip()
        size, payload = record.content_length, None
        offset = offset_of(record.stream_pos) if offset_of else record.stream_pos
        if not stated.isdigit() or len(stated) > 20 or int(stated) != size:
            raise EOFError(f"the record states its length as {stated[:40]!r}")
        if kind == "other" or size > max_bytes:
            got = record.reader.consume(size)
        else:
            payload = record.reader.read(size)
            got = len(payload)
        if got < size:
            raise EOFError(f"the record ends after {got} of {size} bytes")
        yield Record(
            offset=offset,
            kind=kind,
            url=header(b"WARC-Target-URI") or b"",
            timestamp=header(b"WARC-Date") or b"",
            record_id=header(b"WARC-Record-ID") or b"",
            payload=payload,
        )


def _unread_tail(file: BinaryIO, offset: int) -> Damage | None:
    """Find what follows the last member though it is no member: fastwarc ends silently there.

    Args:
        file: a gzip file.
        offset: where its last readable member begins.
    """
    stream = DecompressedStream(file, "gzip", offset)
    try:
        while stream.read():
            pass
    except DamagedStreamError as damaged:
        return Damage(offset, f"after the record at {offset}: {damaged}")
    return None


def _kind(record_type: WarcRecordType) -> Literal["text", "http", "other"]:
    if record_type == WarcRecordType.conversion:
        return "text"
    return "http" if record_type == WarcRecordType.response else "other"
