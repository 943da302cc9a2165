import bz2
import gzip
import lzma
import os

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.errors import UserError


def test_order_and_repetition_of_inputs_do_not_matter(tmp_path):
    for name in "cab":
        crawl.write(tmp_path / f"{name}.wet.gz", [crawl.record("text", "u")])
    glob, one = str(tmp_path / "*.gz"), str(tmp_path / "a.wet.gz")
    files = find_crawl_files([glob])
    assert [file.name for file in files] == ["a.wet.gz", "b.wet.gz", "c.wet.gz"]
    assert find_crawl_files([one, glob, one]) == files


def test_name_with_glob_characters(tmp_path):
    path = crawl.write(tmp_path / "a[1].gz", [crawl.record("text", "u")])
    assert find_crawl_files([str(path)])[0].name == "a[1].gz"


def test_the_content_tells_the_format_whatever_the_name(tmp_path):
    record, line = crawl.record("text", "u"), b'{"text": "t"}\n'
    zstd, damaged_member = zstandard.ZstdCompressor().compress, b"\x1f\x8b\x08" + b"\xff" * 50
    pq.write_table(pa.table({"text": ["t"]}), tmp_path / "table.gz")
    expected = {"table.gz": "parquet"}
    for kind, content in [("warc", record), ("jsonl", line), ("other", b"<html>")]:
        for name, packed in [
            ("plain.parquet", content),
            ("gzip.zst", gzip.compress(content)),
            ("zstd.json", zstd(content)),
            ("zstd.skip", b"\x5f\x2a\x4d\x18\x03\0\0\0abc" + zstd(content)),
            ("hollow", gzip.compress(b"") + gzip.compress(content)),
            ("spaced", b"\r\n\n" + content),
        ]:
            (tmp_path / f"{kind}.{name}").write_bytes(packed)
            expected[f"{kind}.{name}"] = kind
    for name, content, kind in [
        ("arc", b"filedesc://a 0.0.0.0 20100107065932 text/plain 9\n1 0 Owner", "arc"),
        ("cut.arc", b"http://a.org/" + b"b" * 99 + b" ::1 20100107065932 text/html 9\n", "arc"),
        ("behind.arc.gz", damaged_member + gzip.compress(b"http://a.org/" + b"b" * 99), "arc"),
        ("links", b"http://a.org/\nhttp://b.org/\n", "other"),
        ("bom", b"\xef\xbb\xbf" + line, "jsonl"),
        ("array", b"[" + line + b"]", "json_array"),
        ("array.gz", gzip.compress(b"\n[\n  {\n"), "json_array"),
        ("numbers", b"[1, 2]", "other"),
        ("settings", b"[section]\n", "other"),
        ("prose", b"Hello, world\n", "other"),
        ("line", b"one\ntwo,three\n", "other"),
        ("pretty", b'{\n  "text": "t"\n}\n', "pretty_json"),
        ("pretty.zst", zstd(b'{\r\n\t"text": "t"}'), "pretty_json"),
        ("hollow.jsonl", b"{}\n" + line, "jsonl"),
        ("blank", b"\n\n", "other"),
        ("empty", b"", "empty"),
        ("hollow.gz", gzip.compress(b""), "empty"),
        ("hollow.zst", zstd(b""), "empty"),
        ("damaged.gz", b"\x1f\x8b\x08" + b"\xff" * 50, "damaged"),
        ("damaged.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "damaged"),
        ("cut.gz", gzip.compress(line)[:5], "damaged"),
        ("tiny", b"\x1f", "damaged"),
        ("behind.gz", damaged_member + gzip.compress(line), "jsonl"),
        ("behind.warc.gz", damaged_member + gzip.compress(b"WARC/1.0\r\n"), "warc"),
        ("behind.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 50 + zstd(line), "damaged"),
        ("nothing.gz", damaged_member + gzip.compress(b"text"), "damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        expected[name] = kind
    (tmp_path / "directory").mkdir()
    found = {file.name: file.format for file in find_crawl_files([str(tmp_path / "*")])}
    assert found == expected


def test_bad_inputs_are_named(tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    os.mkfifo(tmp_path / "pipe")
    for given_input, message in [
        (str(tmp_path / "missing.gz"), "does not exist"),
        (str(tmp_path / "*.wet.gz"), "matches no file"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "page.html"), "none of WARC, WET, ARC, JSONL or Parquet"),
        (str(tmp_path / "pipe"), "not a regular file"),
        ("nowhere://bucket/a.gz", "nowhere:// cannot be reached: give a path"),
        ("https://a.example/", "names no file"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            find_crawl_files([given_input])
        assert given_input in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no input"):
        find_crawl_files([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_input_is_named(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot read input"):
        find_crawl_files([str(path)])


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wet")).write_bytes(b"WARC/1.0\r\n")
    with pytest.raises(UserError, match=r"caf\\xe9.wet' is not UTF-8: rename"):
        find_crawl_files([str(tmp_path / "*.wet")])


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b'[{"text": "t"}]', "a JSON array, .* jq -c '.\\[\\]'"),
        (b'{\n"text": 1}', "lines, .* jq -c ."),
        (bz2.compress(b'{"text": 1}'), "compressed with bzip2: .* `bzcat IN.bz2 .* > OUT.gz`"),
        (lzma.compress(b'{"text": 1}'), "compressed with xz: .* `xzcat"),
        (b"PK\x03\x04", "a ZIP archive: unpack it"),
        (b'id,"url",text\n1,', "a table of text.*: convert it to Parquet"),
        (b"\xef\xbb\xbfurl\tr\xc3\xa9sum\xc3\xa9\ttext_of_a_page" + b"_" * 99, "a table of text"),
        (gzip.compress(b"url;text\r\n", mtime=0), "a table of text"),
    ],
)
def test_what_can_be_converted_is_named_with_the_fix(tmp_path, content, fix):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"input .*a.json is .*{fix}"):
        find_crawl_files([str(tmp_path / "a.json")])
    assert len(find_crawl_files([str(tmp_path / "*.json")])) == 1


def test_a_file_counts_under_each_name_but_once_in_a_walk(tmp_path):
    crawl.write(tmp_path / "2024" / "a.wet.gz", [crawl.record("text", "u")])
    for name in ("latest", "again"):
        (tmp_path / name).symlink_to("2024")
    (tmp_path / "2024" / "up").symlink_to(".")

    def found(*patterns: str) -> list[str]:
        files = find_crawl_files([str(tmp_path / pattern) for pattern in patterns])
        return [str(os.path.relpath(file.path, tmp_path)) for file in files]

    each = [f"{name}/a.wet.gz" for name in ("2024", "again", "latest")]
    assert found("*/a*", "latest/*", "2024/../2024/a.wet.gz") == each
    assert found("**/a*") == found("**/a*", "2024/*") == each[:1]
