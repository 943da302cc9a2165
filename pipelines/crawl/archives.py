"""Reads WARC and WET archives (gzip, zstd or plain), whatever state they are in."""

import dataclasses
import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from mswitch.pipelines.crawl.streams import (
    GZIP_MAGIC,
    RECORD_START,
    Compression,
    DamagedStreamError,
    DecompressedStream,
    compression_of,
    describe_damage,
    find_members,
    open_input,
    zstd_dictionary,
)

_RECORD_LINE = re.compile(rb"\n(WARC/\d\.\d\r?\n)")
_VERSION_LINE = re.compile(rb"[\r\n]*WARC/\d+\.\d+[ \t]*\r?\n")
_SCAN_BYTES = 1 << 20
_OVERLAP_BYTES = 16
#: What may be read again to look for sound records within damaged ones (of a plain file at least
#: twice its size); after that what a damaged member or record still holds is given up with it.
_RETRY_BYTES = 4 << 30


class Record(NamedTuple):
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


class Damage(NamedTuple):
    """A place in a file where a record should be and cannot be read."""

    offset: int
    error: str


class _Archive:
    """An open archive: its compression, and where in it records may start."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.compression: Compression = "none"
        self.dictionary: zstandard.ZstdCompressionDict | None = None
        self._retried = 0
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(64)
        looks_like = self.compression = compression_of(head)
        if looks_like == "zstd":
            try:
                self.dictionary = zstd_dictionary(file)
            except DamagedStreamError:
                if self.next_record(0) is None:
                    raise
        if _VERSION_LINE.match(head) if looks_like == "none" else self._begins_with_record():
            return
        # The very first bytes are damaged, whatever they look like: what comes later tells.
        for self.compression in sorted(("gzip", "zstd"), key=lambda kind: kind != looks_like):
            if self.next_record(0) is not None:
                return
        self.compression = looks_like

    def single_records(self, max_bytes: int) -> Iterator[Record]:
        """Read a gzip file as long as each member is one record; ends early, and silently.

        fastwarc reads gzip twice as fast as Python, but tells the offset only of a record that
        begins a member.
        """
        if self.compression != "gzip":
            return
        self.file.seek(0)
        number = self.file.fileno()
        before: Record | None = None
        try:
            for found in ArchiveIterator(self.file, parse_http=False):
                record = _record(found, found.stream_pos, max_bytes)
                if before:
                    if record.offset <= before.offset:
                        return
                    if os.pread(number, len(GZIP_MAGIC), before.offset) != GZIP_MAGIC:
                        return
                    yield before
                before = record
        except (OSError, EOFError) as error:
            describe_damage(error)

    def read(self, place: "_Place", max_bytes: int) -> "_Reading":
        """Read on from a place."""
        if self.compression != "none":
            return _Reading(place, self._stream(place.member), max_bytes)
        self.file.seek(place.member)
        return _Reading(place, self.file, max_bytes, self._size)

    def next_place(self, reading: "_Reading") -> "_Place | None":
        """Find where to read on after damage: in the same member, else where a next one begins."""
        member, stream = reading.after.member, reading.file
        start = member + 1
        if isinstance(stream, DecompressedStream):
            self._retried += stream.tell() - reading.sound_bytes
            if self._retried > _RETRY_BYTES:
                start = stream.member if stream.member > member else stream.file_offset
            elif place := self._next_line(reading.after):
                return place
        else:
            self._retried += stream.tell() - member
            if self._retried > max(_RETRY_BYTES, 2 * self._size):
                start = stream.tell()
        found = self.next_record(max(start, member + 1))
        return None if found is None else _Place(found)

    def _next_line(self, after: "_Place") -> "_Place | None":
        """Find the next first line of a record within a member."""
        stream = self._stream(after.member)
        try:
            stream.skip(after.skip)
            kept = b""
            while (block := stream.read(_SCAN_BYTES)) and stream.member == after.member:
                block = kept + block
                if match := _RECORD_LINE.search(block):
                    return _Place(after.member, stream.tell() - len(block) + match.start(1))
                kept = block[-_OVERLAP_BYTES:]
        except DamagedStreamError:
            pass
        finally:
            self._retried += stream.tell()
        return None

    def _stream(self, member: int, salvage: bool = False) -> DecompressedStream:
        return DecompressedStream(self.file, self.compression, member, self.dictionary, salvage)

    def next_record(self, start: int) -> int | None:
        """Find the first offset from `start` on at which a record seems to start."""
        if self.compression != "none":
            members = find_members(self.file, self.compression, start, self.dictionary)
            return next((at for at, first in members if first.startswith(RECORD_START)), None)
        while True:
            self.file.seek(start)
            block = self.file.read(_SCAN_BYTES)
            if match := _RECORD_LINE.search(block):
                return start + match.start(1)
            if len(block) < _SCAN_BYTES:
                return None
            start += _SCAN_BYTES - _OVERLAP_BYTES

    def _begins_with_record(self) -> bool:
        """Tell whether the file's first content is a record, however far into the file."""
        try:
            first = self._stream(0, salvage=True).read(64)
        except DamagedStreamError:
            return False
        return first.lstrip(b"\r\n").startswith(RECORD_START)


