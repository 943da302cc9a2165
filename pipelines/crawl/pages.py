"""Reads the pages of an input file in any format."""

from collections.abc import Callable, Iterator

from mswitch.pipelines import storage
from mswitch.pipelines.crawl import json_lines, parquet
from mswitch.pipelines.crawl.arc import read_arc
from mswitch.pipelines.crawl.extract import record_to_page
from mswitch.pipelines.crawl.fields import MADE_URL, Reading
from mswitch.pipelines.crawl.files import CONVERT, UNREAD, CrawlFile, detect_format
from mswitch.pipelines.crawl.http_response import Reserved
from mswitch.pipelines.crawl.warc import Damage, Record, read_archive
from mswitch.pipelines.records import Page, Rejected, reject_record

BLOCKED = "blocked_url"

Blocked = Callable[[str], str | None]


def read_pages(
    file: CrawlFile,
    reading: Reading,
    reserved: Reserved | None = None,
    blocked: Blocked | None = None,
) -> Iterator[Page | Rejected]:
    """Yield a page or a rejection for every record, line or row of a file.

    A remote file is read from a temporary local copy. Memory: two records of the largest size; for
    Parquet also a batch of rows.

    `reserved` (see `record_to_page`) concerns WARC and ARC. `blocked` returns the list that blocks
    a URL, or None; blocked records of archives are not extracted.

    Raises:
        OSError: the file cannot be opened, or the disk cannot be read.
    """
    with storage.fetch(file.path) as path:
        format = file.format or detect_format(path)
        if format in UNREAD:
            yield reject_record(UNREAD[format], f"{file.name}@0", CONVERT.get(format, ""))
            return
        if format in ("jsonl", "parquet"):
            reading = reading._replace(made_url=f"{MADE_URL}{file.digest[:16]}/")
            read = json_lines.read_json_lines if format == "jsonl" else parquet.read_table
            for page in read(str(path), file.name, reading):
                listed = blocked(page.url) if blocked and isinstance(page, Page) else None
                yield reject_blocked_page(listed, page.source, page.url) if listed else page
            return
        read_records = read_arc if format == "arc" else read_archive
        for record in read_records(path, reading.max_record_bytes):
            if blocked and (url := _get_url(record)) and (listed := blocked(url)):
                yield reject_blocked_page(listed, f"{file.name}@{record.offset}", url)
            else:
                yield record_to_page(record, file.name, reading, reserved)


def read_field_kinds(file: CrawlFile, max_record_bytes: int, rows: int = 1) -> dict[str, str]:
    """Return the fields of a JSONL or Parquet file with their kinds; {} for any other file.

    The fields of JSONL are those of its first `rows`. A field without a value has kind "".
    """
    with storage.fetch(file.path) as path:
        format = file.format or detect_format(path)
        if format == "parquet":
            return parquet.read_column_kinds(str(path))
        if format == "jsonl":
            return json_lines.read_field_kinds(str(path), max_record_bytes, rows)
    return {}


def _get_url(record: Record | Damage) -> str:
    """Return a record's URL, or "" if the record cannot contain a page; replace invalid UTF-8."""
    if isinstance(record, Damage) or record.kind == "other":
        return ""
    return record.url.decode("utf-8", "replace").strip()


def reject_blocked_page(listed: str, source: str, url: str) -> Rejected:
    """Return the rejection of a page whose URL is on a blocklist."""
    return reject_record(BLOCKED, source, f"blocked by {listed}", url)
