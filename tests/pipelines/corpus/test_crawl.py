import os
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.crawl.archives import Damage, Record, find_crawl_files, read_archive
from pipelines.errors import UserError

LIMIT = 1 << 20


def texts(path: Path) -> list[bytes | str]:
    """Payloads in order, with "damage" where something could not be read."""
    return [
        "damage" if isinstance(one, Damage) else "unread" if one.payload is None else one.payload
        for one in read_archive(path, LIMIT)
    ]


def numbered(crawl: ModuleType, count: int = 5) -> list[bytes]:
    return [
        crawl.record(f"page {i} " + "some text " * 20, f"http://a.example/{i}")
        for i in range(count)
    ]


@pytest.mark.parametrize("compress", [True, False])
def test_records_with_their_offsets(tmp_path: Path, crawl: ModuleType, compress: bool):
    records = numbered(crawl)
    stored = crawl.members(records) if compress else records
    path = crawl.write(tmp_path / "a", records, compress=compress)
    found = list(read_archive(path, LIMIT))
    assert [one.offset for one in found] == [len(b"".join(stored[:i])) for i in range(5)]
    assert all(isinstance(one, Record) and one.kind == "text" for one in found)
    assert found[3].url == b"http://a.example/3"


def test_kinds_are_told_apart_by_record_type(tmp_path: Path, crawl: ModuleType):
    records = [crawl.warcinfo(), crawl.record("t", "u"), crawl.response("<p>h", "u")]
    records.append(crawl.record("q", "u", kind="request"))
    path = crawl.write(tmp_path / "misnamed.txt", records)
    kinds = [one.kind for one in read_archive(path, LIMIT) if isinstance(one, Record)]
    assert kinds == ["other", "text", "http", "other"]


@pytest.mark.parametrize("where", ["data", "magic", "checksum"])
def test_corrupt_member_costs_only_itself(tmp_path: Path, crawl: ModuleType, where: str):
    parts = [bytearray(part) for part in crawl.members(numbered(crawl))]
    if where == "data":
        parts[2][30:60] = b"\xff" * 30
    elif where == "magic":
        parts[2][:2] = b"xx"
    else:
        parts[2][-8] ^= 1
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(parts))
    found = list(read_archive(path, LIMIT))
    assert [isinstance(one, Damage) for one in found] == [False, False, True, False, False]
    assert len(b"".join(parts[:1])) <= found[2].offset <= len(b"".join(parts[:2]))


def test_two_corrupt_members_are_two_drops(tmp_path: Path, crawl: ModuleType):
    parts = [bytearray(part) for part in crawl.members(numbered(crawl))]
    for number in (1, 2):
        parts[number][-8] ^= 1
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(parts))
    assert texts(path).count("damage") == 2
    assert len(texts(path)) == 5


@pytest.mark.parametrize("cut", [1, 3, 12, 20, 50, 80, 120, 150, 180])
def test_truncated_last_member(tmp_path: Path, crawl: ModuleType, cut: int):
    parts = crawl.members(numbered(crawl))
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(parts[:4]) + parts[4][:cut])
    found = texts(path)
    assert len(found) == 5
    assert found[4] == "damage"
    assert "damage" not in found[:4]


@pytest.mark.parametrize("claim", [100_000, 10**15, 2**63, -5, 2**70, "1" + "0" * 5000])
@pytest.mark.parametrize("compress", [True, False])
def test_lying_length_loses_no_other_record(
    tmp_path: Path, crawl: ModuleType, claim: int | str, compress: bool
):
    records = numbered(crawl)
    records[1] = crawl.record("liar " * 30, "http://a.example/liar", length=claim)
    found = texts(crawl.write(tmp_path / "a", records, compress=compress))
    sound = [one for one in found if isinstance(one, bytes) and one.startswith(b"page ")]
    assert [one[:6] for one in sound] == [b"page 0", b"page 2", b"page 3", b"page 4"]
    assert "damage" in found


def test_garbage_between_plain_records(tmp_path: Path, crawl: ModuleType):
    records = numbered(crawl)
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records[:2]) + b"\0garbage\n" * 50 + b"".join(records[2:]))
    assert len(texts(path)) == 6
    assert texts(path)[2] == "damage"


