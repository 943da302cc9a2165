"""The HTML of an HTTP response, with its transfer and content encodings undone."""

import io
import re
import zlib
from collections.abc import Callable, Sequence

import zstandard
from fastwarc.stream_io import BrotliReader, ChunkedReader

from mswitch.pipelines.crawl.charsets import Decoded, decode
from mswitch.pipelines.crawl.html.text import UnreadableError

_STATUS = re.compile(rb"HTTP/\S+ +(\d{3})")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
#: What a chunked body begins with; an extension may follow the size.
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+[ \t]*(?:;[^\r\n]*)?\r?\n")
#: What text has none of among its first bytes, and whatever is compressed has (WHATWG: MIME
#: Sniffing, "binary data byte").
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_SNIFFED_BYTES = 1445
#: The largest that HTTP allows (RFC 9659).
_ZSTD_WINDOW = 8 << 20
_HTML_TYPES = ("text/html", "application/xhtml+xml")

#: Takes the headers and the HTML of a response; names why it must not be used, or None.
Reserved = Callable[[Sequence[tuple[str, str]], str], str | None]


def html_of(response: bytes, max_bytes: int, reserved: Reserved | None) -> Decoded:
    """Return the HTML of an HTTP response (status line, headers, body).

    Raises:
        UnreadableError: it has none, or `reserved` gives a reason to drop it.
    """
    head, *rest = _BLANK_LINE.split(response, maxsplit=1)
    body = rest[0] if rest else b""
    status = _STATUS.match(head)
    if status is None:
        raise UnreadableError("bad_http", "no HTTP status line")
    if status[1] != b"200":
        raise UnreadableError("http_status", f"status {status[1].decode()}")
    # Of what is read here, nothing has a case.
    fields = [line.partition(":") for line in head.decode("latin-1").lower().split("\n")[1:]]
    pairs = [(name.strip(), value.strip()) for name, _, value in fields]
    headers = dict(reversed(pairs))  # of a repeated name, the first
    media_type, _, parameters = headers.get("content-type", "text/html").partition(";")
    if media_type.strip() not in _HTML_TYPES:
        raise UnreadableError("not_html", f"content type {media_type}")
    body = _decode_body(body, headers, max_bytes)
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters)
    html = decode(body, charset[1] if charset else "")
    if html is None:
        raise UnreadableError("bad_charset", "its encoding cannot be determined")
    if reserved and (reason := reserved(pairs, html.text)):
        raise UnreadableError(reason, "reserved by its publisher")
    return html


def _decode_body(body: bytes, headers: dict[str, str], max_bytes: int) -> bytes:
    """Undo transfer and content encodings, up to `max_bytes`.

    Many archives hold the decoded body under the original headers (Common Crawl's until July
    2018, its news crawl's until May 2019): as in browsers, a body that is not what they say is
    taken as it is. Common Crawl's of August 2018 begin with another line end.
    """
    body = body.removeprefix(b"\r\n")
    if headers.get("transfer-encoding") == "chunked" and _CHUNK_SIZE.match(body):
        try:
            body = ChunkedReader(io.BytesIO(body)).read(max_bytes + 1)
        except OSError as error:
            raise UnreadableError("bad_encoding", str(error)) from error
    encoding = headers.get("content-encoding", "")
    if encoding not in ("", "identity"):
        try:
            body = _decompressed(body, encoding, max_bytes)
        except (OSError, zlib.error, zstandard.ZstdError) as error:
            if _BINARY.search(body, 0, _SNIFFED_BYTES):
                raise UnreadableError("bad_encoding", str(error)) from error
    if len(body) > max_bytes:
        raise UnreadableError("too_large", f"more than {max_bytes} bytes once decompressed")
    return body


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress, to one byte more than `max_bytes` at most; fails as its library does."""
    if encoding == "br":
        return BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
    if encoding == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return decompressor.stream_reader(body).read(max_bytes + 1)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise OSError(f"content encoding {encoding}")
    # 47: gzip or zlib by its header.
    decompressor = zlib.decompressobj(wbits=47)
    try:
        found = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        if encoding != "deflate":
            raise
        # Some servers send it bare. Its beginning proves nothing, so it has to come to an end.
        decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        found = decompressor.decompress(body, max_bytes + 1)
        if not decompressor.eof and len(found) <= max_bytes:
            raise
    if not found and not decompressor.eof:
        raise zlib.error("nothing to decompress")
    return found