def begins_damaged(head: bytes) -> bool:
    """Tell of a file that looks like no archive whether a compressed record is in its first bytes.

    Where the first bytes of an archive are damaged, they look like anything.
    """
    return _Archive(io.BytesIO(head)).compression != "none"


def read_archive(path: str | Path, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Yield every record of an archive, and a `Damage` for each place that cannot be read.

    After damage, reading continues at the next line `WARC/1.x` of the same gzip member or zstd
    frame (or of a plain file), else at the next member that begins a record. No more than two
    records are held in memory, and none that is larger than `max_record_bytes`.

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
    place: _Place | None = _Place(0)
    known = 0
    for record in archive.single_records(max_bytes):
        yield record
        place, known = _Place(record.offset), 1
    nothing_found = not known
    unreported: Damage | None = None
    while place is not None:
        reading = archive.read(place, max_bytes)
        offset, came_far, error = place.member, bool(known), None
        try:
            for record in itertools.islice(reading, known, None):
                if unreported:
                    yield unreported
                    unreported = None
                offset, came_far = record.offset, True
                yield record
        except (OSError, EOFError, DamagedStreamError) as caught:
            error = describe_damage(caught)
        known = 0
        nothing_found &= not came_far
        passed_over = None
        if error is None and compressed:
            # A damaged gzip header can make a member swallow the ones after it.
            passed_over = archive.next_record(offset + 1)
        if passed_over is not None:
            error = "the reader passed over further members"
        if error is None:
            if nothing_found and not unreported:
                yield Damage(place.member, "there is no record")
            break
        nothing_found = False
        if came_far:
            # The damage lies after `offset`; if a record starts there, it is reported as that.
            unreported = Damage(offset, f"after the record at {offset}: {error}")
        else:
            unreported = None
            yield Damage(place.member, error)
        place = _Place(passed_over) if passed_over else archive.next_place(reading)
    if unreported:
        yield unreported


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where to read: the offset of a member (of a record in a plain file), and how far into it."""

    member: int
    skip: int = 0


class _Reading:
    """The records from a place on; an exception where it is not possible to read on.

    Attributes:
        file: what they are read from.
        after: behind the last sound record (not beyond its end), else in the first one.
        sound_bytes: up to where the decompressed stream was sound.
    """

    def __init__(
        self, place: _Place, file: DecompressedStream | BinaryIO, max_bytes: int, size: int = 0
    ):
        """Read `file` from `place`; a plain one has `size` bytes."""
        self.file, self.after, self.sound_bytes = file, place, 0
        self._max_bytes, self._size = max_bytes, size

    def __iter__(self) -> Iterator[Record]:
        """Read."""
        if not isinstance(self.file, DecompressedStream):
            for found in ArchiveIterator(self.file, parse_http=False):
                offset = found.stream_pos
                if found.content_length > self._size - offset:
                    # Told without reading on to the end of the file.
                    length = found.content_length
                    raise EOFError(f"the record states {length} bytes, more than the file has left")
                record = _record(found, offset, self._max_bytes)
                self.after = _Place(record.offset)
                yield record
            return
        stream = self.file
        stream.skip(self.after.skip)
        # fastwarc reads zstd too, but gives a dictionary all the memory that it asks for.
        for found in ArchiveIterator(stream, parse_http=False, stream_detect=False):
            start = found.stream_pos
            member, skip = stream.locate(start)
            if not self.sound_bytes:
                self.after = _Place(member, skip + len(RECORD_START))
            stream.in_record = True
            record = _record(found, member, self._max_bytes)
            stream.in_record = False
            length = found.content_length + sum(len(k) + len(v) + 2 for k, v in found.headers)
            self.after, self.sound_bytes = _Place(member, skip + length), start + length
            yield record


def _record(found: WarcRecord, offset: int, max_bytes: int) -> Record:
    """Read fastwarc's record whole; EOFError where it ends too early."""
    kind = _kind(found.record_type)
    # All at once, which takes less time than one by its name. Of a repeated name, the first.
    headers = {name.lower(): value for name, value in reversed(found.headers.items_bytes())}
    stated = headers.get(b"content-length", b"").strip()
    size, payload = found.content_length, None
    if not stated.isdigit() or len(stated) > 20 or int(stated) != size:
        raise EOFError(f"the record states its length as {stated[:40]!r}")
    if kind == "other" or size > max_bytes:
        got = found.reader.consume(size)
    else:
        payload = found.reader.read(size)
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


def _kind(record_type: WarcRecordType) -> Literal["text", "http", "other"]:
    if record_type == WarcRecordType.conversion:
        return "text"
    return "http" if record_type == WarcRecordType.response else "other"
