"""Compressed lines made to take time or memory."""

import collections
import gzip
import struct
import tracemalloc

import pytest
import zstandard
from json_pages import (
    COMPRESS,
    COMPRESSED,
    COMPRESSORS,
    LIMIT,
    line,
    numbers,
    padded,
    read,
    reasons,
)

from mswitch.pipelines.crawl import json_lines, streams
from mswitch.pipelines.crawl.fields import STANDARD_FIELDS
from mswitch.pipelines.crawl.json_lines import read_json_lines
from mswitch.pipelines.records import Page, Rejected

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
    junk = b"junk" + unit * (100_000 // len(unit))
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


def test_a_bomb_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BOMB_BYTES", 16 << 20)
    bomb = COMPRESS["zstd"](bytes(64 << 20))
    sound = [COMPRESS["zstd"](line(i) + b"\n") for i in range(2)]
    (tmp_path / "a").write_bytes(bomb.join(sound))
    found = read(tmp_path / "a")
    assert numbers(found) == [0, -1, 1]
    assert isinstance(found[1], Rejected)
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
