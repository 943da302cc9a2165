"""Finds input files and tells their formats by their first bytes, never by their names."""

import dataclasses
import glob
import hashlib
import os
import stat
from collections.abc import Sequence
from typing import BinaryIO, Literal

from pipelines.crawl.archives import RECORD_START
from pipelines.crawl.streams import (
    DamagedStreamError,
    DecompressedStream,
    compression_of,
    open_input,
    zstd_dictionary,
)
from pipelines.errors import UserError

DIGEST_BYTES = 64 << 10
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SNIFF_BYTES = 64

#: "damaged" files are compressed and cannot be read from the start; "other" files are none of ours.
FileFormat = Literal["warc", "jsonl", "parquet", "empty", "damaged", "other"]

FORMATS = "WARC, WET, JSONL or Parquet files"


@dataclasses.dataclass(frozen=True, slots=True)
class CrawlFile:
    """An input file.

    Attributes:
        path: where to open it.
        name: its base name, which documents carry as their source.
        size_bytes: its size.
        digest: SHA-256 over its first and last 64 KiB, to notice another file under its name.
        format: what its first bytes look like, once decompressed.
    """

    path: str
    name: str
    size_bytes: int
    digest: str
    format: FileFormat


def find_crawl_files(inputs: Sequence[str]) -> list[CrawlFile]:
    """Resolve paths and globs to files, in an order that the order of `inputs` does not change.

    A file that is named twice counts once. `**` in a glob matches any depth.

    Raises:
        UserError: nothing is given; a path is missing, a directory or unreadable; a glob matches
            no file; a file given by its name has none of the formats.
    """
    if not inputs:
        raise UserError(f"no input: give {FORMATS}, or globs such as 'crawl/*.wet.gz'")
    found: dict[str, CrawlFile] = {}
    for given in map(str, inputs):
        if "://" in given:
            raise UserError(f"{given}: give a path or glob of files on this machine")
        named = os.path.exists(given)
        paths = [given] if named else [p for p in glob.glob(given, recursive=True) if _is_file(p)]
        if not paths:
            what = "matches no file" if glob.has_magic(given) else "does not exist"
            raise UserError(f"input {given} {what}: give {FORMATS}, or a glob of them")
        for path in paths:
            file = _inspect(path)
            if named and file.format == "other":
                raise UserError(
                    f"input {given} is none of {FORMATS}: its content begins with neither WARC/, "
                    "{ nor PAR1"
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
        raise UserError(f"input {path} is not a regular file: give {FORMATS}")
    try:
        with open_input(path) as file:
            head = file.read(DIGEST_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - DIGEST_BYTES))
            digest = hashlib.sha256(head + file.read(DIGEST_BYTES)).hexdigest()
            kind = _format(file, head)
    except OSError as error:
        raise UserError(
            f"cannot read input {path}: {error.strerror}; check its permissions"
        ) from error
    return CrawlFile(path, os.path.basename(path), size, digest, kind)


def _format(file: BinaryIO, head: bytes) -> FileFormat:
    if not head:
        return "empty"
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    compression = compression_of(head)
    try:
        dictionary = zstd_dictionary(file) if compression == "zstd" else None
        stream = DecompressedStream(file, compression, dictionary=dictionary)
        start = b""
        while len(start) < _SNIFF_BYTES and (more := stream.read(_SNIFF_BYTES)):
            start = (start + more).removeprefix(BYTE_ORDER_MARK).lstrip()
    except DamagedStreamError:
        return "damaged"
    if not start:
        return "other" if compression == "none" else "empty"
    if start.startswith(RECORD_START):
        return "warc"
    return "jsonl" if start.startswith(b"{") else "other"
