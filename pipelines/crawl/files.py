"""Finds input files, and detects their formats from their first bytes, never from their names."""

import dataclasses
import glob
import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

from mswitch.pipelines import hub, storage
from mswitch.pipelines.crawl.arc import begins_arc
from mswitch.pipelines.crawl.decompression import (
    RECORD_START,
    DamagedStreamError,
    Members,
    find_members,
)
from mswitch.pipelines.crawl.warc import find_gzip_record
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.own_tables import read_own_table

DIGEST_BYTES = 64 << 10
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SNIFF_BYTES = 2 << 10
#: First bytes of a file to read: enough for a dictionary and a first zstd block.
_HEAD_BYTES = 256 << 10
#: Bytes to search for a record if the first bytes have no known format.
_SEARCH_BYTES = 64 << 10
_REQUESTS = 32

#: "damaged" files are compressed and cannot be read from the start.
FileFormat = Literal[
    "warc", "arc", "jsonl", "parquet", "empty", "damaged", "json_array", "pretty_json", "csv",
    "bzip2", "xz", "zip", "other",
]  # fmt: skip

_UNREAD = read_own_table("unread_formats.csv")
#: Formats that are not read, and the reason under which such files are counted.
UNREAD = {row["format"]: row["reason"] for row in _UNREAD}
#: For each format that users must convert first: what such a file is, and how to convert it.
CONVERT = {row["format"]: row["convert"] for row in _UNREAD if row["convert"]}
#: Beginnings of files that are not decompressed here.
_BEGINNINGS: Mapping[bytes, FileFormat] = MappingProxyType(
    {PARQUET_MAGIC: "parquet", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip"}
)
_ARRAY = re.compile(rb"\[\s*\{")
_PRETTY = re.compile(rb'\{[ \t\r]*\n\s*["}]')
#: A CSV's first line, perhaps cut off: names without spaces.
_CSV = re.compile(rb'"?[\w.\x80-\xff-]+"?([,;\t]"?[\w.\x80-\xff-]+"?)+(\r?\n|\Z)')

FORMATS = "WARC, WET, ARC, JSONL or Parquet files"


@dataclasses.dataclass(frozen=True, slots=True)
class CrawlFile:
    """An input file.

    Attributes:
        path: path or URL to open.
        name: its base name, which documents have in `source`.
        size_bytes: its size.
        digest: hash to notice that a file was replaced: SHA-256 of the first and last 64 KiB; on an
            object store, of its size and time of writing.
        format: format of its first bytes, once decompressed; None before anything is read.
    """

    path: str
    name: str
    size_bytes: int
    digest: str
    format: FileFormat | None = None


def find_crawl_files(inputs: Sequence[str]) -> list[CrawlFile]:
    """Resolve paths and globs to files, whose order does not depend on the order of `inputs`.

    A path that is given twice counts once; a file with several links counts under each name. `**`
    in a glob matches any depth, and each file only once, even through several links.

    Paths may be URLs: gs:// and s3:// with globs, https:// without, hf:// of a split. URLs on a web
    server that differ only in the query count once per content, since signatures change.
    """
    if not inputs:
        raise UserError(f"no input: give {FORMATS}, or globs such as 'crawl/*.wet.gz'")
    by_identity: dict[tuple[str, str], CrawlFile] = {}
    inputs = [str(given) for given in inputs]
    # Requests for remote files mostly wait, so use many threads.
    with ThreadPoolExecutor(_REQUESTS if any(map(storage.is_remote, inputs)) else 1) as pool:
        for given, files in zip(inputs, pool.map(_find_files, inputs), strict=True):
            if not files:
                problem = "matches no file" if glob.has_magic(given) else "does not exist"
                raise UserError(f"input {given} {problem}: give {FORMATS}, or a glob of them")
            for file in files:
                by_identity.setdefault(_identify(file), file)
    return sorted(
        by_identity.values(),
        key=lambda f: (f.name, f.size_bytes, f.digest, storage.hide_secrets(f.path)),
    )


def _identify(file: CrawlFile) -> tuple[str, str]:
    """Identify a local file by resolved and absolute path, a remote file by URL and digest.

    Both paths are needed, since `..` after a link may lead elsewhere.
    """
    if storage.is_remote(file.path):
        return storage.hide_secrets(file.path), file.digest
    return os.path.realpath(file.path), os.path.abspath(file.path)


def _find_files(given: str) -> list[CrawlFile]:
    if storage.is_remote(given) and not storage.is_http(given):
        files = _list_files(given)
    else:
        files = [_inspect(path) for path in _find_paths(given)]
    shown = storage.hide_secrets(given)
    if [file.path for file in files] == [given]:
        format = files[0].format or _inspect(given).format
        if format and format in CONVERT:
            raise UserError(f"input {shown} is {CONVERT[format]}")
        if format == "other":
            raise UserError(
                f"input {shown} is none of {FORMATS}: its content does not begin with WARC/, {{ "
                "or PAR1"
            )
    return files


def _find_paths(given: str) -> list[str]:
    if storage.is_http(given):
        if not storage.get_name(given):
            raise UserError(
                f"input {storage.hide_secrets(given)} names no file: give the URL of a file"
            )
        return [given]
    if os.path.exists(given):
        return [given]
    paths = [path for path in glob.glob(given, recursive=True) if os.path.isfile(path)]
    if "**" not in given:
        return paths
    deepest_first = sorted(paths, key=lambda path: (path.count("/"), path), reverse=True)
    return list({os.path.realpath(path): path for path in deepest_first}.values())


def _list_files(given: str) -> list[CrawlFile]:
    """Return the files of an input on an object store or the Hub, from a listing.

    Files are not read, since a crawl has tens of thousands. Workers detect their formats.
    """
    if given.startswith(hub.SCHEME):
        return [
            CrawlFile(file.url, storage.get_name(file.url), file.size_bytes, file.digest)
            for file in hub.find_files(given)
        ]
    return [
        CrawlFile(
            status.path,
            storage.get_name(status.path),
            status.size_bytes,
            hashlib.sha256(f"{status.size_bytes} {status.updated}".encode()).hexdigest(),
        )
        for status in storage.match(given)
    ]


def _inspect(path: str) -> CrawlFile:
    if not storage.is_remote(path):
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the name of input {os.fsencode(path)!r} is not UTF-8: rename the file"
            ) from error
        if os.path.isdir(path):
            raise UserError(
                f"input {path} is a directory: give files, or a glob such as '{path}/*.warc.wet.gz'"
            )
        if not os.path.isfile(path):
            raise UserError(f"input {path} is not a regular file: give {FORMATS}")
    try:
        size, head, tail = storage.head_and_tail(path, _HEAD_BYTES)
    except OSError as error:
        reason = error.strerror or error
        shown = storage.hide_secrets(path)
        raise UserError(f"cannot read input {shown}: {reason}; check its permissions") from error
    digest = hashlib.sha256(head[:DIGEST_BYTES] + tail[-DIGEST_BYTES:]).hexdigest()
    return CrawlFile(path, storage.get_name(path), size, digest, _detect(head))


