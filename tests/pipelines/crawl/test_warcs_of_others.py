"""Archives as other programs write them: headers, and bodies that are not what these say."""

import dataclasses
import gzip
import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import crawl_files as crawl
import pytest
import zstandard

from mswitch.pipelines.records import Page

LIMIT = 1 << 20
HTML = "<!DOCTYPE html>\r\n<html><body><p>Grüße aus Köln.\r\n\r\n<p>日本語</body></html>".encode()
TEXT = "Grüße aus Köln.\n日本語"
#: HTML in Brotli, of which Python has no writer.
BROTLI = b"\x8b\x05\x80<p>Hello</p>\x03"
#: Of a window that no browser accepts.
_WIDE = zstandard.ZstdCompressionParameters(window_log=24)
_COMPRESSOR = zstandard.ZstdCompressor(compression_params=_WIDE).compressobj()
WIDE = _COMPRESSOR.compress(HTML) + _COMPRESSOR.flush()
pack, zstd = gzip.compress, zstandard.compress
LONG = "".join(f"<p>Line {i} has {i * i} words.</p>" for i in range(1000)).encode()


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def chunks(data: bytes, size: int = 40) -> bytes:
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


def broken(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"\xff" * 50 + data[middle + 50 :]


def respell(record: bytes, spell: Callable[[bytes], bytes], end: bytes) -> bytes:
    """Spell the names of a record's headers, those of HTTP too, and end their lines otherwise."""
    head, http, body = record.split(b"\r\n\r\n", 2)
    http = re.sub(rb"(?m)^[\w-]+(?=:)", lambda name: spell(name[0]), http).replace(b"\r\n", end)
    block = http + 2 * end + body.removesuffix(b"\r\n\r\n")
    head = re.sub(rb"(Content-Length): \d+", rb"\1: %d" % len(block), head)
    head = re.sub(rb"(?m)^[\w-]+(?=:)", lambda name: spell(name[0]), head)
    return head.replace(b"\r\n", end) + 2 * end + block + 2 * end


def one_by_one(name: bytes) -> bytes:
    return b"".join((c.upper(), c.lower())[i % 2] for i, c in enumerate(map(bytes, zip(name))))


SPELLINGS = {"lower": bytes.lower, "upper": bytes.upper, "mixed": one_by_one, "standard": bytes}


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("every", [1, 3])
def test_headers_in_any_case_and_with_any_line_ends(tmp_path, end, spelling, compress, every):
    records = [
        crawl.response(f"<p>Page {n} <p>has\r\n\r\n two lines.", f"http://a.example/{n}")
        for n in range(20)
    ]
    usual = crawl.write(tmp_path / "a", records, compress=False)
    for n in range(0, 20, every):
        records[n] = respell(records[n], SPELLINGS[spelling], end)
    path = crawl.write(tmp_path / "b", map(compress, records), compress=False)
    for expected, page in zip(crawl.read(usual), crawl.read(path), strict=True):
        assert isinstance(page, Page)
        assert dataclasses.replace(page, source="b") == dataclasses.replace(expected, source="b")


def test_arc_whose_http_headers_are_in_lower_case_and_end_in_lf(tmp_path):
    http = b"HTTP/1.1 200 OK\ncontent-type: text/html\ncontent-encoding: gzip\n\n"
    record = crawl.arc_record(http + gzip.compress(HTML), "HTTP://a.example/")
    path = crawl.write(tmp_path / "a", [crawl.arc_version(), record], compress=False)
    assert crawl.contents(crawl.read(path, LIMIT, False)) == ["not_a_page", TEXT]


def outcome(tmp_path: Path, head: str, body: bytes) -> str:
    """Read a WARC file of one response; return its text, or "dropped: " and the reason."""
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{head}\r\n".encode()
    return read_response(tmp_path, http + body)


def read_response(tmp_path: Path, http: bytes) -> str:
    record = crawl.record(http, "http://a.example/", kind="response")
    [one] = crawl.read(crawl.write(tmp_path / "a.warc.gz", [record]), LIMIT, False)
    return one.text if isinstance(one, Page) else f"dropped: {one.reason}"


@pytest.mark.parametrize(
    "head",
    [
        "Transfer-Encoding: chunked\r\n",
        *(f"Content-Encoding: {name}\r\n" for name in ("gzip", "x-gzip", "deflate", "br", "zstd")),
        "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n",
        # What servers also say, and browsers pass over.
        *(f"Content-Encoding: {name}\r\n" for name in ("utf-8", "none", "gzip, gzip")),
        "X-Crawl-Transfer-Encoding: chunked\r\nX-Crawl-Content-Encoding: gzip\r\n",
    ],
)
def test_a_decoded_body_under_its_old_headers(tmp_path, head):
    assert outcome(tmp_path, head, HTML) == TEXT


@pytest.mark.parametrize(
    ("head", "encode"),
    [
        ("Transfer-Encoding: chunked\r\n", chunks),
        ("Content-Encoding: gzip\r\n", gzip.compress),
        ("Content-Encoding: gzip\r\n", zlib.compress),
        ("Content-Encoding: deflate\r\n", zlib.compress),
        ("Content-Encoding: deflate\r\n", bare),
        ("Content-Encoding: zstd\r\n", zstandard.compress),
        (
            "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n",
            lambda data: chunks(gzip.compress(data)),
        ),
        # Only the chunks undone: some writers do half of it.
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n", gzip.compress),
    ],
)
@pytest.mark.parametrize("extra", [b"", b"\r\n"], ids=["", "CC-MAIN-2018-34"])
def test_an_encoded_body_is_decoded(tmp_path, head, encode, extra):
    head += f"Content-Length: {len(encode(HTML))}\r\n"  # which the other line end is not in
    assert outcome(tmp_path, head, extra + encode(HTML)) == TEXT


LONG_TEXT = "\n".join(f"Line {i} has {i * i} words." for i in range(1000))


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("zstd", zstd)])
@pytest.mark.parametrize("cuts", [[0], [0, 1], [0, 500, 10_000], [*range(0, len(LONG), 3000)]])
@pytest.mark.parametrize("rest", [b"", b"\0" * 20, b"junk"])
def test_all_members_of_an_encoded_body_are_read(tmp_path, encoding, encode, cuts, rest):
    pieces = [LONG[start:stop] for start, stop in zip(cuts, [*cuts[1:], None], strict=True)]
    body = b"".join(map(encode, pieces)) + rest
    assert outcome(tmp_path, f"Content-Encoding: {encoding}\r\n", body) == LONG_TEXT


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        *(("gzip", encode) for encode in (gzip.compress, zlib.compress, lambda d: pack(d) * 2)),
        *(("deflate", encode) for encode in (bare, zlib.compress)),
        *(("zstd", encode) for encode in (zstd, lambda d: zstd(d) * 2)),
        ("br", brotli.compress),
    ],
)
def test_a_body_that_is_cut_off_is_counted(tmp_path, encoding, encode):
    for cut in (1, 4, 10, 200):
        head = f"Content-Encoding: {encoding}\r\n"
        assert outcome(tmp_path, head, encode(LONG)[:-cut]) == "dropped: bad_encoding", cut


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_chunks_with_extensions(tmp_path, end):
    parts = [HTML[i : i + 20] for i in range(0, len(HTML), 20)]
    ends = ["", ";a", ' ; name="quoted value"', ";a=b;c=d"]
    chunked = b"".join(
        f"{len(part):X}{ends[i % 4]}{end}".encode() + part + end.encode()
        for i, part in enumerate(parts)
    )
    for last in (f"0{end}{end}", f"000;last{end}X-Trailer: 1{end}{end}"):
        body = chunked + last.encode()
        assert outcome(tmp_path, "Transfer-Encoding: chunked\r\n", body) == TEXT
    assert outcome(tmp_path, "Transfer-Encoding: chunked\r\n", chunked) == "dropped: bad_encoding"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ('"text/html"', TEXT),
        ("'text/html; charset=utf-8'", TEXT),
        ('"text/html"; charset="utf-8"', TEXT),
        ("text/html, text/html; charset=utf-8", TEXT),
        ("text/html; charset=utf-8, text/html", TEXT),
        ("text/plain, text/html", TEXT),
        ("text/html, application/pdf", "dropped: not_html"),
    ],
)
def test_content_types_in_quotes_and_lists(tmp_path, stated, found):
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {stated}\r\n\r\n".encode() + HTML
    assert read_response(tmp_path, http) == found


