"""Extracts the HTML of an HTTP response, and undoes its transfer and content encodings."""

import io
import re
import zlib
from collections.abc import Callable, Sequence

from fastwarc.stream_io import BrotliReader

from mswitch.pipelines.crawl.charsets import Decoded, decode
from mswitch.pipelines.crawl.decompression import (
    Compression,
    DamagedStreamError,
    DecompressedStream,
    detect_compression,
)
from mswitch.pipelines.crawl.html.text import UnreadableError

_STATUS = re.compile(rb"HTTP/\S+ +(\d{3})")
#: An interim response, such as `100 Continue`, precedes the requested one.
_INTERIM = re.compile(rb"HTTP/\S+ +1\d\d")
_MOST_INTERIM = 10
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
#: Maximum bytes of headers, as in browsers.
_MOST_HEADER_BYTES = 256 << 10
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)")
#: Beginning of a chunk; an extension may follow the size.
_CHUNK_SIZE = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
#: Bytes that occur at the beginning of compressed data, but not of text (WHATWG: MIME Sniffing,
#: "binary data byte").
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_SNIFFED_BYTES = 1445
#: Largest zstd window that HTTP allows (RFC 9659).
_ZSTD_WINDOW = 8 << 20
_HTML_TYPES = ("text/html", "application/xhtml+xml")

Reserved = Callable[[Sequence[tuple[str, str]], str], str | None]


def extract_html(response: bytes, max_bytes: int, reserved: Reserved | None) -> Decoded:
    """Return the HTML of an HTTP response (status line, headers, body).

    Raises:
        UnreadableError: the response has no HTML, or `reserved` returns a reason to drop it.
    """
    head, body = _split_head(response)
    for _ in range(_MOST_INTERIM):
        if _INTERIM.match(head) and body:
            head, body = _split_head(body)
    status = _STATUS.match(head)
    if status is None:
        raise UnreadableError("bad_http", "no HTTP status line")
    if status[1] != b"200":
        raise UnreadableError("http_status", f"status {status[1].decode()}")
    # Convert all headers to lower case, because their case has no meaning.
    fields = [line.partition(":") for line in head.decode("latin-1").lower().split("\n")[1:]]
    pairs = [(name.strip(), value.strip()) for name, _, value in fields]
    headers = dict(reversed(pairs))  # if a header is repeated, its first value counts
    # Of several types, separated by commas, the last with a slash counts, as in browsers.
    stated = headers.get("content-type", "text/html")
    types = [part.partition(";")[0].strip(" \t\"'") for part in stated.split(",")]
    media_type = next((t for t in reversed(types) if "/" in t and t != "*/*"), types[0])
    if media_type not in _HTML_TYPES:
        raise UnreadableError("not_html", f"content type {stated}")
    body = _decode_body(body, headers, max_bytes)
    charsets = _CHARSET.findall(stated)
    html = decode(body, charsets[-1] if charsets else "")
    if html is None:
        raise UnreadableError("bad_charset", "its encoding cannot be determined")
    if reserved and (reason := reserved(pairs, html.text)):
        raise UnreadableError(reason, "reserved by its publisher")
    return html


def _split_head(response: bytes) -> tuple[bytes, bytes]:
    blank = _BLANK_LINE.search(response, 0, _MOST_HEADER_BYTES)
    if blank is None and len(response) > _MOST_HEADER_BYTES:
        raise UnreadableError("bad_http", f"headers of more than {_MOST_HEADER_BYTES} bytes")
    return (response[: blank.start()], response[blank.end() :]) if blank else (response, b"")


def _decode_body(body: bytes, headers: dict[str, str], max_bytes: int) -> bytes:
    """Undo transfer and content encodings, up to `max_bytes` of output.

    Many archives contain the decoded body with the original headers (Common Crawl's until July
    2018, its news crawl's until May 2019). As in browsers, a body that does not match its headers
    is used as it is. Bodies in Common Crawl of August 2018 begin with an extra line end.
    """
    body = body.removeprefix(b"\r\n")
    if headers.get("transfer-encoding") == "chunked" and _CHUNK_SIZE.match(body):
        try:
            body = _join_chunks(body)
        except EOFError as error:
            raise UnreadableError("bad_encoding", str(error)) from error
    encoding = headers.get("content-encoding", "")
    if encoding not in ("", "identity"):
        try:
            body = _decompress(body, encoding, max_bytes)
        except (OSError, zlib.error, DamagedStreamError) as error:
            if _BINARY.search(body, 0, _SNIFFED_BYTES):
                raise UnreadableError("bad_encoding", str(error)) from error
    if len(body) > max_bytes:
        raise UnreadableError("too_large", f"more than {max_bytes} bytes once decompressed")
    return body


def _join_chunks(body: bytes) -> bytes:
    """Return the content of a chunked body; raise EOFError if its last, empty chunk is missing."""
    pieces, at = [], 0
    while size := _CHUNK_SIZE.match(body, at):
        at = size.end() + int(size[1], 16)
        if at > len(body):
            break
        if at == size.end():
            return b"".join(pieces)
        pieces.append(body[size.end() : at])
    raise EOFError("a chunk is cut off")


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress all members, up to `max_bytes` + 1 bytes.

    Raise an error of the library, or DamagedStreamError, if the data has no end.
    """
    if encoding == "br":
        return BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
    if encoding not in ("gzip", "x-gzip", "deflate", "zstd"):
        raise OSError(f"content encoding {encoding}")
    compression = detect_compression(body)
    if (encoding == "zstd") != (compression == "zstd"):
        raise OSError(f"it is not {encoding}")
    if compression != "none":
        return _read_members(body, compression, max_bytes)
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        if encoding != "deflate":
            raise
        # Some servers send deflate without a header. Any data may look like the beginning of such a
        # stream, so require its end.
        decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        data = decompressor.decompress(body, max_bytes + 1)
    if not decompressor.eof and len(data) <= max_bytes:
        raise zlib.error("it ends too early")
    return data


def _read_members(body: bytes, compression: Compression, max_bytes: int) -> bytes:
    """Decompress every gzip member or zstd frame; raise DamagedStreamError if one is cut off."""
    stream = DecompressedStream(io.BytesIO(body), compression, max_window=_ZSTD_WINDOW)
    pieces, left = [], max_bytes + 1
    try:
        while left and (piece := stream.read(left)):
            pieces.append(piece)
            left -= len(piece)
    except DamagedStreamError as damaged:
        # Like browsers, ignore bytes after the last member.
        if not damaged.offset or detect_compression(body[damaged.offset :][:4]) == compression:
            raise
    return b"".join(pieces)
