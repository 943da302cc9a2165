import collections
import gzip
import struct
from functools import partial
from pathlib import Path

import crawl_files as crawl
import pytest
import zstandard

from mswitch.pipelines.crawl import decompression, warc
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.crawl.warc import Damage, Record, read_archive

LIMIT = 1 << 20
write = partial(crawl.write, compress=False)
pack = partial(gzip.compress, mtime=0)
zstd = zstandard.ZstdCompressor(write_checksum=True).compress
COMPRESSORS = pytest.mark.parametrize("compress", [pack, zstd], ids=["gzip", "zstd"])


def texts(path: Path) -> list[bytes | str]:
    """Payloads in order, with "damage" where something could not be read."""
    return [
        "damage" if isinstance(one, Damage) else "unread" if one.payload is None else one.payload
        for one in read_archive(path, LIMIT)
    ]


def found_numbers(path: Path) -> list[int]:
    """Numbers of the pages in order, -1 for damage."""
    return [int(one.split()[1]) if isinstance(one, bytes) else -1 for one in texts(path)]


def numbered(count: int = 5) -> list[bytes]:
    return [
        crawl.record(f"page {i} " + "some text " * 20, f"http://a.example/{i}")
        for i in range(count)
    ]


@pytest.mark.parametrize("compress", [bytes, *COMPRESSORS.args[1]])
def test_records_with_their_offsets(tmp_path, compress):
    stored = [compress(one) for one in numbered()]
    path = write(tmp_path / "a", stored)
    found = list(read_archive(path, LIMIT))
    assert [one.offset for one in found] == [len(b"".join(stored[:i])) for i in range(5)]
    assert all(isinstance(one, Record) and one.kind == "text" for one in found)
    assert found[3].url == b"http://a.example/3"


def test_kinds_are_told_apart_by_record_type(tmp_path):
    records = [crawl.warcinfo(), crawl.record("t", "u"), crawl.response("<p>h", "u")]
    records.append(crawl.record("q", "u", kind="request"))
    path = crawl.write(tmp_path / "misnamed.txt", records)
    kinds = [one.kind for one in read_archive(path, LIMIT) if isinstance(one, Record)]
    assert kinds == ["other", "text", "http", "other"]


def test_names_of_headers_have_no_case_and_the_first_of_two_counts(tmp_path):
    record = crawl.record("text", "http://a.example/1")
    line = b"WARC-Target-URI: http://a.example/1\r\n"
    assert line in record
    other = line.replace(b"/1", b"/2")
    path = crawl.write(tmp_path / "a", [record.replace(line, line.lower() + other)])
    (found,) = read_archive(path, LIMIT)
    assert found.url == b"http://a.example/1"


@COMPRESSORS
@pytest.mark.parametrize("place", [slice(0, 2), slice(30, 60), slice(-8, -7), slice(-1, None)])
def test_a_corrupt_gzip_member_costs_only_itself_a_zstd_frame_those_after_it(
    tmp_path, compress, place
):
    """In its magic number, its data, or its checksum."""
    parts = [bytearray(compress(one)) for one in numbered()]
    parts[2][place] = bytes(byte ^ 0xFF for byte in parts[2][place])
    path = write(tmp_path / "a", parts)
    found = list(read_archive(path, LIMIT))
    after = [3, 4] if compress is pack else []
    assert found_numbers(path)[-len(after) - 1 :] == [-1, *after]
    assert len(b"".join(parts[:1])) <= found[2].offset <= len(b"".join(parts[:2]))


def test_two_corrupt_members_are_two_drops(tmp_path):
    parts = [bytearray(part) for part in crawl.members(numbered())]
    for number in (1, 2):
        parts[number][-8] ^= 1
    assert found_numbers(write(tmp_path / "a", parts)) == [0, -1, -1, 3, 4]


@COMPRESSORS
@pytest.mark.parametrize("cut", [1, 3, 8, 12, 20, 50, 80, 120, -4, -1])
def test_truncated_last_member(tmp_path, compress, cut):
    *sound, last = map(compress, numbered())
    found = found_numbers(write(tmp_path / "a", [*sound, last[:cut]]))
    assert found[:4] == [0, 1, 2, 3]
    # A frame whose checksum alone is cut has given its record.
    assert found[4:] in ([-1], [4, -1])


@pytest.mark.parametrize("claim", [100_000, 10**15, 2**63, -5, 2**70, "1" + "0" * 5000])
@pytest.mark.parametrize("compress", [True, False])
def test_lying_length_loses_no_other_record(tmp_path, claim, compress):
    records = numbered()
    records[1] = crawl.record("liar " * 30, "http://a.example/liar", length=claim)
    found = texts(crawl.write(tmp_path / "a", records, compress=compress))
    sound = [one for one in found if isinstance(one, bytes) and one.startswith(b"page ")]
    assert [one[:6] for one in sound] == [b"page 0", b"page 2", b"page 3", b"page 4"]
    assert "damage" in found


