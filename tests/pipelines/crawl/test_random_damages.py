"""Ten thousand random damages of WARC files: what is sound is read, once, and nothing is silent."""

import contextlib
import zlib

import crawl_files as crawl
import numpy as np
import pytest

from mswitch.pipelines.crawl.decompression import GZIP_MAGIC
from mswitch.pipelines.crawl.warc import Record, read_archive

BODY_BYTES = (60, 300, 2_000, 5_000, 70_000)
NUMBERS = {b"http://a.example/%d" % i: i for i in range(5)}
#: Of gzip files with one record in each member and with two, and of plain files.
CASES = {1: 7_000, 2: 2_000, 0: 1_000}


def make_parts(draws: np.random.Generator, joined: int) -> dict[bytes, list[int]]:
    """Return the parts of a file before compression, and the numbers of the records in each."""
    noise = [draws.bytes(size) for size in draws.permutation(BODY_BYTES)]
    # Deflate stores noise, and compresses its digits.
    bodies = [one.hex().encode() if draws.random() < 0.5 else one for one in noise]
    records = list(map(crawl.record, bodies, NUMBERS))
    groups = np.split(np.arange(5), range(joined or 1, 5, joined or 1))
    return {b"".join(records[i] for i in group): group.tolist() for group in groups}


def with_a_lie(draws: np.random.Generator, part: bytes) -> bytes:
    head, _, rest = part.partition(b"Content-Length: ")
    length, _, rest = rest.partition(b"\r\n")
    claim = int(length) + int(draws.choice([-40, -5, 5, 500, 10**6, 10**12]))
    return head + b"Content-Length: %d\r\n" % claim + rest


def damage(draws: np.random.Generator, data: bytearray, ends: list[int]) -> None:
    start, at = sorted(draws.integers(len(data) + 1, size=2).tolist())
    stop = min(start + int(draws.choice([1, 8, 300, 10**6])), at)
    match draws.integers(6):
        case 0:
            data[start : start + 1] = bytes(
                one ^ 1 << draws.integers(8) for one in data[start:][:1]
            )
        case 1:
            data[start:stop] = draws.bytes(stop - start)
        case 2:
            del data[start:stop]
        case 3:
            data[at:at] = data[start:stop]
        case 4:
            del data[at:]
        case _:
            between = draws.choice(ends)
            data[between:between] = draws.choice([b"junk", b"\0" * 9, b"\x08\x1f\x8b" * 9])


def sound_records(
    data: bytes, parts: dict[bytes, list[int]], joined: int
) -> tuple[set[tuple[int, int]], bytes]:
    """Find the parts that are sound: offset and number of their records, and all that is in none.

    A record of a plain file is sound if its line is one.
    """
    magic = GZIP_MAGIC if joined else b"WARC/1.0"
    sound, rest, end, at = set(), b"", 0, data.find(magic)
    while at >= 0:
        stop, found = at, b""
        if joined:
            decoder = zlib.decompressobj(wbits=31)
            with contextlib.suppress(zlib.error):
                found = decoder.decompress(data[at:])
                stop = len(data) - len(decoder.unused_data) if decoder.eof else at
        elif data[at - 1 : at] in (b"", b"\n"):
            found = next((one for one in parts if data.startswith(one, at)), b"")
            stop = at + len(found)
        if stop > at and found in parts:
            sound |= {(at, number) for number in parts[found]}
            rest, end = rest + data[end:at], stop
        at = data.find(magic, max(at + 1, end))
    return sound, rest + data[end:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("joined", CASES)
def test_any_damage_costs_what_it_touches_and_is_told(tmp_path, joined):
    draws, path = np.random.default_rng(joined), tmp_path / "a"
    parts: dict[bytes, list[int]] = {}
    for case in range(CASES[joined]):
        if case % 20 == 0:
            parts = make_parts(draws, joined)
        written = list(parts)
        if lies := draws.random() < 0.15:
            hit = draws.integers(len(written))
            written[hit] = with_a_lie(draws, written[hit])
        packed = crawl.members(written) if joined else written
        data = bytearray().join(packed)
        for _ in range(draws.choice([0, 1] if lies else [1, 1, 2, 5])):
            damage(draws, data, np.cumsum([0, *map(len, packed)]).tolist())
        path.write_bytes(data)
        found = list(read_archive(path, 1 << 20))
        records = [one for one in found if isinstance(one, Record)]
        read = [(one.offset, NUMBERS.get(one.url, -1)) for one in records]
        sound, rest = sound_records(bytes(data), parts, joined)
        assert sound <= set(read), case
        assert len(set(read)) == len(read), case
        part_of = {number: part for part, numbers in parts.items() for number in numbers}
        for key, one in zip(read, records, strict=True):
            # Nothing tells of noise in the middle of a plain record, or of one before others.
            if key in sound or joined == 1:
                assert b"\r\n\r\n%b\r\n\r\n" % one.payload in part_of[key[1]], case
        if len(found) == len(records) and joined:
            assert not rest.strip(b"\0\r\n") or [n for _, n in read] == [*range(5)], case
        elif len(found) == len(records):
            assert len(read) == data.count(b"WARC/1.0"), case
