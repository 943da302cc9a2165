"""A page from named fields: what JSONL objects and Parquet rows have in common."""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from pipelines.crawl.extract import parse_timestamp
from pipelines.crawl.text_lines import normalize_lines
from pipelines.records import Page, Rejected

TEXT_FIELD = "text"
URL_FIELDS = ("url", "id")
RECORD_ID_FIELDS = ("record_id", "id")
TIMESTAMP_FIELDS = ("timestamp", "date", "dump")
#: Fields that may also lie in the object `metadata`, as datatrove writes them.
METADATA_FIELD = "metadata"
METADATA_FIELDS = ("url", *TIMESTAMP_FIELDS)
#: A page without any date: every dated page of its URL is newer.
UNDATED = "1970-01-01T00:00:00Z"

_DUMP = re.compile(r"CC-MAIN-(\d{4})-(\d{2})")


def page_from_fields(
    fields: Mapping[str, Any], source: str, *, max_bytes: int, drop_metadata_lines: bool
) -> Page | Rejected:
    """Return the page that a row describes, or the reason that there is none.

    `text` is required. The URL is `url`, else `metadata.url`, else `id`. The date is the first of
    `timestamp`, `date` and `dump`, each also in `metadata`: an ISO 8601 string, a datetime,
    seconds since 1970, or the name of a Common Crawl dump, which stands for the Monday of its
    week; a page without any counts as older than all others (1970). The record id is
    `record_id`, else `id`. Other fields are ignored.

    Args:
        fields: what the row holds; unknown values may be None.
        source: "<file name>@<offset or row>", for the page.
        max_bytes: limit on the text.
        drop_metadata_lines: see `CorpusConfig`.
    """
    url = ""

    def rejected(reason: str, detail: str = "") -> Rejected:
        return Rejected("read", reason, source, url, detail)

    metadata = fields.get(METADATA_FIELD)
    inner: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    address = fields.get("url") or inner.get("url") or fields.get("id")
    url = _clean(address)
    text = fields.get(TEXT_FIELD)
    if not isinstance(text, str):
        return rejected("no_text", f"the fields are {', '.join(map(str, fields))}")
    try:
        str(address).encode()
        utf8 = text.encode()
    except UnicodeEncodeError as error:  # JSON can name half a character, as "\ud83d"
        return rejected("lone_surrogate", str(error))
    if len(utf8) > max_bytes:
        return rejected("too_large", f"more than {max_bytes} bytes")
    utf8 = normalize_lines(utf8, drop_metadata_lines)
    if not (url and utf8):
        return rejected("no_content" if url else "no_url", utf8.decode())
    timestamp = _timestamp(fields, inner)
    micros = parse_timestamp(timestamp)
    if micros is None:
        return rejected("bad_timestamp", timestamp)
    record_id = _clean(fields.get("record_id") or fields.get("id"))
    return Page(url, utf8, timestamp, micros, source, record_id)


def _clean(value: Any) -> str:
    """A short field as valid text; what is neither text nor an integer counts as absent."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).encode("utf-8", "replace").decode().strip()


def _timestamp(fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    for name in TIMESTAMP_FIELDS:
        for place in (fields, metadata):
            value = place.get(name)
            if value is None or value == "":
                continue
            if name != "dump":
                return _moment(value)
            if isinstance(value, str) and (dump := _DUMP.fullmatch(value.strip())):
                return _monday(int(dump[1]), int(dump[2]))
    return UNDATED


def _moment(value: Any) -> str:
    """Write a date as an ISO string; what is none comes back as text, to be rejected."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = datetime.datetime.fromtimestamp(value, datetime.UTC)
        except (OverflowError, ValueError, OSError):
            return str(value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return f"{value.isoformat()}Z"
    if isinstance(value, datetime.date):
        return f"{value.isoformat()}T00:00:00Z"
    return _clean(value) or repr(value)


def _monday(year: int, week: int) -> str:
    try:
        return _moment(datetime.date.fromisocalendar(year, week, 1))
    except ValueError:
        return f"{year}-{week}"
