import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.crawl.json_lines import read_json_lines, read_lines
from pipelines.crawl.streams import DecompressedStream
from pipelines.records import Page, Rejected

LIMIT = 1 << 20
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {
    "plain": bytes,
    "gzip": partial(gzip.compress, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
COMPRESSORS = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())


def line(number: int, **fields: Any) -> bytes:
    page = {"text": f"page {number}", "url": f"http://a.example/{number}", **fields}
    return json.dumps(page).encode()


def read(path: Path, max_bytes: int = LIMIT) -> list[Page | Rejected]:
    found = read_json_lines(str(path), "f", max_bytes=max_bytes, drop_metadata_lines=True)
    return list(found)


def reasons(found: Iterable[Page | Rejected]) -> list[str]:
    return [one.reason if isinstance(one, Rejected) else "" for one in found]


@COMPRESSORS
def test_a_page_a_line(tmp_path: Path, compress: Compress):
    lines = [line(i, timestamp="2024-01-01T00:00:00Z", record_id=f"<{i}>") for i in range(3)]
    content = b"\xef\xbb\xbf" + lines[0] + b"\r\n\n  \n" + lines[1] + b"\n" + lines[2]
    (tmp_path / "a").write_bytes(compress(content))
    found = read(tmp_path / "a")
    second = content.index(lines[1])
    assert found[1] == Page(
        "http://a.example/1",
        "page 1",
        "2024-01-01T00:00:00Z",
        1704067200000000,
        f"f@{second}",
        "<1>",
    )
    assert [page.source for page in found] == ["f@0", f"f@{second}", f"f@{content.index(lines[2])}"]


@COMPRESSORS
def test_bad_lines_cost_only_themselves(tmp_path: Path, compress: Compress):
    bad = [
        (b'{"text": "caf\xe9", "url": "u"}', "bad_utf8"),
        (b'{"text": "unfinished', "bad_json"),
        (b"[1, 2]", "bad_json"),
        (b"null", "bad_json"),
        (b"\0", "bad_json"),
        (b"[" * 500_000, "bad_json"),
        (b'{"text": "n", "url": "u", "x": ' + b"1" * 5000 + b"}", "bad_json"),
        (b'{"url": "u"}', "no_text"),
        (b'{"text": 7, "url": "u"}', "no_text"),
        (b'{"text": "t"}', "no_url"),
        (b'{"text": "t", "url": {"a": 1}}', "no_url"),
        (b'{"text": " ", "url": "u"}', "no_content"),
        (b'{"text": "t", "url": "u", "date": "yesterday"}', "bad_timestamp"),
        (b'{"text": "' + b"a" * LIMIT + b'", "url": "u"}', "too_large"),
    ]
    lines = [part for i, (one, _) in enumerate(bad) for part in (line(i), one)]
    content = b"\n".join(lines)
    (tmp_path / "a").write_bytes(compress(content))
    found = read(tmp_path / "a")
    assert reasons(found) == [part for _, reason in bad for part in ("", reason)]
    starts = [sum(map(len, lines[:i])) + i for i in range(len(lines))]
    assert [one.source for one in found] == [f"f@{start}" for start in starts]


def test_lone_surrogates_do_not_travel_on(tmp_path: Path):
    (tmp_path / "a").write_bytes(b'{"text": "a\\ud800b", "url": "http://a.example/\\udfff"}')
    [page] = read(tmp_path / "a")
    assert isinstance(page, Page)
    assert (page.text, page.url) == ("a?b", "http://a.example/?")


@pytest.mark.parametrize("damage", ["cut", "noise", "checksum", "tail"])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damage_keeps_what_comes_before(tmp_path: Path, kind: str, damage: str):
    # Text that does not compress away, so that the damage lies in the middle of it.
    noise = random.Random(0)
    lines = [line(i, padding=noise.randbytes(30).hex()) for i in range(20_000)]
    packed = bytearray(COMPRESS[kind](b"\n".join(lines) + b"\n"))
    middle = len(packed) // 2
    if damage == "cut":
        del packed[middle:]
    elif damage == "noise":
        packed[middle : middle + 8] = b"\xff" * 8
    elif damage == "checksum":
        packed[-8 if kind == "gzip" else -1] ^= 1
    else:
        packed += b"no member"
    (tmp_path / "a").write_bytes(packed)
    found = read(tmp_path / "a")
    *pages, last = found
    assert isinstance(last, Rejected)
    assert last.reason == "damaged"
    sound = [page.text for page in pages if isinstance(page, Page)]
    # Noise may decode for a while before it is noticed; what was written before it is there.
    least = 20_000 if damage in ("checksum", "tail") else 9_000
    assert sound[:least] == [f"page {i}" for i in range(least)]
    assert len(pages) <= 20_000
    offset = int(last.source.removeprefix("f@"))
    assert offset >= sum(len(one) + 1 for one in lines[:least])


def test_damage_at_once(tmp_path: Path):
    (tmp_path / "a").write_bytes(gzip.compress(line(1))[:12] + b"\xff" * 40)
    assert reasons(read(tmp_path / "a")) == ["damaged"]


@COMPRESSORS
def test_an_endless_line_is_not_held_in_memory(tmp_path: Path, compress: Compress):
    content = line(0) + b"\n" + b"a" * (100 << 20) + b"\n" + line(2)
    (tmp_path / "a").write_bytes(compress(content))
    del content
    tracemalloc.start()
    found = read(tmp_path / "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons(found) == ["", "too_large", ""]
    assert found[2].source == f"f@{len(line(0)) + 2 + (100 << 20)}"
    assert peak < 80 << 20  # a step of zstd can give 16 MiB, in pieces that are joined


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=12),
    st.integers(1, 30),
)
def test_lines_are_those_between_newlines(parts: list[bytes], limit: int):
    content = b"\n".join(parts)
    for compression, packed in [
        ("none", content),
        ("gzip", gzip.compress(content)),
        ("zstd", zstandard.compress(content)),
    ]:
        stream = DecompressedStream(io.BytesIO(packed), compression)
        found = [(one.offset, one.content) for one in read_lines(stream, limit)]
        starts = [sum(map(len, parts[:i])) + i for i in range(len(parts))]
        expected = [
            (start, part if len(part) <= limit else None)
            for start, part in zip(starts, parts, strict=True)
            if part.strip() or len(part) > limit
        ]
        assert found == expected
