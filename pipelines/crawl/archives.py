"""Reads Common Crawl archives (WARC, WET; gzip or plain), whatever state they are in."""

import dataclasses
import glob
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipelines.errors import UserError

DIGEST_BYTES = 64 << 10
GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_START = re.compile(rb"(\x1f\x8b\x08)")
_PLAIN_START = re.compile(rb"\n(WARC/\d\.\d\r?\n)")
_SCAN_BYTES = 1 << 20
_OVERLAP_BYTES = 16

ArchiveState = Literal["archive", "empty", "damaged", "other"]


@dataclasses.dataclass(frozen=True, slots=True)
class CrawlFile:
    """An input file.

    Attributes:
        path: where to open it.
        name: its base name, which documents carry as their source.
        size_bytes: its size.
        digest: SHA-256 over its first and last 64 KiB, to notice another file under its name.
        state: what its first bytes look like.
    """

    path: str
    name: str
    size_bytes: int
    digest: str
    state: ArchiveState


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record that may hold a page.

    Attributes:
        offset: byte offset in the file; in a file that is one gzip member, of that member.
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


def find_crawl_files(inputs: Sequence[str]) -> list[CrawlFile]:
    """Resolve paths and globs to files, in an order that the order of `inputs` does not change.

    A file that is named twice counts once. `**` in a glob matches any depth.

    Raises:
        UserError: nothing is given; a path is missing, a directory or unreadable; a glob matches
            no file; a file given by its name is neither WARC nor WET.
    """
    if not inputs:
        raise UserError("no input: give WARC or WET files, or globs such as 'crawl/*.wet.gz'")
    found: dict[str, CrawlFile] = {}
    for given in map(str, inputs):
        if "://" in given:
            raise UserError(f"{given}: give a path or glob of files on this machine")
        named = os.path.exists(given)
        paths = [given] if named else [p for p in glob.glob(given, recursive=True) if _is_file(p)]
        if not paths:
            what = "matches no file" if glob.has_magic(given) else "does not exist"
            raise UserError(f"input {given} {what}: give WARC or WET files, or a glob of them")
        for path in paths:
            file = _inspect(path)
            if named and file.state == "other":
                raise UserError(
                    f"input {given} is not a WARC or WET file (it does not start with WARC/): "
                    "give .warc.gz or .warc.wet.gz files"
                )
            found.setdefault(os.path.realpath(path), file)
    return sorted(found.values(), key=lambda f: (f.name, f.size_bytes, f.digest, f.path))


def _is_file(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode) if os.path.exists(path) else False


def _inspect(path: str) -> CrawlFile:
    """Look at a file's size, first and last bytes."""
    if os.path.isdir(path):
        raise UserError(
            f"input {path} is a directory: give files, or a glob such as '{path}/*.warc.wet.gz'"
        )
    if not _is_file(path):
        raise UserError(f"input {path} is not a regular file: give WARC or WET files")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(DIGEST_BYTES)
            file.seek(max(0, size - DIGEST_BYTES))
            digest = hashlib.sha256(head + file.read(DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot read input {path}: {error.strerror}; check its permissions"
        ) from error
    return CrawlFile(path, os.path.basename(path), size, digest, _state(head))


def _state(head: bytes) -> ArchiveState:
    if not head:
        return "empty"
    if head.startswith(GZIP_MAGIC[: len(head)]):
        start, finished = _decompress_start(head)
        if start is None or not (start or finished):
            return "damaged"
        if not start:
            return "empty"
    else:
        start = head
    return "archive" if start.lstrip(b"\r\n").startswith(b"WARC/") else "other"


def _decompress_start(data: bytes) -> tuple[bytes | None, bool]:
    """Return the first decompressed bytes (None if damaged), and whether the member ended."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        return decompressor.decompress(data, 64), decompressor.eof
    except zlib.error:
        return None, False


def read_archive(path: str | Path, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Yield every record of an archive, and a `Damage` for each place that cannot be read.

    After damage reading goes on at the next gzip member (or the next line `WARC/1.x` of a plain
    file). No record is read into memory that is larger than `max_record_bytes`.

    Raises:
        OSError: the file cannot be opened, or the disk cannot be read.
    """
    with open(path, "rb") as file:
        is_gzip = _is_gzip(file)
        start: int | None = 0
        nothing_found = True
        unreported: Damage | None = None
        while start is not None:
            offset, error = start, None
            file.seek(start)
            records = _records(ArchiveIterator(file, parse_http=False), max_record_bytes)
            came_far = False
            try:
                for record in records:
                    if unreported:
                        yield unreported
                        unreported = None
                    offset, came_far = record.offset, True
                    yield record
            except (OSError, EOFError) as caught:
                if isinstance(caught, OSError) and caught.errno is not None:
                    raise
                error = str(caught)
            nothing_found &= not came_far
            if error is None and is_gzip and _next_record_start(file, offset + 1, is_gzip):
                # A damaged gzip header can make a member swallow the ones after it.
                error = "the reader passed over further members"
            if error is None:
                if tail := _unread_tail(file, offset) if is_gzip else None:
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
            start = _next_record_start(file, offset + 1, is_gzip)
        if unreported:
            yield unreported


def _is_gzip(file: BinaryIO) -> bool:
    """Tell gzip from plain; where the very first bytes are damaged, by what comes later."""
    file.seek(0)
    head = file.read(64)
    if head.startswith(GZIP_MAGIC) or head.lstrip(b"\r\n").startswith(b"WARC/"):
        return head.startswith(GZIP_MAGIC)
    return _next_record_start(file, 0, is_gzip=True) is not None


def _records(archive: ArchiveIterator, max_bytes: int) -> Iterator[Record]:
    """Turn fastwarc's records into ours; EOFError where a record ends too early."""
    for record in archive:
        kind = _kind(record.record_type)
        header = record.headers.get_bytes
        stated = (header(b"Content-Length") or b"").strip()
        size, payload = record.content_length, None
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
            offset=record.stream_pos,
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
    decompressor = zlib.decompressobj(wbits=31)
    file.seek(offset)
    tail = b""
    while not decompressor.eof and (block := file.read(_SCAN_BYTES)):
        try:
            while block and not decompressor.eof:
                decompressor.decompress(block, _SCAN_BYTES)
                block = decompressor.unconsumed_tail
        except zlib.error as error:
            return Damage(offset, str(error))
        tail = decompressor.unused_data
    if not decompressor.eof or not (tail + file.read(_SCAN_BYTES)).strip(b"\0\r\n"):
        return None
    return Damage(offset, "what follows is no gzip member")


def _kind(record_type: WarcRecordType) -> Literal["text", "http", "other"]:
    if record_type == WarcRecordType.conversion:
        return "text"
    return "http" if record_type == WarcRecordType.response else "other"


def _next_record_start(file: BinaryIO, start: int, is_gzip: bool) -> int | None:
    """Find the first offset from `start` on at which a record seems to start."""
    pattern = _GZIP_START if is_gzip else _PLAIN_START
    while True:
        file.seek(start)
        block = file.read(_SCAN_BYTES)
        for match in pattern.finditer(block):
            found = start + match.start(1)
            if not is_gzip:
                return found
            file.seek(found)
            begin, _ = _decompress_start(file.read(512))
            if begin is not None and begin.startswith(b"WARC/"):
                return found
        if len(block) < _SCAN_BYTES:
            return None
        start += _SCAN_BYTES - _OVERLAP_BYTES