def detect_format(path: str | Path) -> FileFormat:
    """Detect the format of a local file from its first bytes, once decompressed."""
    with open(path, "rb") as file:
        return _detect(file.read(_HEAD_BYTES))


def _detect(head: bytes) -> FileFormat:
    if not head:
        return "empty"
    for beginning, format in _BEGINNINGS.items():
        if head.startswith(beginning):
            return format
    file, start = io.BytesIO(head), b""
    members = Members(file)
    stream = members.open()
    try:
        while len(start) < _SNIFF_BYTES and (more := stream.read(_SNIFF_BYTES)):
            start = (start + more).removeprefix(BYTE_ORDER_MARK).lstrip()
    except DamagedStreamError as damaged:
        behind = damaged.offset + 1 if members.compression == "gzip" else len(head)
        return _detect_text_format(start) or _detect_next_format(file, behind)
    if not start:
        return "other" if members.compression == "none" else "empty"
    if format := _detect_text_format(start):
        return format
    # If the first bytes of an archive are damaged, they may look like anything.
    damaged = members.compression == "none" and find_gzip_record(
        io.BytesIO(head[:_SEARCH_BYTES]), 0
    )
    return "damaged" if damaged else "csv" if _CSV.match(start) else "other"


def _detect_next_format(file: BinaryIO, start: int) -> FileFormat:
    for _, content in find_members(file, start):
        if format := _detect_text_format(content):
            return format
        if content.startswith(b"http"):  # beginning of a record's first line
            return "arc"
    return "damaged"


def _detect_text_format(start: bytes) -> FileFormat | None:
    if start.startswith(RECORD_START):
        return "warc"
    if begins_arc(start):
        return "arc"
    if _ARRAY.match(start):
        return "json_array"
    if _PRETTY.match(start):
        return "pretty_json"
    return "jsonl" if start.startswith(b"{") else None
