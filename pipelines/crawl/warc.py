"""Reads WARC and WET archives (gzip, zstd or plain), even if damaged."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from fastwarc.warc import ArchiveIterator

from mswitch.pipelines.crawl.decompression import (
    GZIP_MAGIC,
    RECORD_START,
    DamagedStreamError,
    DecompressedStream,
    Members,
    describe_damage,
    find_members,
    open_input,
)

_RECORD_LINE = re.compile(rb"\n(WARC/\d\.\d\r?\n)")
_VERSION_LINE = re.compile(rb"[\r\n]*WARC/\d+\.\d+[ \t]*\r?\n")
#: Kinds of records by WARC-Type, in lower case.
_KINDS: dict[bytes, Literal["text", "http", "other"]] = {b"conversion": "text", b"response": "http"}
#: Lines that count as blank, as in fastwarc.
_BLANK = (b"\r\n", b"\n")
#: A header's name and value; lines that begin with white space continue the value.
_HEADER = re.compile(rb"(?m)^([^\s:][^:\n]*):(.*(?:\n[ \t].*)*)")
_MOST_HEADER_BYTES = 32 << 10
_SCAN_BYTES = _SKIP_BYTES = 1 << 20
_OVERLAP_BYTES = 16
#: Maximum bytes of an uncompressed file to read again after damaged records, which may contain good
#: records. For a large file, the maximum is twice the file's size. Beyond the maximum, the reader
#: skips as many bytes as a damaged record's header states.
_RETRY_BYTES = 4 << 30


class Record(NamedTuple):
    """A record that may contain a page.

    Attributes:
        offset: byte offset in the file; if a gzip member or zstd frame has several records, the
            offset of the member or frame.
        kind: "text" (conversion record, as in WET), "http" (response record) or "other".
        url: WARC-Target-URI, b"" if absent.
        timestamp: WARC-Date, b"" if absent.
        record_id: WARC-Record-ID, b"" if absent.
        payload: the record's block; None if it is too large or of kind "other".
    """

    offset: int
    kind: Literal["text", "http", "other"]
    url: bytes
    timestamp: bytes
    record_id: bytes
    payload: bytes | None


class Damage(NamedTuple):
    """A place in a file where a record should be but cannot be read."""

    offset: int
    error: str


class _Archive:
    def __init__(self, file: BinaryIO):
        self._file = file
        self.members = Members(file)
        self._retried = 0
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        plain = self.members.compression == "none" and not _VERSION_LINE.match(file.read(64))
        if plain and find_gzip_record(file, 0) is not None:
            # The file contains a record compressed by gzip. So it is a gzip file whose first bytes
            # are damaged.
            self.members.compression = "gzip"

    def read_single_records(self, max_bytes: int) -> Iterator[Record]:
        """Yield the records of a gzip file; end silently at a member that is not one record.

        fastwarc reads gzip twice as fast as Python. But it knows the offset of a record only at the
        beginning of a member, and a length only in the standard's own spelling, before CR LF.
        """
        if self.members.compression != "gzip":
            return
        self._file.seek(0)
        number = self._file.fileno()
        before: Record | None = None
        try:
            for raw in ArchiveIterator(self._file, parse_http=False):
                size = raw.content_length
                headers = raw.headers.items_bytes()
                record = _read_record(headers, raw.reader, raw.stream_pos, max_bytes, size)
                if raw.reader.read(1):  # the header states two different lengths
                    return
                if before:
                    if record.offset <= before.offset:
                        return
                    if os.pread(number, len(GZIP_MAGIC), before.offset) != GZIP_MAGIC:
                        return
                    yield before
                before = record
        except (OSError, EOFError) as error:
            describe_damage(error)

    def read_records(self, stream: DecompressedStream, max_bytes: int) -> Iterator[Record]:
        """Yield the records of a stream; raise an exception if reading cannot continue."""
        if self.members.compression == "none":
            while line := _find_record(self._file):
                offset = self._file.tell() - len(line)
                headers = _read_headers(self._file)
                # The file's size reveals a wrong length without reading to the end of the file.
                left = self._size - self._file.tell()
                yield _read_record(headers, self._file, offset, max_bytes, left)
            return
        held: Record | None = None
        content = stream.buffered()
        try:
            while line := _find_record(content):
                if held:
                    yield held
                    held = None
                member = stream.locate(content.tell() - len(line))
                headers = _read_headers(content)
                stream.in_record = True
                held = _read_record(headers, content, member, max_bytes)
                stream.in_record = False
        except (OSError, EOFError, DamagedStreamError):
            # Do not yield a record in a damaged member, because the member's checksum was not read.
            if held and held.offset != stream.member:
                yield held
            raise
        if held:
            yield held

    def find_skipped(self, after: int) -> int | None:
        """Find a gzip member that the reader skipped although no data seemed damaged.

        A damaged gzip header can make a member swallow the following ones.
        """
        if self.members.compression != "gzip":
            return None
        return find_gzip_record(self._file, after + 1)

    def find_next(self, stream: DecompressedStream, after: int) -> int | None:
        """Find where to continue reading after damage in the record or member at offset `after`.

        This may be within the damaged record or member.
        """
        if self.members.compression != "none":
            return self.members.find_next(stream, after + 1, _begins_record)
        self._retried += self._file.tell() - after
        again = self._retried <= max(_RETRY_BYTES, 2 * self._size)
        start = after + 1 if again else self._file.tell()
        while True:
            self._file.seek(start)
            block = self._file.read(_SCAN_BYTES)
            if match := _RECORD_LINE.search(block):
                return start + match.start(1)
            if len(block) < _SCAN_BYTES:
                return None
            start += _SCAN_BYTES - _OVERLAP_BYTES


def _begins_record(content: bytes) -> bool:
    return content.startswith(RECORD_START)


def find_gzip_record(file: BinaryIO, start: int) -> int | None:
    """Find the first gzip member at or after `start` that begins with a WARC record."""
    return next((at for at, first in find_members(file, start) if _begins_record(first)), None)


def read_archive(path: str | Path, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Yield every record of an archive, and a `Damage` for each place that cannot be read.

    After damage, reading continues at the next gzip member that begins with a record, or in a plain
    file at the next line `WARC/1.x`. The rest of a damaged member or zstd file is lost. The last
    record of a member is yielded only if the member is undamaged. At most two records are in
    memory, and none larger than `max_record_bytes`.
    """
    with open_input(str(path)) as file:
        yield from _read(_Archive(file), max_record_bytes)


