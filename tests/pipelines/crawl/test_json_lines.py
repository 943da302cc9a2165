import collections
import gzip
import io
import json
import random
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.crawl import json_lines, streams
from pipelines.crawl.fields import STANDARD_FIELDS
from pipelines.crawl.json_lines import read_json_lines, read_lines
from pipelines.crawl.streams import Compression, DecompressedStream
from pipelines.records import Page, Rejected

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


def read(path: Path, max_bytes: int = LIMIT) -> list[Page | Rejected]:
    options = {"fields": STANDARD_FIELDS, "max_bytes": max_bytes, "drop_metadata_lines": True}
    return list(read_json_lines(str(path), "f", **options))


def reasons(found: Iterable[Page | Rejected]) -> list[str]:
    return [one.reason if isinstance(one, Rejected) else "" for one in found]


@COMPRESSORS
def test_a_page_a_line(tmp_path, compress):
    lines = [line(i, timestamp="2024-01-01T00:00:00Z", record_id=f"<{i}>") for i in range(3)]
    content = b"\xef\xbb\xbf" + lines[0] + b"\r\n\n  \n" + lines[1] + b"\n" + lines[2]
    (tmp_path / "a").write_bytes(compress(content))
    found = read(tmp_path / "a")
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


@pytest.mark.parametrize(
    ("text", "url"), [(r"a\ud83d", "http://a.example/"), ("a", r"http://a.example/\udfff")]
)
def test_half_a_character_is_a_counted_drop(tmp_path, text, url):
    line = f'{{"text": "{text}", "url": "{url}"}}'
    (tmp_path / "a").write_text(
        f"{line}\n" + r'{"text": "\ud83d\ude00", "url": "http://b.example/"}'
    )
    dropped, page = read(tmp_path / "a")
    assert isinstance(dropped, Rejected)
    assert (dropped.stage, dropped.reason, dropped.source) == ("read", "lone_surrogate", "f@0")
    dropped.url.encode()
    assert isinstance(page, Page)
    assert page.text == "\N{GRINNING FACE}"


@pytest.mark.parametrize("damage", ["cut", "noise", "checksum", "tail"])
@COMPRESSED
def test_damage_keeps_what_comes_before(tmp_path, kind, damage):
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


def test_damage_at_once(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(line(1))[:12] + b"\xff" * 40)
    assert reasons(read(tmp_path / "a")) == ["damaged"]


def padded(first: int, count: int) -> bytes:
    """Lines that do not compress away."""
    noise = random.Random(first)
    lines = [line(first + i, padding=noise.randbytes(30).hex()) for i in range(count)]
    return b"\n".join(lines) + b"\n"


def numbers(found: Iterable[Page | Rejected]) -> list[int]:
    """Numbers of the pages in order, -1 for a drop, -2 for a page that noise has changed."""
    texts = [one.text if isinstance(one, Page) else "page -1" for one in found]
    return [int(text[5:]) if re.fullmatch("page -?[0-9]+", text) else -2 for text in texts]


@pytest.mark.parametrize("damage", ["cut", "header", "noise", "checksum", "magic", "junk"])
@COMPRESSED
def test_damage_costs_only_its_member(tmp_path, kind, damage):
    contents = [padded(first, 100) for first in range(0, 500, 100)]
    parts = [bytearray(COMPRESS[kind](content)) for content in contents]
    hit, middle = parts[2], len(parts[2]) // 2
    if damage == "cut":
        del hit[middle:]
    elif damage == "header":
        del hit[4:]
    elif damage == "noise":
        hit[middle : middle + 8] = b"\xff" * 8
    elif damage == "checksum":
        hit[-8 if kind == "gzip" else -1] ^= 1
    elif damage == "magic":
        hit[0] ^= 1
    else:
        hit += b"no member"
    (tmp_path / "a").write_bytes(b"".join(parts))
    found = read(tmp_path / "a")
    assert reasons(found).count("damaged") == 1
    at = reasons(found).index("damaged")
    before, after = [one for one in found[:at] if isinstance(one, Page)], found[at + 1 :]
    assert numbers(before[:200]) == list(range(200))
    assert numbers(after) == list(range(300, 500))
    if damage in ("checksum", "junk"):
        assert numbers(found[:at]) == list(range(300))
    # Offsets are those in what can be read, the damage where it stopped.
    sources = [int(one.source.removeprefix("f@")) for one in found]
    assert sources[:200] == [0, *[i + 1 for i, c in enumerate(b"".join(contents)) if c == 10]][:200]
    assert sources == sorted(sources)
    assert sources[at + 1] == sources[at]
    after_it = b"".join(contents[3:])
    assert sources[-1] == sources[at] + after_it[:-1].rindex(b"\n") + 1
    [drop] = [one for one in found if isinstance(one, Rejected) and one.reason == "damaged"]
    place = len(b"".join(parts[:2])) + (len(parts[2]) - 9 if damage == "junk" else 0)
    assert f"from byte {place} on" in drop.detail


