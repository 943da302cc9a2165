"""ARC files, sound and damaged; section names are of the format of 1996."""

import gzip
import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import crawl_files as crawl
import pytest
import zstandard
from corpus_builds import LENIENT

from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.crawl import arc, decompression
from mswitch.pipelines.crawl.arc import read_arc
from mswitch.pipelines.crawl.warc import Damage
from mswitch.pipelines.records import Page, Rejected

LIMIT = 1 << 16
pack = partial(gzip.compress, mtime=0)
outcomes = partial(crawl.read, max_record_bytes=LIMIT, html_main_content=False)
COMPRESSORS = pytest.mark.parametrize(
    "compress", [bytes, pack, zstandard.ZstdCompressor().compress], ids=["plain", "gzip", "zstd"]
)


def numbered(count: int = 5) -> list[bytes]:
    pages = [crawl.arc_page(f"<p>page {i}", f"http://a.example/{i}") for i in range(count)]
    return [crawl.arc_version(), *pages]


def write(path: Path, records: Iterable[bytes], compress: Callable[[bytes], bytes] = pack) -> Path:
    path.write_bytes(b"".join(map(compress, records)))
    return path


def texts(path: Path) -> list[str]:
    return crawl.contents(outcomes(path))


@COMPRESSORS
def test_pages_with_url_date_and_offset(tmp_path, compress):
    records = [*numbered(2), crawl.arc_record("192.0.2.7", "dns:a.example")]
    path = write(tmp_path / "misnamed.warc", records, compress)
    version, page, _, dns = outcomes(path)
    assert (page.url, page.text, page.record_id) == ("http://a.example/0", "page 0", "")
    assert page.timestamp == "2010-01-07T06:59:32Z"
    assert page.source == f"misnamed.warc@{len(compress(records[0]))}"
    assert [one.reason for one in (version, dns) if isinstance(one, Rejected)] == ["not_a_page"] * 2


@pytest.mark.parametrize(
    ("owner", "line"),
    [
        ("1 0 X", "http://a.example/b c?d=20100107 1.2.3.4 20090102030405 text/html {}"),
        ("1 1 X", "http://a.example/b c?d=20100107 ::1 20090102030405 text/html; charset=utf-8 {}"),
        ("1 0 X", "http://a.example/b c?d=20100107 0.0.0.0 20090102030405 no-type {}"),
        ("1 0 X", "http://a.example/b c?d=20100107 0.0.0.0 20090102030405  {}\r"),
        ("2 0 X", "http://a.example/b c?d=20100107 - 20090102030405 t 200 - - 76 a 1.arc.gz {}"),
    ],
)
def test_fields_are_told_by_their_form(tmp_path, owner, line):
    """Where warcio's shift: content types with a space in them, lines of version 2."""
    body = b"HTTP/1.0 200 OK\nContent-Type: text/html\n\n<p>text"
    record = line.format(len(body)).encode() + b"\n" + body
    path = write(tmp_path / "a.arc.gz", [crawl.arc_version(owner.encode()), record + b"\n"])
    _, page = outcomes(path)
    assert page.url == "http://a.example/b c?d=20100107"
    assert (page.timestamp, page.text) == ("2009-01-02T03:04:05Z", "text")


def test_a_body_that_was_decoded_under_its_old_headers(tmp_path):
    """As Common Crawl wrote it from 2008 to 2012."""
    http = b"HTTP/1.1 200 OK\r\nContent-Encoding:gzip\r\nTransfer-Encoding:chunked\r\n\r\n<p>text"
    path = write(tmp_path / "a", [crawl.arc_version(), crawl.arc_record(http, "http://a.example/")])
    assert texts(path) == ["not_a_page", "text"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (crawl.arc_page("<p>a", "http://a.example/", date="20101301000000"), "bad_timestamp"),
        (crawl.arc_record("<p>no HTTP headers", "http://a.example/"), "bad_http"),
        (crawl.arc_page("<p>" + "a" * LIMIT, "http://a.example/"), "too_large"),
        (crawl.arc_page("<p>a", "ftp://a.example/"), "not_a_page"),
    ],
)
def test_drops(tmp_path, record, reason):
    assert texts(write(tmp_path / "a", [*numbered(1), record])) == ["not_a_page", "page 0", reason]


@pytest.mark.parametrize("between", [b"", b"\n\n\r\n"])
@pytest.mark.parametrize("compress", [bytes, pack])
def test_records_without_and_with_lines_between_them_in_one_member(tmp_path, compress, between):
    whole = between.join(record.removesuffix(b"\n") for record in numbered())
    path = write(tmp_path / "a", [whole], compress)
    assert texts(path) == ["not_a_page", *(f"page {i}" for i in range(5))]


