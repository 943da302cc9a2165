"""Compressed lines made to take time or memory."""

import collections
import gzip
import struct
import tracemalloc

import pytest
from json_pages import (
    COMPRESS,
    COMPRESSORS,
    LIMIT,
    line,
    numbers,
    read,
    reasons,
)

from mswitch.pipelines.crawl import streams
from mswitch.pipelines.crawl.fields import STANDARD_FIELDS
from mswitch.pipelines.crawl.json_lines import read_json_lines
from mswitch.pipelines.records import Page, Rejected

GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def stored(size: int, content: bytes) -> bytes:
    """A gzip member that fails where its only block of `size` bytes ends."""
    return GZIP_HEADER + b"\0" + struct.pack("<HH", size, size ^ 0xFFFF) + content


HOSTILE = {
    "magics": streams.GZIP_MAGIC,
    "headers": GZIP_HEADER,
    "stored": stored(60_000, b"x" * 40 + b"\xff" * 32),
    "stored lines": stored(60_000, b"{}\n" * 14 + b"\xff" * 32),
    "lines and names": gzip.compress(b"{}\n", mtime=0) + GZIP_HEADER[:3] + b"\x08" + b"name" * 12,
    "empty members": gzip.compress(b"", mtime=0),
    "members and junk": gzip.compress(b"x", mtime=0) + b"j",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_are_none_take_linear_time(tmp_path, name):
    unit = HOSTILE[name]
    sound = [COMPRESS["gzip"](line(i) + b"\n") for i in range(2)]
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
    monkeypatch.setattr(streams, "_RETRY_COST_BYTES", 1 << 30)
    found = read(tmp_path / "a")
    assert numbers(found)[0] == 0
    assert numbers(found)[-1] == 1
    assert 0 < reasons(found).count("damaged") < 10


def test_members_are_forgotten(tmp_path):
    members = 30_000
    (tmp_path / "a").write_bytes(gzip.compress(b"\n", mtime=0) * members)
    tracemalloc.start()
    assert read(tmp_path / "a") == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_bomb_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BOMB_BYTES", 16 << 20)
    bomb = COMPRESS["zstd"](bytes(64 << 20))
    sound = [COMPRESS["zstd"](line(i) + b"\n") for i in range(2)]
    (tmp_path / "a").write_bytes(bomb.join(sound))
    found = read(tmp_path / "a")
    assert numbers(found) == [0, -1]
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
