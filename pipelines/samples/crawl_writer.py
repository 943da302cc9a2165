"""Writes a small crawl in Common Crawl's own formats: WET and WARC, one gzip member per record.

The format is WARC 1.0 (ISO 28500:2009) as published by Common Crawl. The bytes depend only on the
pages and their order: dates are fixed, record ids follow from URLs, gzip members have no time.
"""

import base64
import dataclasses
import gzip
import hashlib
import html
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from mswitch.pipelines.outputs import file_sha256

WARC_DATE = "2024-01-01T00:00:00Z"
CRAWL_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:mswitch:sample")
SUFFIXES = {"wet": ".warc.wet.gz", "warc": ".warc.gz"}

GZIP_LEVEL = 6

Format = Literal["wet", "warc"]


@dataclasses.dataclass(frozen=True)
class SamplePage:
    """A page of a sample.

    Attributes:
        url: its address, which also decides its file.
        content: plain text for WET (paragraphs are lines), an HTML document for WARC.
        lang: its language in the source; counted in the manifest, never trusted.
        content_type: the HTTP Content-Type of a WARC response.
    """

    url: str
    content: bytes
    lang: str
    content_type: str = "text/html; charset=utf-8"


def _hash_base32(block: bytes) -> str:
    digest = hashlib.sha1(block, usedforsecurity=False).digest()
    return f"sha1:{base64.b32encode(digest).decode()}"


def _make_record(kind: str, identity: str, headers: dict[str, str], block: bytes) -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Date": WARC_DATE,
        "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(CRAWL_NAMESPACE, identity)}>",
        **headers,
        "WARC-Block-Digest": _hash_base32(block),
        "Content-Length": str(len(block)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    record = b"WARC/1.0\r\n" + head.encode() + b"\r\n" + block + b"\r\n\r\n"
    return gzip.compress(record, GZIP_LEVEL, mtime=0)


def make_wet_record(page: SamplePage) -> bytes:
    """Return a conversion record: the page as extracted text."""
    headers = {"WARC-Target-URI": page.url, "Content-Type": "text/plain"}
    return _make_record("conversion", f"wet {page.url}", headers, page.content)


def make_warc_record(page: SamplePage) -> bytes:
    """Return a response record: the HTTP response with the page."""
    http = (
        "HTTP/1.1 200 OK\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.content)}\r\n\r\n"
    )
    headers = {
        "WARC-Target-URI": page.url,
        "WARC-Payload-Digest": _hash_base32(page.content),
        "WARC-Identified-Payload-Type": "text/html",
        "Content-Type": "application/http; msgtype=response",
    }
    return _make_record("response", f"warc {page.url}", headers, http.encode() + page.content)


def choose_bucket(url: str, buckets: int, salt: str) -> int:
    """Choose one of `buckets` for a URL, by hash."""
    digest = hashlib.sha256(f"{salt}\n{url}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % buckets


def render_html_page(
    title: str, lang: str, direction: str, nav: list[str], paragraphs: list[str]
) -> str:
    """Return an HTML document with usual boilerplate: head, navigation, footer."""
    links = "".join(
        f'<li><a href="/section/{number}">{html.escape(label)}</a></li>'
        for number, label in enumerate(nav)
    )
    body = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    return (
        f'<!DOCTYPE html>\n<html lang="{html.escape(lang)}" dir="{html.escape(direction)}">\n'
        f'<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        "<style>nav li { display: inline }</style>\n"
        "<script>document.documentElement.className = 'js';</script>\n</head>\n<body>\n"
        f"<header><nav><ul>{links}</ul></nav></header>\n"
        f"<main><article>\n<h1>{html.escape(title)}</h1>\n{body}\n</article></main>\n"
        '<footer><a href="/terms">Terms</a> <a href="/contact">Contact</a></footer>\n'
        "</body>\n</html>\n"
    )


class CrawlWriter:
    """Appends pages to files in a directory's `wet/` and `warc/`; a page's URL selects its file."""

    def __init__(self, directory: Path, name: str, files_per_format: int):
        self.directory, self.name, self.files_per_format = directory, name, files_per_format
        self.records = {"wet": 0, "warc": 0}
        self.content_bytes = {"wet": 0, "warc": 0}
        self.pages_by_lang: dict[str, int] = {}
        self._files: dict[tuple[str, int], BinaryIO] = {}

    def _path(self, form: str, number: int) -> Path:
        return self.directory / form / f"{self.name}-{number:05}{SUFFIXES[form]}"

    def __enter__(self) -> Self:
        for form in SUFFIXES:
            (self.directory / form).mkdir(exist_ok=True)
            for number in range(self.files_per_format):
                path = self._path(form, number)
                file = self._files[form, number] = open(path, "wb")
                info = "software: mswitch sample\r\nformat: WARC File Format 1.0\r\n"
                headers = {"WARC-Filename": path.name, "Content-Type": "application/warc-fields"}
                file.write(_make_record("warcinfo", path.name, headers, info.encode()))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, form: Format, page: SamplePage) -> None:
        """Append a page as a WET or WARC record."""
        record = make_wet_record(page) if form == "wet" else make_warc_record(page)
        self._files[form, choose_bucket(page.url, self.files_per_format, "file")].write(record)
        self.records[form] += 1
        self.content_bytes[form] += len(page.content)
        self.pages_by_lang[page.lang] = self.pages_by_lang.get(page.lang, 0) + 1

    def manifest(self) -> dict[str, Any]:
        """Return path, bytes and SHA-256 of the finished files, and the counts of the sample."""
        files = []
        for form, number in sorted(self._files):
            path = self._path(form, number)
            files.append(
                {
                    "path": f"{form}/{path.name}",
                    "bytes": path.stat().st_size,
                    "sha256": file_sha256(path),
                }
            )
        return {
            "files": files,
            "records": dict(self.records),
            "content_bytes": dict(self.content_bytes),
            "pages_by_source_language": dict(sorted(self.pages_by_lang.items())),
        }