def test_a_charset_in_a_list_of_content_types(tmp_path):
    page = "<p>Ein schöner Tag für Äpfel, Öl und Übermut: Straße, Größe, süß.".encode("iso8859-2")
    for stated in (
        "text/html; charset=latin2, text/html",
        "text/html, text/html; charset=latin2",
    ):
        http = f"HTTP/1.1 200 OK\r\nContent-Type: {stated}\r\n\r\n".encode() + page
        assert "schöner" in read_response(tmp_path, http)


@pytest.mark.parametrize("interim", ["100 Continue", "103 Early Hints\r\nLink: </a.css>"])
def test_interim_responses_are_passed_over(tmp_path, interim):
    http = f"HTTP/1.1 {interim}\r\n\r\n".encode()
    final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML
    assert read_response(tmp_path, http * 2 + final) == TEXT
    assert read_response(tmp_path, http) == "dropped: http_status"
    assert read_response(tmp_path, http * 10_000) == "dropped: http_status"


def test_brotli(tmp_path):
    assert outcome(tmp_path, "Content-Encoding: br\r\n", BROTLI) == "Hello"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Transfer-Encoding: chunked\r\n", chunks(HTML)[:60]),
        ("Transfer-Encoding: chunked\r\n", chunks(HTML).replace(b"\r\n28\r\n", b"\r\nxx\r\n")),
        ("Content-Encoding: gzip\r\n", broken(gzip.compress(LONG))),
        ("Content-Encoding: deflate\r\n", broken(zlib.compress(LONG))),
        ("Content-Encoding: deflate\r\n", broken(bare(LONG))),
        ("Content-Encoding: br\r\n", BROTLI[:3] + b"\xff" * 20),
        ("Content-Encoding: zstd\r\n", b"\x28\xb5\x2f\xfd\x04\x00" + HTML),
        ("Content-Encoding: zstd\r\n", WIDE),
    ],
    ids=["cut", "size", "gzip", "zlib", "bare", "brotli", "zstd", "window"],
)
def test_a_body_that_is_damaged_half_way_is_no_text(tmp_path, head, body):
    assert outcome(tmp_path, head, body) == "dropped: bad_encoding"


