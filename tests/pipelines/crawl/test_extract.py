import time

import pytest

from mswitch.pipelines.crawl.extract import parse_timestamp, record_to_page
from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.html.text import (
    UnreadableError,
    html_to_text,
)
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.crawl.warc import Damage, Record
from mswitch.pipelines.records import Page, Rejected

PROSE = "In the morning Anna walked through the old garden and talked about the long year."
HTML = "<html><head><title>T</title><script>x()</script></head><body>{}</body></html>"


def http(body: bytes, head: str = "HTTP/1.1 200 OK\r\nContent-Type: text/html") -> Record:
    payload = head.encode() + b"\r\n\r\n" + body
    return Record(7, "http", b"http://a.example/", b"2024-01-01T00:00:00Z", b"<id>", payload)


def wet(payload: bytes | None = b"text", **changes: bytes) -> Record:
    fields = {"url": b"http://a.example/", "timestamp": b"2024-01-01T00:00:00Z", **changes}
    return Record(7, "text", fields["url"], fields["timestamp"], b"<id>", payload)


def reason(record: Record | Damage) -> str | None:
    page = record_to_page(record, "f.gz", Reading())
    return page.reason if isinstance(page, Rejected) else None


MARKUP = "".join(f'<li class="item"><a href="/page/{n}">Page {n}</a></li>\n' for n in range(20))
STYLE = "".join(f".item-number-{n} .title\n{{\nfont-family: sans-serif;\n}}\n" for n in range(20))
SCRIPT = "".join(f"function go{n}(id) {{ var a = {n}; a == id; }}\n" for n in range(20))


@pytest.mark.parametrize(
    "record",
    [
        http(f"<plaintext>{MARKUP}".encode()),
        http(f"<p>{MARKUP.replace('<', '&lt;').replace('>', '&gt;')}".encode()),
        http(SCRIPT.encode()),
        wet(MARKUP.encode()),
        wet(SCRIPT.encode()),
        wet(STYLE.encode()),
    ],
)
def test_the_source_of_a_page_is_no_text(record):
    dropped = record_to_page(record, "f.gz", Reading())
    assert (dropped.reason, dropped.url) == ("page_source", "http://a.example/")


@pytest.mark.parametrize(
    "text",
    [
        # Little of it is text of a program.
        f"{PROSE * 16}\n{MARKUP[:400]}",
        "a < b; c = {d};",
        # Greek questions.
        "".join(f"Πού είναι ο κήπος {n};\n" for n in range(30)),
        # A mail that quotes others, and rules under headings.
        f">> {PROSE}\n> {PROSE}\n" * 8,
        f"Heading\n{'=' * 40}\n{PROSE}",
    ],
)
def test_text_with_some_source_is_text(text):
    assert reason(wet(text.encode())) is None


def test_page_of_a_wet_record():
    page = record_to_page(wet(b"  one \r\n\r\n two\rthree\n\n"), "f.gz", Reading())
    assert page == Page(
        "http://a.example/",
        b"one\ntwo\nthree",
        "2024-01-01T00:00:00Z",
        1704067200000000,
        "f.gz@7",
        "<id>",
    )


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Damage(7, "torn"), "damaged"),
        (Record(7, "other", b"", b"", b"", None), "not_a_page"),
        (wet(None), "too_large"),
        (wet(b"caf\xe9"), "bad_utf8"),
        (wet(url=b"http://\xff"), "bad_utf8"),
        (wet(url=b""), "no_url"),
        (wet(b" \n\t\n"), "no_content"),
        (wet(timestamp=b""), "no_timestamp"),
        (wet(timestamp=b"now"), "bad_timestamp"),
        (wet(timestamp=b"2020-01-01\x1b10:00:00"), "bad_timestamp"),
        (http(b"<p>x", "HTTP/1.1 404 Not Found"), "http_status"),
        (http(b"<p>x", "nonsense"), "bad_http"),
        (http(b"x", "HTTP/1.1 200 OK\r\nContent-Type: application/pdf"), "not_html"),
        (http(b"\x1f\x8bx", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip"), "bad_encoding"),
        (http(b"]\0\0x", "HTTP/1.1 200 OK\r\nContent-Encoding: lzma"), "bad_encoding"),
        (http(b""), "no_content"),
    ],
)
def test_reasons(record, expected):
    page = record_to_page(record, "f.gz", Reading())
    assert (page.reason, page.source, page.stage) == (expected, "f.gz@7", "read")


def test_timestamps_compare():
    in_order = [
        "2023-12-31",
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.5Z",
        "2024-01-01T00:00:01Z",
    ]
    micros = [parse_timestamp(one) for one in in_order]
    assert None not in micros
    assert micros == sorted(set(micros), key=lambda value: value or 0)
    assert parse_timestamp("") is None


def test_what_of_a_page_is_text():
    html = HTML.format(
        "<nav><ul><li><a href=/>Home</a></ul></nav><main><h1>Head</h1><p>First <b>bold</b>.<br>Next"
        "<p>Last<img alt=picture src=x></main><footer>Imprint</footer>"
    )
    assert normalize_lines(html_to_text(html).encode()) == b"Head\nFirst bold.\nNext\nLast"
    everything = normalize_lines(html_to_text(html, main_content=False).encode()).decode()
    assert {"Home", "Imprint"} <= set(everything.split("\n"))
    assert "x()" not in everything


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<div>" * 200_000, "nested_too_deeply"),
        ('<svg><![CDATA[ > <z w=" ]]><p>', "nested_too_deeply"),
        ("<div " + " ".join(f"a{i}" for i in range(200_000)), "too_many_attributes"),
    ],
)
def test_pages_that_would_take_minutes(html, expected):
    html_to_text("<i>" * 1000)  # compiles what looks at pages
    began = time.monotonic()
    with pytest.raises(UnreadableError) as error:
        html_to_text(html)
    assert error.value.reason == expected
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "html",
    [
        *("<a" * 10**6, "<" * 10**6, '<a b="' * 1000, "<a " + "=" * 10**6),
        "<b a='" + "<i>" * 200_000,
    ],
)
def test_odd_pages_are_quick(html):
    began = time.monotonic()
    html_to_text(html)
    assert time.monotonic() - began < 10


def test_formatting_that_is_closed_is_kept():
    cells = "".join(f"<tr><td><font color={i}>cell</font><b class=x>" for i in range(500))
    html = HTML.format("<font size=1><B CLASS=y><table>" + cells + "</table></b></font>")
    assert html_to_text(html, main_content=False).count("cell") == 500


def test_long_ordinary_page_is_kept():
    html = HTML.format("<table>" + "<tr><td class=a>cell<td>cell" * 5000 + "</table>")
    assert html_to_text(html, main_content=False).count("cell") == 10_000


def test_surrogates_never_travel():
    page = record_to_page(http(b"<p>a&#xD800;b and more text</p>"), "f", Reading())
    page.text.encode()
