"""Checks a downloaded file against what the server's headers say of its bytes."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

from pipelines.crawl.streams import (
    DamagedStreamError,
    DecompressedStream,
    compression_of,
    open_input,
)

_BLOCK_BYTES = 1 << 20
#: Headers whose value is the Base64 of a digest. Object stores add "-<parts>" where it is that of
#: the parts' digests; such values say nothing of the bytes.
_BASE64_HEADERS = {
    "content-md5": "md5",
    "x-amz-checksum-sha256": "sha256",
    "x-amz-checksum-sha1": "sha1",
    "x-amz-checksum-crc32c": "crc32c",
}
_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')


class Stated(NamedTuple):
    """A digest that a header promises."""

    header: str
    algorithm: str
    digest: bytes


class Measured(NamedTuple):
    """What a file's bytes are."""

    size_bytes: int
    sha256: str


def stated_digests(headers: Mapping[str, str]) -> list[Stated]:
    """Return every digest of the whole file that the headers (by lower-case name) state."""
    found = [
        Stated(header, algorithm, digest)
        for header, algorithm in _BASE64_HEADERS.items()
        if (digest := _base64(headers.get(header, "")))
    ]
    for part in headers.get("x-goog-hash", "").split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm in ("md5", "crc32c") and (digest := _base64(value)):
            found.append(Stated("x-goog-hash", algorithm, digest))
    if etag := _MD5_ETAG.fullmatch(headers.get("etag", "").strip()):
        found.append(Stated("ETag", "md5", bytes.fromhex(etag[1])))
    return found


def verify(path: Path, headers: Mapping[str, str]) -> tuple[Measured, str]:
    """Measure a file; return also what contradicts the headers, "" if nothing does.

    Where no header states a digest, a compressed file must decompress to its end.
    """
    stated = stated_digests(headers)
    digests: dict[str, Any] = {
        "sha256": hashlib.sha256(),
        "sha1": hashlib.sha1(usedforsecurity=False),
        "md5": hashlib.md5(usedforsecurity=False),
        "crc32c": google_crc32c.Checksum(),
    }
    needed = {"sha256", *(one.algorithm for one in stated)}
    size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size += len(block)
            for name in needed:
                digests[name].update(block)
    measured = Measured(size, digests["sha256"].hexdigest())
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) != size:
        return measured, f"Content-Length says {int(length):,} bytes, {size:,} came"
    # The ETag comes last: what it is, is the server's affair.
    for one in stated:
        if digests[one.algorithm].digest() != one.digest:
            return measured, f"{one.header} says another {one.algorithm}"
    return measured, "" if stated else _decompression_error(path)


def _decompression_error(path: Path) -> str:
    with open_input(str(path)) as file:
        compression = compression_of(file.read(4))
        if compression != "gzip":
            return ""
        stream = DecompressedStream(file, compression)
        try:
            while stream.read():
                pass
        except DamagedStreamError as damaged:
            return f"its gzip data is damaged: {damaged}"
    return ""


def _base64(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""
