"""Writes small crawl archives, byte by byte, so that tests can damage them where they like.

And reads what comes out of them.
"""

import gzip
from collections.abc import Iterable
from pathlib import Path

from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.files import CrawlFile, find_crawl_files
from mswitch.pipelines.crawl.pages import read_pages
from mswitch.pipelines.records import Page, Rejected

DATE = "2024-03-01T12:00:00Z"
LATER = "2025-01-01T00:00:00Z"
NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas"]
GERMAN = (
    "{0} ging am Morgen mit {1} durch den alten Garten und sprach über die Ernte des Jahres {2}.",
    "Am Abend saßen {0} und {1} vor dem Haus und erzählten den Kindern lange Geschichten von {2}.",
)
ENGLISH = (
    "In the morning {0} walked with {1} through the old garden and talked about the year {2}.",
    "In the evening {0} and {1} sat in front of the house and told the children stories of {2}.",
)


def prose(sentences: tuple[str, ...], seed: int, lines: int = 3) -> str:
    """Lines of a language that no other seed has."""
    return "\n".join(
        sentences[i % 2].format(NAMES[seed % 10], NAMES[(seed // 10 + i) % 10], 1000 * seed + i)
        for i in range(lines)
    )


def record(
    body: bytes | str,
    url: str | bytes | None,
    *,
    kind: str = "conversion",
    date: str | None = DATE,
    record_id: str | None = None,
    length: int | str | None = None,
    extra: bytes = b"",
) -> bytes:
    """One WARC record; `length` is what it claims."""
    body = body.encode() if isinstance(body, str) else body
    head = b"WARC/1.0\r\nWARC-Type: " + kind.encode() + b"\r\n"
    if url is not None:
        head += b"WARC-Target-URI: " + (url.encode() if isinstance(url, str) else url) + b"\r\n"
    if date is not None:
        head += f"WARC-Date: {date}\r\n".encode()
    if record_id is None:
        record_id = f"<urn:uuid:{hash_of(url, body)}>"
    head += f"WARC-Record-ID: {record_id}\r\n".encode() + extra
    claimed = str(len(body) if length is None else length).encode()
    return head + b"Content-Length: " + claimed + b"\r\n\r\n" + body + b"\r\n\r\n"


def pages(
    sentences: tuple[str, ...], seeds: Iterable[int], host: str, lines: int = 3
) -> list[bytes]:
    """A record of prose for each seed, whose URL ends with it."""
    return [record(prose(sentences, seed, lines), f"http://{host}/{seed}") for seed in seeds]


def hash_of(url: str | bytes | None, body: bytes) -> str:
    import hashlib

    return hashlib.md5(repr(url).encode() + body).hexdigest()


def response(
    html: bytes | str,
    url: str,
    *,
    status: str = "200 OK",
    headers: str = "Content-Type: text/html; charset=utf-8",
    date: str = DATE,
) -> bytes:
    """One HTTP response record, as in a WARC file."""
    html = html.encode() if isinstance(html, str) else html
    http = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".replace("\r\n\r\n\r\n", "\r\n\r\n")
    return record(http.encode() + html, url, kind="response", date=date)


def read(
    file: CrawlFile | Path, max_record_bytes: int = 1 << 20, html_main_content: bool = True
) -> list[Page | Rejected]:
    """What a file gives; of a path, which has to be one of ours."""
    if isinstance(file, Path):
        [file] = find_crawl_files([str(file)])
    reading = Reading(max_record_bytes, html_main_content=html_main_content)
    return list(read_pages(file, reading))


def contents(found: Iterable[Page | Rejected]) -> list[str]:
    """Texts of pages and reasons of drops, in order."""
    return [one.text if isinstance(one, Page) else one.reason for one in found]


def reasons(found: Iterable[Page | Rejected]) -> list[str]:
    return [one.reason if isinstance(one, Rejected) else "" for one in found]


def warcinfo() -> bytes:
    return record(b"software: test\r\n", None, kind="warcinfo")


def members(records: Iterable[bytes]) -> list[bytes]:
    """Each record as one gzip member, as Common Crawl stores them."""
    return [gzip.compress(one, mtime=0) for one in records]


def dump(name: str, first: int) -> dict[str, bytes]:
    """A dump of Common Crawl, of one WET file with four German pages, as its server has it."""
    path = f"crawl-data/{name}/segments/0/wet/CC-00000.warc.wet.gz"
    pages = [record(prose(GERMAN, first + i), f"http://{name}.de/{i}") for i in range(4)]
    paths = gzip.compress(f"{path}\n".encode())
    return {f"/{path}": b"".join(members(pages)), f"/crawl-data/{name}/wet.paths.gz": paths}


def write(path: Path, records: Iterable[bytes], *, compress: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members(records) if compress else records))
    return path


def write_all(folder: Path, crawls: Iterable[Iterable[bytes]]) -> list[Path]:
    """A WET file for each list of records, named by its number."""
    return [write(folder / f"{n}.warc.wet.gz", records) for n, records in enumerate(crawls)]


def dictionary_frame(content: bytes) -> bytes:
    """A frame of Zstandard that has a dictionary for those after it."""
    return b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def arc_version(owner: bytes = b"1 0 Test") -> bytes:
    """The record that an ARC file begins with."""
    fields = b"URL IP-address Archive-date Content-type Archive-length\n"
    return arc_record(owner + b"\n" + fields, "filedesc://a.arc", content_type="text/plain")


def arc_record(
    body: bytes | str,
    url: str,
    *,
    date: str = "20100107065932",
    content_type: str = "text/html",
    length: int | str | None = None,
) -> bytes:
    """One ARC record, with the newline after it; `length` is what it claims."""
    body = body.encode() if isinstance(body, str) else body
    claimed = len(body) if length is None else length
    return f"{url} 192.0.2.1 {date} {content_type} {claimed}\n".encode() + body + b"\n"


def arc_page(html: str, url: str, **fields: str | int) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}"
    return arc_record(http, url, **fields)  # pyright: ignore[reportArgumentType]
