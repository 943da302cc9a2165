"""Turns crawl records into pages of plain text, or into rejections."""

import datetime

from mswitch.pipelines.crawl import dates
from mswitch.pipelines.crawl.charsets import Decoded
from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.html.text import UnreadableError, html_to_text
from mswitch.pipelines.crawl.http_response import Reserved, extract_html
from mswitch.pipelines.crawl.text_lines import is_source, normalize_lines
from mswitch.pipelines.crawl.warc import Damage, Record
from mswitch.pipelines.records import Page, Rejected, reject_record


def parse_timestamp(timestamp: str) -> int | None:
    """Return a WARC-Date in microseconds since 1970 (UTC without a zone), or None if it is invalid.

    The numbers sort like mC4's strings, and correctly with fractions of seconds (WARC 1.1) too.
    """
    if not timestamp.isprintable():  # Python accepts any character between day and time
        return None
    try:
        moment = datetime.datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return dates.to_micros(moment)


def record_to_page(
    record: Record | Damage, file_name: str, reading: Reading, reserved: Reserved | None = None
) -> Page | Rejected:
    """Return the page in a record as plain text, or a rejection.

    `file_name` is the archive's base name. `reading` also limits an HTTP body after decoding.
    `reserved` returns the reason to drop an HTTP response by headers and HTML, or None.
    """
    source, max_bytes = f"{file_name}@{record.offset}", reading.max_record_bytes
    if isinstance(record, Damage):
        return reject_record("damaged", source, record.error)
    if record.kind == "other":
        return reject_record("not_a_page", source)
    url = ""
    html = Decoded("")
    try:
        url = record.url.decode().strip()
        timestamp = record.timestamp.decode().strip()
        record_id = record.record_id.decode().strip()
        if record.payload is None:
            raise UnreadableError("too_large", f"more than {max_bytes} bytes")
        utf8 = record.payload
        if record.kind == "text":
            utf8.decode()
        else:
            html = extract_html(utf8, max_bytes, reserved)
            utf8 = html_to_text(html.text, reading.html_main_content).encode() if html.text else b""
    except UnicodeDecodeError as error:
        return reject_record("bad_utf8", source, str(error), url)
    except UnreadableError as error:
        return reject_record(error.reason, source, str(error), url)
    utf8 = normalize_lines(utf8, reading.drop_metadata_lines)
    micros = parse_timestamp(timestamp)
    for lacks, reason in (
        (not url, "no_url"),
        (not utf8, "no_content"),
        (is_source(utf8), "page_source"),
        (not timestamp, "no_timestamp"),
        (micros is None, "bad_timestamp"),
    ):
        if lacks:
            return reject_record(reason, source, utf8.decode() or timestamp, url)
    assert micros is not None
    return Page(
        url,
        utf8,
        timestamp,
        micros,
        source,
        record_id,
        charset=html.charset,
        declared_charset=html.declared,
    )
