"""Pages as lines of JSON, sound, bad, damaged, and made to take time or memory."""

import gzip
import io
import json
import random
import re
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from crawl_files import dictionary_frame, reasons
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mswitch.pipelines.crawl import decompression
from mswitch.pipelines.crawl.decompression import Compression, DecompressedStream
from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.json_lines import read_json_lines, read_lines
from mswitch.pipelines.records import Page, Rejected

LIMIT = 1 << 20
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {
    "plain": bytes,
    "gzip": partial(gzip.compress, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
COMPRESSORS = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())
COMPRESSED = pytest.mark.parametrize("kind", ["gzip", "zstd"])


def line(number: int, **fields: Any) -> bytes:
    page = {"text": f"page {number}", "url": f"http://a.example/{number}", **fields}
    return json.dumps(page).encode()


def read(path: Path, data: bytes | None = None) -> list[Page | Rejected]:
    """What a file gives, with these bytes if there are any."""
    if data is not None:
        path.write_bytes(data)
    return list(read_json_lines(str(path), "f", Reading(LIMIT)))


def padded(first: int, count: int) -> bytes:
    """Lines that do not compress away."""
    noise = random.Random(first)
    lines = [line(first + i, padding=noise.randbytes(30).hex()) for i in range(count)]
    return b"\n".join(lines) + b"\n"


def numbers(found: Iterable[Page | Rejected]) -> list[int]:
    """Numbers of the pages in order, -1 for a drop, -2 for a page that noise has changed."""
    texts = [one.text if isinstance(one, Page) else "page -1" for one in found]
    return [int(text[5:]) if re.fullmatch("page -?[0-9]+", text) else -2 for text in texts]


@COMPRESSORS
def test_a_page_a_line(tmp_path, compress):
    lines = [line(i, timestamp="2024-01-01T00:00:00Z", record_id=f"<{i}>") for i in range(3)]
    content = b"\xef\xbb\xbf" + lines[0] + b"\r\n\n  \n" + lines[1] + b"\n" + lines[2]
    found = read(tmp_path / "a", compress(content))
    second = content.index(lines[1])
    assert found[1] == Page(
        "http://a.example/1",
        b"page 1",
        "2024-01-01T00:00:00Z",
        1704067200000000,
        f"f@{second}",
        "<1>",
    )
    assert [page.source for page in found] == ["f@0", f"f@{second}", f"f@{content.index(lines[2])}"]


@COMPRESSORS
def test_bad_lines_cost_only_themselves(tmp_path, compress):
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
        (b'{"text": " ", "url": "u"}', "no_content"),
        (b'{"text": "t", "url": "u", "date": "yesterday"}', ""),
        (b'{"text": "' + b"a" * LIMIT + b'", "url": "u"}', "too_large"),
    ]
    lines = [part for i, (one, _) in enumerate(bad) for part in (line(i), one)]
    content = b"\n".join(lines)
    found = read(tmp_path / "a", compress(content))
    assert reasons(found) == [part for _, reason in bad for part in ("", reason)]
    starts = [sum(map(len, lines[:i])) + i for i in range(len(lines))]
    assert [one.source for one in found] == [f"f@{start}" for start in starts]


@pytest.mark.parametrize(
    ("text", "url"), [(r"a\ud83d", "http://a.example/"), ("a", r"http://a.example/\udfff")]
)
def test_half_a_character_is_a_counted_drop(tmp_path, text, url):
    line = f'{{"text": "{text}", "url": "{url}"}}'
    (tmp_path / "a").write_text(
        f"{line}\n" + r'{"text": "\ud83d\ude00", "url": "http://b.example/"}'
    )
    dropped, page = read(tmp_path / "a")
    assert (dropped.stage, dropped.reason, dropped.source) == ("read", "lone_surrogate", "f@0")
    dropped.url.encode()
    assert page.text == "\N{GRINNING FACE}"


