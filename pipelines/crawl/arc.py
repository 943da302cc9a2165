"""Reads ARC, the format of web archives before WARC (gzip, zstd or plain), even if damaged.

"ARC File Format" (Internet Archive, 1996), versions 1.0, 1.1 and 2.0. A record is a line (URL, IP
address, date, content type, in version 2.0 five more fields, length), then `length` bytes. Fields
are recognized by their form, not their number: URLs and content types may contain spaces.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mswitch.pipelines.crawl.decompression import (
    DamagedStreamError,
    Members,
    open_input,
)
from mswitch.pipelines.crawl.warc import Damage, Record

_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")
_HEAD = re.compile(
    rb"([A-Za-z][A-Za-z0-9+.-]*:.*?) \S+ (\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?: |$)"
)
_LONGEST_LINE_BYTES = 64 << 10
_MOST_BLANK_LINES = 1000
_READ_BYTES = 64 << 10
_SKIP_BYTES = 1 << 20
#: Maximum bytes of an uncompressed file to read again in search of good records within damaged
#: records. Beyond the maximum, the reader skips as many bytes as a damaged record's header states.
_RETRY_BYTES = 4 << 30


def begins_arc(start: bytes) -> bool:
    """Return whether a file with this beginning is ARC."""
    return start.startswith(b"filedesc://") or _parse(start.partition(b"\n")[0] + b"\n") is not None


def read_arc(path: str | Path, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Yield every record of an ARC file, and a `Damage` for each place that cannot be read.

    A record must end at the end of its gzip member or zstd frame, at the end of a line, or where
    another record begins. After damage, reading continues at the next gzip member that begins with
    a URL, or in a plain file at the next line that begins a record. The rest of a zstd file is not
    read. At most one record is in memory, and none larger than `max_record_bytes`.
    """
    with open_input(str(path)) as file:
        size = file.seek(0, os.SEEK_END)
        members = Members(file)
        if members.compression == "none":
            yield from _read_plain(file, size, max_record_bytes)
        else:
            yield from _read_members(members, size, max_record_bytes)


def _read_plain(file: BinaryIO, size: int, max_bytes: int) -> Iterator[Record | Damage]:
    start: int | None = 0
    retried = 0
    while start is not None:
        file.seek(start)
        start = None
        for record in _read(file, size, max_bytes):
            yield record
            if isinstance(record, Damage):
                retried += file.tell() - record.offset
                start = _find_next_line(
                    file, record.offset if retried <= _RETRY_BYTES else file.tell()
                )


def _find_next_line(file: BinaryIO, start: int) -> int | None:
    """Find the next line that begins a record, after the line that contains `start`."""
    file.seek(start)
    begins = False
    while line := file.readline(_LONGEST_LINE_BYTES):
        if begins and _parse(line):
            return file.tell() - len(line)
        begins = line.endswith(b"\n")
    return None


def _read_members(members: Members, size: int, max_bytes: int) -> Iterator[Record | Damage]:
    start: int | None = 0
    while start is not None and start < size:
        stream = members.open(start, one_member=True)
        try:
            for record in _read(stream.buffered(), None, max_bytes):
                yield record._replace(offset=stream.member)
            while stream.read():
                pass
            start = stream.file_offset
        except DamagedStreamError as damaged:
            yield Damage(damaged.offset, str(damaged))
            start = members.find_next(stream, damaged.offset + 1, _SCHEME.match)


def _read(content: BinaryIO, size: int | None, max_bytes: int) -> Iterator[Record | Damage]:
    line = _skip_blank(content)
    while line:
        offset = content.tell() - len(line)
        parsed = _parse(line)
        if parsed is None:
            yield Damage(offset, "no record begins here")
            return
        url, timestamp, length = parsed
        kind = "http" if url.lower().startswith((b"http:", b"https:")) else "other"
        payload, got = None, 0
        if size is not None and length > size - content.tell():
            got = size - content.tell()
        elif kind == "http" and length <= max_bytes:
            payload = content.read(length)
            got = len(payload)
        else:
            while data := content.read(min(length - got, _SKIP_BYTES)):
                got += len(data)
        if got < length:
            yield Damage(offset, f"the record ends after {got} of {length} bytes")
            return
        rest = content.readline(_LONGEST_LINE_BYTES)
        if rest.strip() and not _parse(rest):
            yield Damage(offset, f"the record does not end after the {length} bytes that it states")
            return
        # Reading the next line at the end of a member verifies the member's checksum.
        line = rest if rest.strip() else _skip_blank(content)
        yield Record(offset, kind, url, timestamp, b"", payload)


def _skip_blank(content: BinaryIO) -> bytes:
    line, blank = content.readline(_LONGEST_LINE_BYTES), 0
    while line.isspace() and blank < _MOST_BLANK_LINES:
        line, blank = content.readline(_LONGEST_LINE_BYTES), blank + 1
    return line


def _parse(line: bytes) -> tuple[bytes, bytes, int] | None:
    """Parse an ARC record's first line: return URL, ISO 8601 date and length; if invalid, None."""
    head, _, length = line.rstrip().rpartition(b" ")
    match = _HEAD.match(head) if re.fullmatch(rb"\d{1,18}", length) else None
    if match is None or not line.endswith(b"\n"):
        return None
    url, *date = match.groups()
    return url, b"%s-%s-%sT%s:%s:%sZ" % tuple(date), int(length)