@pytest.mark.parametrize("encode", [gzip.compress, bare])
def test_a_bomb_stays_in_bounds(tmp_path, encode):
    bomb = encode(b"a" * (100 * LIMIT))
    tracemalloc.start()
    found = outcome(tmp_path, "Content-Encoding: deflate\r\n", bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == "dropped: too_large"
    assert peak < 10 * LIMIT


def test_heads_end_where_they_end(tmp_path):
    """A head of bare line feeds, before a body that has a blank line of CR LF."""
    http = b"HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\n\n" + HTML
    record = crawl.record(http, "http://a.example/", kind="response")
    path = crawl.write(tmp_path / "a.warc.gz", [record])
    assert crawl.contents(crawl.read(path, LIMIT, False)) == [TEXT]


@pytest.mark.parametrize("size", ["7FFFFFFFFFFFFFFF", "FFFFFFFFFFFFFFFF", "FFFFF"])
def test_a_chunk_that_says_it_is_huge(tmp_path, size):
    body = size.encode() + b"\r\n\0abc"
    outcome_of_it = outcome(tmp_path, "Transfer-Encoding: chunked\r\n", body)
    assert outcome_of_it == "dropped: bad_encoding"


@pytest.mark.parametrize(
    "stated",
    [
        "text/html; charset=utf-8,iso-8859-1",
        "text/html,",
        "text/html, charset=utf-8",
        "text/html; charset=utf-8, */*",
        'text/html; title="a, b"',
        "image/png, text/html",
    ],
)
def test_a_list_that_has_the_type_of_html(tmp_path, stated):
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {stated}\r\n\r\n".encode()
    assert read_response(tmp_path, http + HTML) == TEXT