@pytest.mark.parametrize("damage", ["cut", "noise", "checksum", "tail"])
@COMPRESSED
def test_damage_keeps_what_comes_before(tmp_path, kind, damage):
    content = padded(0, 20_000)
    packed = bytearray(COMPRESS[kind](content))
    middle = len(packed) // 2
    if damage == "cut":
        del packed[middle:]
    elif damage == "noise":
        packed[middle : middle + 8] = b"\xff" * 8
    elif damage == "checksum":
        packed[-8 if kind == "gzip" else -1] ^= 1
    else:
        packed += b"no member"
    found = read(tmp_path / "a", packed)
    *pages, last = found
    assert last.reason == "damaged"
    sound = [page.text for page in pages if isinstance(page, Page)]
    # Noise may decode for a while before it is noticed; what was written before it is there.
    least = {"checksum": 18_000, "tail": 20_000}.get(damage, 8_000)
    assert sound[:least] == [f"page {i}" for i in range(least)]
    assert len(pages) <= 20_000
    offset = int(last.source.removeprefix("f@"))
    assert offset >= sum(map(len, content.splitlines(keepends=True)[:least]))


def test_damage_at_once(tmp_path):
    assert reasons(read(tmp_path / "a", gzip.compress(line(1))[:12] + b"\xff" * 40)) == ["damaged"]


@COMPRESSED
def test_a_line_over_two_members(tmp_path, kind):
    content = padded(0, 5)
    halves = [content[:200], content[200:]]
    assert numbers(read(tmp_path / "a", b"".join(map(COMPRESS[kind], halves)))) == [0, 1, 2, 3, 4]


@COMPRESSED
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_behind_damage_is_read(tmp_path, kind, data):
    compress = COMPRESS[kind]
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    contents = list(map(padded, starts, sizes))
    parts = [bytearray(compress(content)) for content in contents]
    hit = data.draw(st.integers(0, len(parts) - 1))
    at = data.draw(st.integers(0 if hit else 4, len(parts[hit]) - 1))
    if data.draw(st.booleans()):
        del parts[hit][at:]
    else:
        noise = data.draw(st.binary(min_size=1, max_size=30))
        parts[hit][at : at + len(noise)] = noise
    found = read(tmp_path / "a", b"".join(parts))
    before = starts[hit]
    assert numbers(found)[:before] == list(range(before))
    if "damaged" in reasons(found):
        behind = range(before + sizes[hit], sum(sizes))
        assert reasons(found).index("damaged") == len(found) - 1
        assert not set(behind) & set(numbers(found))
        assert "of the file is not read" in found[-1].detail
    else:
        assert at < 10 or bytes(parts[hit]) == compress(contents[hit])


def test_damage_with_a_dictionary(tmp_path):
    dictionary = zstandard.train_dictionary(2000, [padded(i, 3) for i in range(300)])
    compress = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress
    parts = [bytearray(compress(line(i) + b"\n")) for i in range(5)]
    parts[2][-1] ^= 1
    frame = dictionary_frame(dictionary.as_bytes())
    assert numbers(read(tmp_path / "a", frame + b"".join(parts))) == [0, 1, -1]
    # Without the dictionary nothing can be read.
    assert reasons(read(tmp_path / "a", frame[:900])) == ["damaged"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=12),
    st.integers(1, 30),
)
def test_lines_are_those_between_newlines(parts, limit):
    content = b"\n".join(parts)
    packings: list[tuple[Compression, bytes]] = [
        ("none", content),
        ("gzip", gzip.compress(content)),
        ("zstd", zstandard.compress(content)),
    ]
    for compression, packed in packings:
        stream = DecompressedStream(io.BytesIO(packed), compression)
        found = list(read_lines(stream.buffered(), limit))
        starts = [sum(map(len, parts[:i])) + i for i in range(len(parts))]
        expected = [
            (start, part if len(part) <= limit else None)
            for start, part in zip(starts, parts, strict=True)
            if part.strip() or len(part) > limit
        ]
        assert found == expected


def test_members_are_forgotten(tmp_path):
    members = 30_000
    (tmp_path / "a").write_bytes(gzip.compress(b"\n", mtime=0) * members)
    tracemalloc.start()
    assert read(tmp_path / "a") == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_bomb_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "BOMB_BYTES", 16 << 20)
    bomb = COMPRESS["zstd"](bytes(64 << 20))
    sound = [COMPRESS["zstd"](line(i) + b"\n") for i in range(2)]
    found = read(tmp_path / "a", bomb.join(sound))
    assert numbers(found) == [0, -1]
    assert "beyond reason" in found[1].detail


@COMPRESSORS
def test_an_endless_line_is_not_held_in_memory(tmp_path, compress):
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
