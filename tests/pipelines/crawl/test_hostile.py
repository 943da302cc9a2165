"""Input made to hurt: each case ends as counted drops, in a child of bounded memory."""

import collections
import gzip
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import crawl_files as crawl
import pytest
import zstandard

#: Far more than may be held.
HUGE = 1 << 28
#: Over what the imports take: two records of the largest size, and their text.
LIMIT_KIB = 200 << 10
RECORD_LIMIT = 16 << 20
GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

CHILD = f"""
import collections, json, re, resource, sys
from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.crawl.pages import read_pages
def peak():
    # Not getrusage: its peak begins with that of the process this one was forked from.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak()
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for path in sys.argv[1:]:
    counts = collections.Counter()
    for file in find_crawl_files([path]):
        for page in read_pages(file, Reading({RECORD_LIMIT})):
            counts[getattr(page, "reason", "page")] += 1
    print(json.dumps({{"counts": counts, "kib": peak() - before}}), flush=True)
"""


def member(size: int, before: bytes = b"") -> bytes:
    """Return a gzip member of `before` and `size` bytes a (of mebibytes), without making them."""
    block = b"a" * (1 << 20)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compressor.compress(before) + compressor.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so the compressed block can be repeated.
    piece = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    check = zlib.crc32(before)
    for _ in range(size >> 20):
        check = zlib.crc32(block, check)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    tail = check.to_bytes(4, "little") + ((size + len(before)) % (1 << 32)).to_bytes(4, "little")
    return GZIP_HEAD + start + piece * (size >> 20) + end + tail


def bomb(encoding: str, body: bytes) -> list[bytes]:
    page = crawl.response(body, "http://bomb.org", headers=f"Content-Encoding: {encoding}")
    return crawl.members([page])


def endless_line() -> bytes:
    head = crawl.record("", "http://long.org", length=HUGE).removesuffix(b"\r\n\r\n")
    return member(HUGE, head)


def brotli_zeros() -> bytes:
    compressor = brotli.Compressor(quality=1)
    pieces = [compressor.process(b"a" * (1 << 20)) for _ in range(256)]
    return b"".join([*pieces, compressor.finish()])


def zstd_zeros() -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    pieces = [compressor.compress(b"a" * (1 << 20)) for _ in range(256)]
    return b"".join([*pieces, compressor.flush()])


def cut_and_joined() -> list[bytes]:
    [sound] = crawl.members([crawl.record("text " * 100, "http://a.org")])
    return [sound[:60], sound[:12], sound[:-3]]


def wrong_lengths() -> list[bytes]:
    lengths = [0, 3, 10**12, "-1", "x", "1" * 30]
    return crawl.members([crawl.record("text", "http://a.org", length=n) for n in lengths])


def lacking() -> list[bytes]:
    return crawl.members(
        [crawl.record("text", None), crawl.record("text", "http://a.org", date=None)]
    )


def charsets() -> list[bytes]:
    pages = [
        ("<p>Привет, мир</p>".encode("koi8-r"), "Content-Type: text/html; charset=koi8-r"),
        ("<p>日本語の文章</p>".encode("shift_jis"), "Content-Type: text/html"),
        (b"<p>a&#xD800;b \xed\xa0\x80 c</p>", "Content-Type: text/html; charset=utf-8"),
        (b"<p>a\0b\0c</p>", "Content-Type: text/html; charset=utf-16"),
        (b"<p>\0\0text</p>", "Content-Type: text/html; charset=../../../etc/passwd"),
    ]
    return crawl.members(
        [crawl.response(html, f"http://c.org/{i}", headers=h) for i, (html, h) in enumerate(pages)]
    )


def starts_of_members(content: bytes) -> bytes:
    """Return 500 kB where every few bytes a gzip member starts that fails only after 60 kB."""
    unit = GZIP_HEAD + b"\0" + struct.pack("<HH", 60_000, 5_535) + content
    # Where the stored block ends there is no other.
    unit += b"\xff" * (-len(unit) % 32 + 32)
    return b"junk" + unit * (500_000 // len(unit))


Make = Callable[[], list[bytes]]
#: Files by name, and what is dropped of them.
CASES: dict[str, tuple[Make, dict[str, int]]] = {
    "endless line": (lambda: [endless_line()], {"too_large": 1}),
    "cut line": (lambda: [endless_line()[:-100_000]], {"damaged": 1}),
    "endless header": (lambda: [member(HUGE, b"WARC/1.0\r\nX: ")], {"damaged": 1}),
    "many HTTP headers": (
        lambda: crawl.members([crawl.response("<p>x", "http://h.org", headers="a\n" * (7 << 20))]),
        {"bad_http": 1},
    ),
    "huge body": (lambda: bomb("gzip", member(HUGE)), {"too_large": 1}),
    "brotli": (lambda: bomb("br", brotli_zeros()), {"too_large": 1}),
    "zstd": (lambda: bomb("zstd", zstd_zeros()), {"too_large": 1}),
    "bomb in a bomb": (
        lambda: bomb("gzip, gzip", gzip.compress(member(HUGE), mtime=0)),
        {"bad_encoding": 1},
    ),
    "deep HTML": (
        lambda: crawl.members([crawl.response("<div>" * 100_000 + "x", "http://deep.org")]),
        {"nested_too_deeply": 1},
    ),
    "lacking": (lacking, {"no_url": 1, "no_timestamp": 1}),
    "charsets": (charsets, {"page": 5}),
}
#: Files that are damaged.
DAMAGED: dict[str, Make] = {
    "cut and joined": cut_and_joined,
    "wrong lengths": wrong_lengths,
    "nuls": lambda: crawl.members([crawl.record("a\0b\0", "http://nul.org/\0"), b"\0" * 1000]),
    "starts of members": lambda: [starts_of_members(b"")],
    "starts of records": lambda: [starts_of_members(b"WARC/1.0\r\nX: ")],
}


def read(paths: list[Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, collections.Counter[str]]:
    """What comes out of each file between two sound pages, by reason, in bounded memory."""
    directory = tmp_path_factory.mktemp("hostile")
    # Loops over HTML are compiled once for this machine, which takes memory as well.
    page = crawl.response("<p>" + "text " * 100 + "</p>", "http://a.org")
    sound = crawl.write(directory / "sound.gz", [page])
    assert read([sound]).returncode == 0
    before, after = crawl.members([crawl.record("sound", f"http://s.org/{i}") for i in range(2)])
    makes = {**{name: make for name, (make, _) in CASES.items()}, **DAMAGED}
    for name, make in makes.items():
        (directory / f"{name}.gz").write_bytes(b"".join([before, *make(), after]))
    done = read([directory / f"{name}.gz" for name in makes])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for name, line in zip(makes, lines, strict=False):
        assert line["kib"] < LIMIT_KIB, name  # over the imports
    assert done.returncode == 0, (list(makes)[len(lines)], done.stderr[-2000:])
    return {
        name: collections.Counter(line["counts"]) for name, line in zip(makes, lines, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_each_is_one_counted_drop_between_sound_pages(found, name):
    _, expected = CASES[name]
    assert found[name] == collections.Counter(expected) + collections.Counter(page=2)


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_counted_and_sound_pages_stay(found, name):
    assert found[name]["page"] >= 2
    assert found[name]["damaged"] >= 1
