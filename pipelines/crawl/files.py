"""Finds input files and tells their formats by their first bytes, never by their names."""

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

from mswitch.pipelines import storage
from mswitch.pipelines.crawl.arc import begins_arc
from mswitch.pipelines.crawl.decompression import (
    RECORD_START,
    DamagedStreamError,
    Members,
    find_members,
)
from mswitch.pipelines.crawl.warc import find_gzip_record
from mswitch.pipelines.errors import UserError

DIGEST_BYTES = 64 << 10
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SNIFF_BYTES = 2 << 10
#: Enough for a dictionary and a first zstd block.
_HEAD_BYTES = 256 << 10
#: How far to look for a record where the first bytes look like nothing.
_SEARCH_BYTES = 64 << 10
_REQUESTS = 32

#: "damaged" files are compressed and cannot be read from the start. Nothing is read from "empty"
#: files, those of `CONVERT`, and "other" ones.
FileFormat = Literal[
    "warc", "arc", "jsonl", "parquet", "empty", "damaged", "json_array", "pretty_json", "csv",
    "bzip2", "xz", "zip", "other",
]  # fmt: skip

#: What can be converted: what it is, and how.
CONVERT: Mapping[str, str] = MappingProxyType(
    {
        "json_array": "a JSON array, not JSON Lines: convert it with jq -c '.[]'",
        "pretty_json": "JSON over several lines, not JSON Lines: convert it with jq -c .",
        "csv": "a table of text (CSV): convert it to Parquet, for example with "
        "`pandas.read_csv('IN.csv').to_parquet('OUT.parquet')`",
        "bzip2": "compressed with bzip2: use gzip instead, as in `bzcat IN.bz2 | gzip > OUT.gz`",
        "xz": "compressed with xz: use gzip instead, as in `xzcat IN.xz | gzip > OUT.gz`",
        "zip": "a ZIP archive: unpack it with unzip",
    }
)
#: What files begin with that are not decompressed here.
_BEGINNINGS: Mapping[bytes, FileFormat] = MappingProxyType(
    {PARQUET_MAGIC: "parquet", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip"}
)
_ARRAY = re.compile(rb"\[\s*\{")
_PRETTY = re.compile(rb'\{[ \t\r]*\n\s*["}]')
#: Names without spaces, as far as they were read.
_CSV = re.compile(rb'"?[\w.\x80-\xff-]+"?([,;\t]"?[\w.\x80-\xff-]+"?)+(\r?\n|\Z)')

FORMATS = "WARC, WET, ARC, JSONL or Parquet files"


@dataclasses.dataclass(frozen=True, slots=True)
class CrawlFile:
    """An input file.

    Attributes:
        path: where to open it.
        name: its base name, which documents carry as their source.
        size_bytes: its size.
        digest: to notice another file under its name: SHA-256 over the first and last 64 KiB, or,
            on an object store, over its size and the time at which it was written.
        format: what its first bytes look like, once decompressed; None before anything is read.
    """

    path: str
    name: str
    size_bytes: int
    digest: str
    format: FileFormat | None = None


def find_crawl_files(inputs: Sequence[str]) -> list[CrawlFile]:
    """Resolve paths and globs to files, in an order that the order of `inputs` does not change.

    A path that is named twice counts once, a file under each name that links give it. `**` in a
    glob matches any depth, and a file once however many links lead to it.

    Paths may be URLs: gs:// and s3:// with globs, https:// without. What a web server has under one
    path counts once for each content, whatever the query: signatures are renewed.
    """
    if not inputs:
        raise UserError(f"no input: give {FORMATS}, or globs such as 'crawl/*.wet.gz'")
    found: dict[tuple[str, str], CrawlFile] = {}
    inputs = [str(given) for given in inputs]
    # Looking at a remote file is waiting for it.
    with ThreadPoolExecutor(_REQUESTS if any(map(storage.is_remote, inputs)) else 1) as pool:
        for given, files in zip(inputs, pool.map(_files, inputs), strict=True):
            if not files:
                what = "matches no file" if glob.has_magic(given) else "does not exist"
                raise UserError(f"input {given} {what}: give {FORMATS}, or a glob of them")
            for file in files:
                found.setdefault(_identity(file), file)
    return sorted(
        found.values(),
        key=lambda f: (f.name, f.size_bytes, f.digest, storage.hide_secrets(f.path)),
    )


def _identity(file: CrawlFile) -> tuple[str, str]:
    """Return what a path names, and the path: behind a link, `..` may lead elsewhere."""
    if storage.is_remote(file.path):
        return storage.hide_secrets(file.path), file.digest
    return os.path.realpath(file.path), os.path.abspath(file.path)


def _files(given: str) -> list[CrawlFile]:
    """Return the files that one input names."""
    if storage.is_remote(given) and not storage.is_http(given):
        files = _listed_files(given)
    else:
        files = [_inspect(path) for path in _paths(given)]
    shown = storage.hide_secrets(given)
    if [file.path for file in files] == [given]:
        format = files[0].format or _inspect(given).format
        if format and format in CONVERT:
            raise UserError(f"input {shown} is {CONVERT[format]}")
        if format == "other":
            raise UserError(
                f"input {shown} is none of {FORMATS}: its content begins with neither WARC/, {{ "
                "nor PAR1"
            )
    return files


def _paths(given: str) -> list[str]:
    """Return the local paths, or the URL on a web server, that an input names."""
    if storage.is_http(given):
        if not storage.name_of(given):
            raise UserError(
                f"input {storage.hide_secrets(given)} names no file: give the URL of one"
            )
        return [given]
    if os.path.exists(given):
        return [given]
    paths = [path for path in glob.glob(given, recursive=True) if os.path.isfile(path)]
    if "**" not in given:
        return paths
    deepest_first = sorted(paths, key=lambda path: (path.count("/"), path), reverse=True)
    return list({os.path.realpath(path): path for path in deepest_first}.values())


def _listed_files(given: str) -> list[CrawlFile]:
    """Return the files on an object store that an input names, as the listing describes them.

    Nothing is read: a crawl has tens of thousands of files. Workers look at their formats.
    """
    return [
        CrawlFile(
            status.path,
            storage.name_of(status.path),
            status.size_bytes,
            hashlib.sha256(f"{status.size_bytes} {status.updated}".encode()).hexdigest(),
        )
        for status in storage.match(given)
    ]


def _inspect(path: str) -> CrawlFile:
    """Look at a file's size, first and last bytes."""
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
    return CrawlFile(path, storage.name_of(path), size, digest, _format(head))


def format_of(path: str | Path) -> FileFormat:
    """Tell the format of a local file by its first bytes, once decompressed."""
    with open(path, "rb") as file:
        return _format(file.read(_HEAD_BYTES))


def _format(head: bytes) -> FileFormat:
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
        return _format_of_text(start) or _format_of_next(file, behind)
    if not start:
        return "other" if members.compression == "none" else "empty"
    if format := _format_of_text(start):
        return format
    # Where the first bytes of an archive are damaged, they look like anything.
    damaged = members.compression == "none" and find_gzip_record(
        io.BytesIO(head[:_SEARCH_BYTES]), 0
    )
    return "damaged" if damaged else "csv" if _CSV.match(start) else "other"


def _format_of_next(file: BinaryIO, start: int) -> FileFormat:
    """Tell the format by the first gzip member from `start` on that begins as one of ours."""
    for _, content in find_members(file, start):
        if format := _format_of_text(content):
            return format
        if content.startswith(b"http"):  # of the line of a record, the end is not seen here
            return "arc"
    return "damaged"


def _format_of_text(start: bytes) -> FileFormat | None:
    if start.startswith(RECORD_START):
        return "warc"
    if begins_arc(start):
        return "arc"
    if _ARRAY.match(start):
        return "json_array"
    if _PRETTY.match(start):
        return "pretty_json"
    return "jsonl" if start.startswith(b"{") else None