def _read(archive: _Archive, max_bytes: int) -> Iterator[Record | Damage]:
    start: int | None = 0
    known = 0
    for record in archive.read_single_records(max_bytes):
        yield record
        start, known = record.offset, 1
    nothing_found = not known
    unreported: Damage | None = None
    while start is not None:
        stream = archive.members.open(start)
        after, came_far, error = start, bool(known), None
        try:
            for record in itertools.islice(archive.read_records(stream, max_bytes), known, None):
                if unreported:
                    yield unreported
                    unreported = None
                after, came_far = record.offset, True
                yield record
        except (OSError, EOFError, DamagedStreamError) as caught:
            error = describe_damage(caught)
        known = 0
        nothing_found &= not came_far
        if error is not None:
            following = archive.find_next(stream, after)
        elif (following := archive.find_skipped(after)) is not None:
            error = "the reader passed over further members"
        else:
            if nothing_found and not unreported:
                yield Damage(start, "there is no record")
            break
        nothing_found = False
        if came_far:
            # The damage is after the record at `after`. If the next member is also unreadable, only
            # the next member's damage is reported.
            unreported = Damage(after, f"after the record at {after}: {error}")
        else:
            unreported = None
            yield Damage(start, error)
        start = following
    if unreported:
        yield unreported


def _find_record(content: BinaryIO) -> bytes:
    line = content.readline(_MOST_HEADER_BYTES)
    while line.isspace():
        line = content.readline(_MOST_HEADER_BYTES)
    if line and not _VERSION_LINE.fullmatch(line):
        raise EOFError("no record begins here")
    return line


def _read_headers(content: BinaryIO) -> list[tuple[bytes, bytes]]:
    lines, left, read_line = [], _MOST_HEADER_BYTES, content.readline
    while (line := read_line(left)) not in _BLANK:
        left -= len(line)
        lines.append(line)
        if not line.endswith(b"\n"):
            raise EOFError("the headers of the record do not end")
    return _HEADER.findall(b"".join(lines))


def _read_record(
    pairs: Sequence[tuple[bytes, bytes]],
    content: Any,
    offset: int,
    max_bytes: int,
    left: int | None = None,
) -> Record:
    """Read a whole record; raise EOFError if it ends too early or is longer than `left`."""
    # If a header is repeated, its first value counts.
    headers = {name.rstrip().lower(): value.strip() for name, value in reversed(pairs)}
    kind = _KINDS.get(headers.get(b"warc-type", b"").lower(), "other")
    stated = headers.get(b"content-length", b"")
    if not stated.isdigit() or len(stated) > 20:
        raise EOFError(f"the record states its length as {stated[:40]!r}")
    size, got, payload = int(stated), 0, None
    if left is not None and size > left:
        raise EOFError(f"the record states {size} bytes, more than the file has left")
    if kind == "other" or size > max_bytes:
        while data := content.read(min(size - got, _SKIP_BYTES)):
            got += len(data)
    else:
        payload = content.read(size)
        got = len(payload)
    if got < size:
        raise EOFError(f"the record ends after {got} of {size} bytes")
    return Record(
        offset=offset,
        kind=kind,
        url=headers.get(b"warc-target-uri", b""),
        timestamp=headers.get(b"warc-date", b""),
        record_id=headers.get(b"warc-record-id", b""),
        payload=payload,
    )
