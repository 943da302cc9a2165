from typing import Any

import pytest
from crawl_files import reasons

from mswitch.pipelines.crawl.fields import Reading, map_fields
from mswitch.pipelines.crawl.rows import UNDATED, make_page_from_fields
from mswitch.pipelines.records import Page, Rejected


def page(mapped: tuple[str, ...] = (), **fields: Any) -> Page | Rejected:
    given = {"text": "t", "url": "u", **fields}
    return make_page_from_fields(given, "f@1", Reading(100, fields=map_fields(mapped)))


@pytest.mark.parametrize(
    ("fields", "url", "record_id"),
    [
        ({"url": "u", "id": "i", "metadata": {"url": "m"}}, "u", "i"),
        ({"url": None, "id": "i", "metadata": {"url": "m"}}, "m", "i"),
        ({"url": "", "id": "http://i/", "metadata": None}, "http://i/", "http://i/"),
        ({"url": "u", "id": "i", "record_id": "r"}, "u", "r"),
        ({"url": " u\n", "id": 7}, "u", "7"),
        ({"url": "u", "id": None}, "u", ""),
        ({"url": "u", "id": ["i"]}, "u", ""),
    ],
)
def test_where_url_and_record_id_come_from(fields, url, record_id):
    found = page(**fields)
    assert (found.url, found.record_id) == (url, record_id)


HASHES = ["<urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e>", "d41d8cd98f00b204e9800998ecf8427e", 7]


@pytest.mark.parametrize("value", [*HASHES, None, "", ["u"], {"a": 1}, True])
@pytest.mark.parametrize("field", ["url", "id"])
def test_a_row_without_a_url_gets_one_and_a_hash_is_none(field, value):
    fields = {"url": None, field: value}
    found = page(**fields)
    assert found.url == ("7" if (field, value) == ("url", 7) else "file:///made/f@1")
    assert page(("url=id",), **{**fields, "id": "doc-7"}).url == "doc-7"


def test_html_where_text_belongs():
    dropped = page(text="<p class=a>b</p>" * 6)
    assert dropped.reason == "page_source"
    assert dropped.detail.startswith("<p class=a>b</p>")


@pytest.mark.parametrize(
    ("fields", "timestamp"),
    [
        ({"timestamp": "2024-01-02T03:04:05Z", "date": 0}, "2024-01-02T03:04:05Z"),
        ({"timestamp": None, "date": "2020-01-01"}, "2020-01-01T00:00:00Z"),
        ({"timestamp": "", "metadata": {"date": 20200101, "dump": ""}}, "2020-01-01T00:00:00Z"),
        ({"dump": "CC-MAIN-2024-10"}, "2024-03-04T00:00:00Z"),
        ({"metadata": {"dump": "CC-MAIN-2013-20"}}, "2013-05-13T00:00:00Z"),
        ({"dump": "somebody's"}, "1970-01-01T00:00:00Z"),
        ({"timestamp": "5.1.2024", "date": "2020-01-01"}, "2020-01-01T00:00:00Z"),
        ({}, "1970-01-01T00:00:00Z"),
    ],
)
def test_where_the_date_comes_from(fields, timestamp):
    found = page(**fields)
    assert found.timestamp == timestamp


@pytest.mark.parametrize(
    "value",
    ["yesterday", "5.1.2024", 1e300, float("nan"), -(10**30), True, ["2020"], "2020-13-01"],
)
@pytest.mark.parametrize("field", ["date", "dump"])
def test_a_page_whose_date_is_not_understood_is_undated(field, value):
    found = page(**{field: value})
    assert (found.timestamp, found.timestamp_micros) == (UNDATED, 0)


@pytest.mark.parametrize(
    ("text", "fits"), [("a" * 100, True), ("a" * 101, False), ("ä" * 51, False)]
)
def test_the_limit_counts_bytes(text, fits):
    assert reasons([page(text=text)]) == ["" if fits else "too_large"]


def test_lines_are_normalised_as_in_other_formats():
    found = page(text="  one \r\n\r\nWARC/1.0\n two")
    assert found.text == "one\ntwo"


def test_fields_of_other_names():
    mapped = ("text=content", "text=body", "url=meta.link", "timestamp=day", "record_id=n.i")
    row = {"content": None, "body": "b", "meta": {"link": "l"}, "day": 20240105, "n": {"i": 7}}
    found = page(mapped, **row, timestamp="2020-01-01", record_id="other")
    assert (found.text, found.url, found.record_id) == ("b", "l", "7")
    assert found.timestamp == "2024-01-05T00:00:00Z"
    only_theirs = page(("timestamp=day",), timestamp="2020-01-01")
    assert only_theirs.timestamp == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        (
            {"text": None, "content": "c", "meta": {"link": "l", "n": 1}},
            "no_text",
            "no text: map a field with --field text=NAME; "
            "the fields are text, url, content, meta.link, meta.n",
        ),
        (
            {"text": ["a", "b"], "url": 7},
            "no_text",
            "text is of type list, not text: map a field with --field text=NAME; the fields are",
        ),
    ],
)
def test_a_rejection_names_the_fields_and_the_option(fields, reason, detail):
    found = page(**fields)
    assert found.reason == reason
    assert found.detail.startswith(detail)