@COMPRESSED
def test_a_line_over_damage_is_counted(tmp_path, kind):
    split = line(1)
    parts = [
        COMPRESS[kind](line(0) + b"\n" + split[:20]),
        COMPRESS[kind](split[20:] + b"\n" + line(2) + b"\n  "),
        COMPRESS[kind](line(3) + b"\n" + line(4)),
    ]
    (tmp_path / "a").write_bytes(b"".join(parts))
    assert numbers(read(tmp_path / "a")) == [0, 1, 2, 3, 4]
    # What the damage left of a line is a line: here no JSON,
    (tmp_path / "a").write_bytes(b"junk".join(parts[:2]))
    assert reasons(read(tmp_path / "a")) == ["", "damaged", "bad_json", ""]
    # and here a whole object.
    (tmp_path / "a").write_bytes(b"junk".join(parts[1:]))
    found = read(tmp_path / "a")
    assert reasons(found) == ["bad_json", "", "damaged", "", ""]
    assert numbers(found) == [-1, 2, -1, 3, 4]


UNCHECKED: Compress = zstandard.ZstdCompressor(write_checksum=False).compress


@pytest.mark.parametrize("kind", ["gzip", "zstd", "unchecked"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sound_members_are_read_whichever_is_damaged(tmp_path, kind, data):
    # Without a checksum the end of a last line may be damaged and nobody can tell.
    compress = {**COMPRESS, "unchecked": lambda content: UNCHECKED(b"\n" + content)}[kind]
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
    (tmp_path / "a").write_bytes(b"".join(parts))
    found = read(tmp_path / "a")
    wanted = [i for i in range(sum(sizes)) if not 0 <= i - starts[hit] < sizes[hit]]
    assert set(wanted) <= set(numbers(found))
    if kind == "gzip" and at >= 10 and bytes(parts[hit]) != compress(contents[hit]):
        assert "damaged" in reasons(found)


def test_damage_with_a_dictionary(tmp_path):
    dictionary = zstandard.train_dictionary(2000, [padded(i, 3) for i in range(300)])
    compress = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress
    parts = [bytearray(compress(line(i) + b"\n")) for i in range(5)]
    parts[2][-1] ^= 1
    content = dictionary.as_bytes()
    frame = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    (tmp_path / "a").write_bytes(frame + b"".join(parts))
    assert numbers(read(tmp_path / "a")) == [0, 1, 2, -1, 3, 4]
    # Without the dictionary nothing can be read.
    (tmp_path / "a").write_bytes(frame[:900])
    assert reasons(read(tmp_path / "a")) == ["damaged"]


def test_a_bomb_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BOMB_BYTES", 16 << 20)
    bomb = COMPRESS["zstd"](bytes(64 << 20))
    sound = [COMPRESS["zstd"](line(i) + b"\n") for i in range(2)]
    (tmp_path / "a").write_bytes(bomb.join(sound))
    found = read(tmp_path / "a")
    assert numbers(found) == [0, -1, 1]
    assert isinstance(found[1], Rejected)
    assert "beyond reason" in found[1].detail


GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
ZSTD_HEADER = streams.ZSTD_MAGIC + b"\0\x58"


def stored(size: int, content: bytes) -> bytes:
    """A gzip member that fails where its only block of `size` bytes ends."""
    return GZIP_HEADER + b"\0" + struct.pack("<HH", size, size ^ 0xFFFF) + content


def raw_block(size: int, last: bool) -> bytes:
    return (size << 3 | last).to_bytes(3, "little")


HOSTILE = {
    "magics": ("gzip", streams.GZIP_MAGIC),
    "headers": ("gzip", GZIP_HEADER),
    "stored": ("gzip", stored(60_000, b"x" * 40 + b"\xff" * 32)),
    "stored lines": ("gzip", stored(60_000, b"{}\n" * 14 + b"\xff" * 32)),
    "lines and names": (
        "gzip",
        gzip.compress(b"{}\n", mtime=0) + GZIP_HEADER[:3] + b"\x08" + b"name" * 12,
    ),
    "empty members": ("gzip", gzip.compress(b"", mtime=0)),
    "members and junk": ("gzip", gzip.compress(b"x", mtime=0) + b"j"),
    "frame magics": ("zstd", streams.ZSTD_MAGIC),
    "empty frames": ("zstd", zstandard.compress(b"")),
    "broken frames": ("zstd", ZSTD_HEADER + b"\x02\0\x10a\xff\xff\xff"),
    "raw frames": ("zstd", ZSTD_HEADER + raw_block(500, True) + b"\n" + b"x" * 8),
    "chained frames": ("zstd", ZSTD_HEADER + raw_block(60, False) + b"a" * 60),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_are_none_take_linear_time(tmp_path, name):
    kind, unit = HOSTILE[name]
    sound = [COMPRESS[kind](line(i) + b"\n") for i in range(2)]
    junk = b"junk" + unit * (200_000 // len(unit))
    (tmp_path / "a").write_bytes(junk.join(sound))
    found = read_json_lines(
        str(tmp_path / "a"), "f", fields=STANDARD_FIELDS, max_bytes=LIMIT, drop_metadata_lines=True
    )
    # Counted one by one, for there may be a million.
    count = collections.Counter(one.text if isinstance(one, Page) else one.reason for one in found)
    assert (count["page 0"], count["page 1"]) == (1, 1)
    assert count["damaged"] >= 1


@pytest.mark.timeout(60)
def test_members_that_swallow_all_others_take_bounded_time(tmp_path, monkeypatch):
    """A thousand sound members, each followed by one that goes on to the same 16 MB."""
    sound, units, size = gzip.compress(b"{}\n", mtime=0), 1000, 60_000
    swallowers: list[bytes] = []
    for left in range(units, 0, -1):
        after = size - (units - left + 1) * (len(sound) + 15)
        swallowers.append(sound + stored(after, b""))
    block = b"\0" + struct.pack("<HH", 65_000, 65_000 ^ 0xFFFF) + b"x" * 65_000
    middle = b"".join(swallowers).ljust(size, b"x") + block * 256 + b"\xff"
    (tmp_path / "a").write_bytes(middle.join(COMPRESS["gzip"](line(i) + b"\n") for i in range(2)))
    monkeypatch.setattr(json_lines, "_RETRY_BYTES", 0)
    found = read(tmp_path / "a")
    assert numbers(found)[0] == 0
    assert numbers(found)[-1] == 1
    assert 1 < reasons(found).count("damaged") < 10


@COMPRESSED
def test_looking_for_swallowed_members_is_bounded(tmp_path, kind, monkeypatch):
    parts = [COMPRESS[kind](padded(i, 1)) for i in range(6)]
    # A length that lies, so that a member seems to go on to the middle of the one after the next.
    size = len(parts[1]) + len(parts[2]) + 30
    liar = stored(size, b"") if kind == "gzip" else ZSTD_HEADER + raw_block(size, False)
    (tmp_path / "a").write_bytes(b"".join([parts[0], liar, *parts[1:]]))
    assert [i for i in numbers(read(tmp_path / "a")) if i >= 0] == list(range(6))
    monkeypatch.setattr(json_lines, "_RETRY_BYTES", 0)
    monkeypatch.setattr(json_lines, "_RETRY_COST_BYTES", 1 << 30)
    (tmp_path / "b").write_bytes(b"".join([parts[0], liar, liar, *parts[1:]]))
    found = numbers(read(tmp_path / "b"))
    assert [i for i in found if i >= 0] in ([0, 3, 4, 5], [0, 4, 5])


def test_members_are_forgotten(tmp_path):
    members = 30_000
    (tmp_path / "a").write_bytes(gzip.compress(b"\n", mtime=0) * members)
    tracemalloc.start()
    assert read(tmp_path / "a") == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


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
        found = [(one.offset, one.content) for one in read_lines(stream, limit)]
        starts = [sum(map(len, parts[:i])) + i for i in range(len(parts))]
        expected = [
            (start, part if len(part) <= limit else None)
            for start, part in zip(starts, parts, strict=True)
            if part.strip() or len(part) > limit
        ]
        assert found == expected