def test_garbage_between_plain_records(tmp_path):
    records = numbered()
    records.insert(2, b"\0garbage\n" * 50)
    found = texts(write(tmp_path / "a.warc", records))
    assert len(found) == 6
    assert found[2] == "damage"


@pytest.mark.timeout(60)  # in quadratic time, hours
@pytest.mark.parametrize("within", [False, True])
def test_many_lying_lengths_in_a_plain_file(tmp_path, monkeypatch, within):
    """Each states that it goes on to the middle of a later record, or beyond the file."""
    liars = 20_000
    size = len(crawl.record("liar", "http://a.example/liar", length=10**9))
    length = size * liars // 2 if within else 10**9
    liar = crawl.record("liar", "http://a.example/liar", length=length)
    path = write(tmp_path / "a.warc", [liar * liars, *numbered()])
    if within:
        monkeypatch.setattr(warc, "_RETRY_BYTES", 0)
    count = collections.Counter(type(one) for one in read_archive(path, LIMIT))
    if within:  # after a time, what a liar claims is given up with it, if the file has as much
        assert 1 <= count[Damage] <= liars / 2
    else:
        assert count == {Damage: liars, Record: 5}


def test_endless_header_line(tmp_path):
    records = numbered()
    records[1] = crawl.record("t", "u", extra=b"X-Padding: " + b"a" * 5_000_000 + b"\r\n")
    found = texts(crawl.write(tmp_path / "a.gz", records))
    assert found[1] == "damage"
    assert len(found) == 5


def test_large_record_is_not_read(tmp_path):
    records = numbered()
    records[1] = crawl.record(b"\0" * (64 << 20), "http://a.example/bomb")
    found = texts(crawl.write(tmp_path / "a.gz", records))
    assert found[1] == "unread"
    assert len(found) == 5


def test_file_that_is_one_gzip_member(tmp_path):
    path = crawl.write(tmp_path / "a.gz", [b"".join(numbered())])
    assert len([one for one in texts(path) if one != "damage"]) == 5
    path.write_bytes(path.read_bytes()[:-20])
    assert texts(path)[-1] == "damage"


@COMPRESSORS
def test_records_that_share_a_member_have_its_offset(tmp_path, compress):
    records = numbered(9)
    parts = [compress(b"".join(records[i : i + 3])) for i in (0, 3, 6)]
    path = write(tmp_path / "a", parts)
    starts = [len(b"".join(parts[:i])) for i in range(3)]
    found = list(read_archive(path, LIMIT))
    assert found_numbers(path) == list(range(9))
    assert [one.offset for one in found] == [start for start in starts for _ in range(3)]


@COMPRESSORS
@pytest.mark.parametrize("claim", ["x", 2, 100_000, 10**15])
def test_a_bad_length_within_a_member_costs_the_rest_of_it(tmp_path, compress, claim):
    for size, bad in [(2, 0), (2, 1), (30, 0), (30, 17), (30, 29), (3000, 2900)]:
        records = numbered(size + 5)
        records[bad] = crawl.record("liar " * 30, "http://a.example/liar", length=claim)
        parts = [compress(b"".join(records[:size])), *map(compress, records[size:])]
        path = write(tmp_path / "a", [compress(crawl.warcinfo()), *parts])
        _, *found = read_archive(path, LIMIT)
        after = range(size, size + 5) if compress is pack else []
        urls = [one.url.rpartition(b"/")[2] if isinstance(one, Record) else -1 for one in found]
        assert list(map(int, urls)) == [*range(bad), -1, *after]
        [damage] = [one for one in found if isinstance(one, Damage)]
        assert damage.offset in (0 if bad == 0 else -1, len(compress(crawl.warcinfo())))


def test_a_record_quoted_in_a_page_is_none_where_the_next_member_is_damaged(tmp_path):
    records = numbered()
    records[1] = crawl.record(b"page 1\r\n" + numbered()[0] + b"end", "http://a.example/1")
    parts = [bytearray(pack(one)) for one in records]
    parts[2][40:60] = b"\xff" * 20
    path = write(tmp_path / "a", parts)
    assert found_numbers(path) == [0, 1, -1, 3, 4]


def test_a_gzip_header_that_swallows_the_next_members(tmp_path):
    parts = [bytearray(part) for part in crawl.members(numbered())]
    for hit in range(5):
        damaged = [bytes(part) for part in parts]
        # The flag byte now promises an extra field, as long as the next two bytes say.
        damaged[hit] = bytes(parts[hit][:3]) + b"\x04" + bytes(parts[hit][4:])
        path = write(tmp_path / "a.gz", damaged)
        found = texts(path)
        assert "damage" in found
        sound = {one[:6] for one in found if isinstance(one, bytes)}
        assert sound == {f"page {i}".encode() for i in range(5) if i != hit}