@COMPRESSORS
@pytest.mark.parametrize("claim", [0, 7, 80, 200, 10**6, 10**17, "x", "-1", "1" * 5000])
def test_a_wrong_length_loses_no_other_record(tmp_path, compress, claim):
    records = numbered()
    records[2] = crawl.arc_page("<p>liar " * 10, "http://a.example/", length=claim)
    path = write(tmp_path / "a", records, compress)
    assert texts(path) == ["not_a_page", "page 0", "damaged", "page 2", "page 3", "page 4"]
    damage = outcomes(path)[2]
    assert damage.source == f"a@{len(b''.join(map(compress, records[:2])))}"


PLACES = [slice(0, 2), slice(30, 60), slice(-8, -7), slice(-1, None)]


# A file whose very first bytes are damaged has no format.
@pytest.mark.parametrize(("number", "place"), [*product([2, 5], PLACES), *product([0], PLACES[1:])])
def test_a_corrupt_member_costs_only_itself(tmp_path, place, number):
    """In its magic number, its data, or its checksum; the first, a middle and the last one."""
    parts = [bytearray(pack(one)) for one in numbered()]
    parts[number][place] = bytes(byte ^ 0xFF for byte in parts[number][place])
    path = write(tmp_path / "a", parts, bytes)
    expected = ["not_a_page", *(f"page {i}" for i in range(5))]
    expected[number] = "damaged"
    found = outcomes(path)
    assert crawl.contents(found) == expected
    assert found[number].source == f"a@{len(b''.join(parts[:number]))}"


@pytest.mark.parametrize("cut", [1, 3, 12, 20, 40, 100, -5, -2])
@COMPRESSORS
def test_a_truncated_last_record(tmp_path, compress, cut):
    *sound, last = map(compress, numbered())
    found = texts(write(tmp_path / "a", [*sound, last[:cut]], bytes))
    assert found[:5] == ["not_a_page", *(f"page {i}" for i in range(4))]
    assert found[5:] == ["damaged"]


def test_lines_in_a_page_that_look_like_a_record_are_text(tmp_path):
    forged = crawl.arc_page("<p>forged", "http://victim.example/").decode()
    for compress in (bytes, pack):
        records = [*numbered(1), crawl.arc_page(f"<p>a\n{forged}\n", "http://a.example/")]
        path = write(tmp_path / "a", records, compress)
        assert [page.url for page in outcomes(path) if isinstance(page, Page)] == [
            "http://a.example/0",
            "http://a.example/",
        ]


@pytest.mark.timeout(60)  # in quadratic time, hours
@pytest.mark.parametrize("compress", [bytes, pack])
def test_many_wrong_lengths(tmp_path, monkeypatch, compress):
    """Each claims those after it; after a time, what it claims is passed over."""
    monkeypatch.setattr(arc, "_RETRY_BYTES", 1 << 20)
    liar = crawl.arc_page("liar", "http://a.example/", length=LIMIT - 7)
    path = write(tmp_path / "a", [crawl.arc_version() + liar * 20_000, *numbered()], compress)
    found = list(read_arc(path, LIMIT))
    last = found[-1]
    assert last.url == b"http://a.example/4"
    assert sum(isinstance(one, Damage) for one in found) < 1000


@pytest.mark.timeout(60)
def test_many_starts_of_members(tmp_path, monkeypatch):
    """Every few bytes one that fails after 60 kB; after a time, what it holds is passed over."""
    monkeypatch.setattr(decompression, "_RETRY_COST_BYTES", 1 << 24)
    start = pack(b"")[:10] + b"\0" + struct.pack("<HH", 60_000, 5_535) + b"http://a.org/ \xff\xff"
    path = write(tmp_path / "a", [start * 100_000, *map(pack, numbered(2000))], bytes)
    found = list(read_arc(path, LIMIT))
    last = found[-1]
    assert last.url == b"http://a.example/1999"
    assert sum(isinstance(one, Damage) for one in found) < 200


def test_an_arc_file_among_warc_files(tmp_path):
    pages = [
        "".join(f"<p>{line}</p>" for line in crawl.prose(crawl.ENGLISH, seed, 6).split("\n"))
        for seed in (4, 5)
    ]
    inputs = [
        write(tmp_path / "a.gz", [crawl.arc_version(), crawl.arc_page(pages[0], "http://a.org/")]),
        crawl.write(tmp_path / "b.gz", [crawl.response(pages[1], "http://b.org/")]),
    ]
    summary = build_corpus([*map(str, inputs)], tmp_path / "corpus", LENIENT)
    assert summary["documents"] == 2
    assert summary["unread_inputs"] == {}
