"""Coverage-guided fuzzing of the input readers (atheris); `make fuzz` runs it for a minute.

Whatever a file holds, reading it gives pages and counted drops: no exception, the same twice, each
with its place in the file. libFuzzer itself stops at an input that takes over ten seconds or two
gigabytes. An input that fails is left beside the seeds as crash-* or timeout-*; give its path
instead of a directory to run it alone.
"""

import gzip
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

# What is compiled cannot be instrumented, and takes longer than an input may.
import mswitch.pipelines.corpus.rules.warm_up
import mswitch.pipelines.corpus.warm_up  # noqa: F401

with atheris.instrument_imports(include=["mswitch.pipelines.crawl"]):
    from mswitch.pipelines.crawl.fields import Reading
    from mswitch.pipelines.crawl.files import find_crawl_files
    from mswitch.pipelines.crawl.pages import read_pages

import zstandard

from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import UNMASKED_CHARACTERS, Page, Rejected

MAX_RECORD_BYTES = 1 << 16
_REASON = re.compile("[a-z][a-z0-9_]*")


def _split_records(data: bytes, start: bytes = b"WARC/1.0\r\n") -> list[bytes]:
    parts = data.split(start)
    return [part for part in (parts[0], *(start + part for part in parts[1:])) if part]


def _members(parts: list[bytes]) -> bytes:
    return b"".join(gzip.compress(part, 1, mtime=0) for part in parts)


def _record(kind: bytes, body: bytes) -> bytes:
    return (
        b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://a.org/\r\n"
        b"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
    ) % (kind, len(body), body)


def _http(encoding: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: %s\r\n\r\n"
    return _record(b"response", head % encoding + body)


#: Mutated bytes never make a valid checksum: the first byte of an input says how the rest is
#: wrapped, so that mutations reach what lies behind decompression, too.
WRAPPERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: data,
    lambda data: _members(_split_records(data)),
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: b"".join(map(zstandard.ZstdCompressor().compress, _split_records(data))),
    lambda data: _record(b"conversion", data),
    lambda data: _record(b"response", data),
    lambda data: _http(b"gzip", data),
    lambda data: _http(b"gzip", gzip.compress(data, 1, mtime=0)),
    lambda data: _http(b"br", data),
    lambda data: _members(_split_records(data, b"http:")),
    lambda data: b"http://a.org/ 192.0.2.1 20100107065932 text/html %d\n%s\n" % (len(data), data),
)


def write_seeds(directory: Path) -> None:
    """Write a small sound input of every format, and a few that are known to be hard."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
    import crawl_files as crawl

    records = [
        crawl.warcinfo(),
        crawl.record("one\r\ntwo \x00", "http://a.org/1"),
        crawl.response("<p>one<script>x</script><td>&#xD800;", "http://a.org/2"),
        crawl.record("liar", "http://a.org/3", length=10**15),
        crawl.record(b"\xff\xfe", None, date=None),
    ]
    members = crawl.members(records)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<p>hi\r\n0\r\n\r\n"
    line = json.dumps({"url": "http://a.org", "text": "one\ntwo", "timestamp": "2024-01-01"})
    pages = [crawl.arc_page("<p>one", "http://a.org/", length=length) for length in (None, 9, None)]
    arc = [crawl.arc_version(), *pages]
    seeds = [
        *itertools.product(range(5), [b"".join(records), records[1], line.encode() + b"\n[]\n{"]),
        (0, b"".join(members)),
        (0, b"".join([*members[:2], members[2][:30], members[3][:3] + b"\x04" + members[3][4:]])),
        (0, zstandard.compress(b"".join(records))),
        (5, chunked),
        (6, gzip.compress(b"<p>hello", mtime=0)),
        (7, b"<p>hello<br>you<table><tr><td>there<meta charset=koi8-r>"),
        (8, b"\x0b\x02\x80<p>hi\x03"),
        # Not what their headers say.
        *(
            (wrapper, b"<p>hello<meta charset=utf-8>\xcf\xf0\xe8\xe2\xe5\xf2")
            for wrapper in (6, 7, 8)
        ),
        (5, chunked.replace(b"5\r\n<p>hi\r\n0", b"\r\n<p>hi \x82\xa0\xe9")),
        (0, rb'{"text": "a\ud83d", "url": "http://a.org"}'),
        *itertools.product((0, 2, 9), [b"".join(arc), b"".join(arc[1:])]),
        (10, b"HTTP/1.0 200 OK\r\n\r\n<p>hello\nhttp://b.org/ 192.0.2.1 20100107065932 t 4\n"),
    ]
    directory.mkdir(parents=True, exist_ok=True)
    for number, (wrapper, data) in enumerate(seeds):
        (directory / f"seed-{number:02}").write_bytes(bytes([wrapper]) + data)


def check(data: bytes, path: Path) -> None:
    """Read `data` as a file, and check what comes out."""
    content = WRAPPERS[data[0] % len(WRAPPERS)](data[1:]) if data else b""
    path.write_bytes(content)
    try:
        [file] = find_crawl_files([str(path)])
    except UserError:
        return  # none of our formats: refused by name
    reading = Reading(MAX_RECORD_BYTES, html_main_content=bool(len(data) % 2))
    outcomes = list(read_pages(file, reading))
    assert outcomes, "a file vanished from the accounts"
    assert outcomes == list(read_pages(file, reading))
    ledger = Ledger(stages=("read",))
    for outcome in outcomes:
        name, _, offset = outcome.source.rpartition("@")
        assert name == path.name
        # Lines of compressed JSON are counted in the decompressed text.
        assert 0 <= int(offset) <= max(len(content), len(data))
        if isinstance(outcome, Page):
            lines = outcome.text.split("\n")
            assert outcome.url
            assert all(line and line == line.strip() for line in lines)
            (outcome.url + outcome.text + outcome.record_id).encode()
        else:
            assert isinstance(outcome, Rejected)
            assert outcome.stage == "read"
            assert _REASON.fullmatch(outcome.reason)
            assert len(outcome.detail) <= UNMASKED_CHARACTERS
            ledger.drop(outcome)
    json.dumps(ledger.to_json(), ensure_ascii=False).encode()


def main() -> None:
    """Fuzz; the arguments are libFuzzer's, a directory for seeds and findings first."""
    place = Path(sys.argv[1])
    arguments = sys.argv[1:]
    if not place.is_file():
        write_seeds(place)
        arguments += [f"-artifact_prefix={place}/"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "input"
        atheris.Setup([sys.argv[0], *arguments], lambda data: check(data, path))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
