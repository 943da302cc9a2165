"""Makes pages from named fields, for JSONL objects and Parquet rows."""

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines.crawl import dates
from mswitch.pipelines.crawl.columns import LOST, convert_value
from mswitch.pipelines.crawl.fields import (
    STANDARD_FIELDS,
    Reading,
    describe_missing,
    find_value,
    list_field_names,
)
from mswitch.pipelines.crawl.text_lines import is_source, normalize_lines
from mswitch.pipelines.records import Page, Rejected

#: Form of document `id`s in some corpora.
_HASH = re.compile(r"<?(urn:\w+:)?[0-9A-Fa-f-]{16,}>?")
#: Date of pages without a readable date.
UNDATED = dates.format_date(dates.EPOCH)


def make_page_from_fields(row: Mapping[str, Any], source: str, reading: Reading) -> Page | Rejected:
    """Return the page that a row describes, or a rejection.

    Text is required. A row without a URL gets one that names its file and row. The date is the
    first that `parse_date` can parse, in a fixed form; a page without one counts as older than all
    others (1970). A field `dump` that does not name a Common Crawl dump is ignored.

    `row` has values by field; unknown values may be None. `source` is "<file name>@<offset or
    row>".
    """
    fields = reading.fields
    given = next(filter(None, (_find_url(row, path, reading) for path in fields["url"])), "")
    url = given or reading.made_url + urllib.parse.quote(source, safe="@")

    def reject(reason: str, detail: str = "") -> Rejected:
        return Rejected("read", reason, source, given.encode("utf-8", "replace").decode(), detail)

    field, text = _find_first_value(row, fields["text"])
    if not isinstance(text, str):
        wrong = "" if text is None else f"{field} is of type {type(text).__name__}, not text"
        names = list_field_names(row)
        return reject("no_text", describe_missing("text", fields["text"], names, wrong))
    try:
        given.encode()
        utf8 = text.encode()
    except UnicodeEncodeError as error:  # JSON can encode a lone surrogate, such as "\ud83d"
        return reject("lone_surrogate", str(error))
    if len(utf8) > reading.max_record_bytes:
        return reject("too_large", f"more than {reading.max_record_bytes} bytes")
    utf8 = normalize_lines(utf8, reading.drop_metadata_lines)
    if not utf8 or is_source(utf8):
        return reject("page_source" if utf8 else "no_content", utf8.decode())
    values = ((path, find_value(row, path)) for path in fields["timestamp"])
    moments = (
        dates.parse_date(value)
        for path, value in values
        if path.rpartition(".")[2] != "dump" or dates.is_dump(value)
    )
    moment = next(filter(None, moments), dates.EPOCH)
    _, record_id = _find_first_value(row, fields["record_id"])
    timestamp = dates.format_date(moment)
    micros = dates.to_micros(moment)
    page = Page(url, utf8, timestamp, micros, source, _clean(record_id), form=reading.form)
    for column in reading.keep:
        value = find_value(row, column.path)
        page.columns[column.name] = kept = convert_value(value, column.kind)
        if column.path in reading.unread or (kept is None and value is not None):
            page.columns.setdefault(LOST, []).append(column.name)
    return page


def _find_url(row: Mapping[str, Any], path: str, reading: Reading) -> str:
    """Return the URL in a field, or ""; a hash or a row number is not a URL."""
    value = find_value(row, path)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    url = str(value).strip()
    standard = STANDARD_FIELDS["url"]
    if path not in standard or tuple(reading.fields["url"][-len(standard) :]) != standard:
        # This field was chosen as the URL by the user or for a published corpus, so trust it.
        return url
    return "" if _HASH.fullmatch(url) or (path == "id" and "://" not in url) else url


def _find_first_value(row: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, Any]:
    """Return the first field with a value other than "", and the value.

    If there is no such field, return a field with "", or "" and None.
    """
    empty = "", None
    for path in paths:
        value = find_value(row, path)
        if value not in (None, ""):
            return path, value
        if value is not None:
            empty = path, value
    return empty


def _clean(value: Any) -> str:
    """Return a short field as valid text; "" unless it is text or an integer."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).encode("utf-8", "replace").decode().strip()
