"""Compressed lines made to take time or memory."""

import gzip
import tracemalloc

from json_pages import (
    COMPRESS,
    COMPRESSORS,
    line,
    numbers,
    read,
    reasons,
)

from mswitch.pipelines.crawl import streams
from mswitch.pipelines.records import Rejected


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