@pytest.mark.timeout(60)
def test_members_that_swallow_all_others_take_bounded_time(tmp_path, monkeypatch):
    """Three hundred sound members, each followed by one that goes on to the same 16 MB."""
    sound, size = pack(crawl.record("", "u")), 60_000

    def stored(size: int) -> bytes:
        return b"\0" + struct.pack("<HH", size, size ^ 0xFFFF)

    swallowers = b""
    for _ in range(300):
        swallowers += sound + pack(b"")[:10]
        swallowers += stored(size - len(swallowers) - 5)
    swallowers = swallowers.ljust(size, b"x") + (stored(65_000) + b"x" * 65_000) * 256 + b"\xff"
    first, last = map(pack, numbered(2))
    monkeypatch.setattr(decompression, "_RETRY_COST_BYTES", 1 << 30)
    found = texts(write(tmp_path / "a", [first, swallowers, last]))
    assert [one[:6] for one in (found[0], found[-1])] == [b"page 0", b"page 1"]
    assert 0 < found.count("damage") < 10


def test_zstd_records_in_one_frame_and_over_several(tmp_path):
    first, *others = numbered()
    zstd = zstandard.ZstdCompressor().compress
    skippable = b"\x53\x2a\x4d\x18\x05\0\0\0WARC/"
    pieces = [first[i : i + 90] for i in range(0, len(first), 90)]
    path = write(tmp_path / "a", [*map(zstd, pieces), skippable, zstd(b"".join(others))])
    found = list(read_archive(path, LIMIT))
    assert found_numbers(path) == list(range(5))
    start = len(b"".join(map(zstd, pieces)))
    # The skippable frame belongs to the stream, so the records' frame comes after it.
    assert [one.offset for one in found] == [0, *[start + len(skippable)] * 4]


def test_damage_that_looks_like_a_plain_archive(tmp_path):
    parts = [bytearray(pack(one)) for one in numbered()]
    parts[0][:5] = b"WARC/"
    path = write(tmp_path / "a", parts)
    found = found_numbers(path)
    assert -1 in found
    assert [number for number in found if number >= 0] == [1, 2, 3, 4]


def test_zstd_bomb_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "BOMB_BYTES", 16 << 20)
    before = crawl.record("sound", "u")
    bomb = crawl.record(bytes(64 << 20), "http://a.example/bomb")
    path = write(tmp_path / "a", map(zstandard.compress, [before, bomb]))
    found = list(read_archive(path, LIMIT))
    assert isinstance(found[0], Record)
    assert "beyond reason" in found[1].error


def trained() -> zstandard.ZstdCompressionDict:
    words = [f"word{i * i % 977}" for i in range(2000)]
    samples = [
        crawl.record(" ".join(words[i : i + 200]), f"http://b.example/{i}") for i in range(300)
    ]
    return zstandard.train_dictionary(4000, samples)


@pytest.mark.parametrize("compressed", [True, False])
def test_zstd_dictionary_of_the_file(tmp_path, compressed):
    dictionary = trained()
    zstd = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress
    parts = [bytearray(zstd(crawl.record(f"page {i}", "u"))) for i in range(5)]
    parts[2][-1] ^= 1
    content = dictionary.as_bytes()
    frame = crawl.dictionary_frame(zstandard.compress(content) if compressed else content)
    path = write(tmp_path / "a", [frame, *parts])
    assert [isinstance(one, Damage) for one in read_archive(path, LIMIT)] == [0, 0, 1]
    assert find_crawl_files([str(path)])[0].format == "warc"


def test_hostile_zstd_dictionaries(tmp_path):
    dictionary = trained()
    records = zstandard.ZstdCompressor(dict_data=dictionary).compress(crawl.record("t", "u"))
    bomb = zstandard.compress(bytes(200 << 20))
    for name, start in [
        ("absent", b""),
        ("foreign", crawl.dictionary_frame(b"something else")),
        ("cut", crawl.dictionary_frame(dictionary.as_bytes())[:900]),
        ("lying", b"\x5d\x2a\x4d\x18\xff\xff\xff\xff" + dictionary.as_bytes()),
        ("bomb", crawl.dictionary_frame(bomb)),
        ("torn", crawl.dictionary_frame(zstandard.compress(dictionary.as_bytes())[:-9] + b"x" * 9)),
    ]:
        path = write(tmp_path / name, [start, records])
        assert [isinstance(one, Damage) for one in read_archive(path, LIMIT)] == [True], name