def test_endless_header_line(tmp_path: Path, crawl: ModuleType):
    records = numbered(crawl)
    records[1] = crawl.record("t", "u", extra=b"X-Padding: " + b"a" * 5_000_000 + b"\r\n")
    found = texts(crawl.write(tmp_path / "a.gz", records))
    assert found[1] == "damage"
    assert len(found) == 5


def test_large_record_is_not_read(tmp_path: Path, crawl: ModuleType):
    records = numbered(crawl)
    records[1] = crawl.record(b"\0" * (64 << 20), "http://a.example/bomb")
    found = texts(crawl.write(tmp_path / "a.gz", records))
    assert found[1] == "unread"
    assert len(found) == 5


def test_file_that_is_one_gzip_member(tmp_path: Path, crawl: ModuleType):
    path = crawl.write(tmp_path / "a.gz", [b"".join(numbered(crawl))])
    assert len([one for one in texts(path) if one != "damage"]) == 5
    path.write_bytes(path.read_bytes()[:-20])
    assert texts(path)[-1] == "damage"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_survived_and_sound_members_are_read(
    tmp_path: Path, crawl: ModuleType, data: st.DataObject
):
    parts = [bytearray(part) for part in crawl.members(numbered(crawl))]
    hit = data.draw(st.integers(0, 4))
    at = data.draw(st.integers(0, len(parts[hit]) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=30))
    parts[hit][at : at + len(noise)] = noise
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(parts))
    found = {one[:6] for one in texts(path) if isinstance(one, bytes)}
    if hit == 0 and at < 3:
        return  # then it is no gzip file at all
    assert found >= {f"page {i}".encode() for i in range(5) if i != hit}


def test_a_gzip_header_that_swallows_the_next_members(tmp_path: Path, crawl: ModuleType):
    parts = [bytearray(part) for part in crawl.members(numbered(crawl))]
    for hit in range(5):
        damaged = [bytes(part) for part in parts]
        # The flag byte now promises an extra field, as long as the next two bytes say.
        damaged[hit] = bytes(parts[hit][:3]) + b"\x04" + bytes(parts[hit][4:])
        path = tmp_path / "a.gz"
        path.write_bytes(b"".join(damaged))
        found = texts(path)
        assert "damage" in found
        sound = {one[:6] for one in found if isinstance(one, bytes)}
        assert sound == {f"page {i}".encode() for i in range(5) if i != hit}


def test_order_and_repetition_of_inputs_do_not_matter(tmp_path: Path, crawl: ModuleType):
    for name in "cab":
        crawl.write(tmp_path / f"{name}.wet.gz", numbered(crawl))
    glob, one = str(tmp_path / "*.gz"), str(tmp_path / "a.wet.gz")
    files = find_crawl_files([glob])
    assert [file.name for file in files] == ["a.wet.gz", "b.wet.gz", "c.wet.gz"]
    assert find_crawl_files([one, glob, one]) == files


def test_name_with_glob_characters(tmp_path: Path, crawl: ModuleType):
    path = crawl.write(tmp_path / "a[1].gz", numbered(crawl))
    assert find_crawl_files([str(path)])[0].name == "a[1].gz"


def test_states(tmp_path: Path, crawl: ModuleType):
    crawl.write(tmp_path / "archive", numbered(crawl))
    crawl.write(tmp_path / "empty", [])
    crawl.write(tmp_path / "hollow", [b""])
    (tmp_path / "damaged").write_bytes(b"\x1f\x8b\x08" + b"\xff" * 50)
    (tmp_path / "other").write_text("<html>")
    (tmp_path / "directory").mkdir()
    states = {file.name: file.state for file in find_crawl_files([str(tmp_path / "*")])}
    expected = {"archive": "archive", "empty": "empty", "hollow": "empty"}
    assert states == {**expected, "damaged": "damaged", "other": "other"}


def test_bad_inputs_are_named(tmp_path: Path):
    (tmp_path / "page.html").write_text("<html>")
    os.mkfifo(tmp_path / "pipe")
    for given_input, message in [
        (str(tmp_path / "missing.gz"), "does not exist"),
        (str(tmp_path / "*.wet.gz"), "matches no file"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "page.html"), "not a WARC or WET file"),
        (str(tmp_path / "pipe"), "not a regular file"),
        ("gs://bucket/a.gz", "on this machine"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            find_crawl_files([given_input])
        assert given_input in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no input"):
        find_crawl_files([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_input_is_named(tmp_path: Path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot read input"):
        find_crawl_files([str(path)])
