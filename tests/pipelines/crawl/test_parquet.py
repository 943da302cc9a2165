import datetime
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawl_files import reasons
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mswitch.pipelines.crawl import parquet
from mswitch.pipelines.crawl.fields import STANDARD_FIELDS, Reading, map_fields
from mswitch.pipelines.crawl.parquet import read_table
from mswitch.pipelines.crawl.rows import UNDATED
from mswitch.pipelines.records import DOCUMENT_SCHEMA, Page, Rejected

LIMIT = 1 << 20


def write(path: Path, columns: Any, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def read(
    path: Path, max_bytes: int = LIMIT, fields: Mapping[str, Sequence[str]] = STANDARD_FIELDS
) -> list[Page | Rejected]:
    return list(read_table(str(path), "f", Reading(max_bytes, fields=fields)))


def numbered(count: int) -> dict[str, list[str]]:
    return {
        "text": [f"page {i}" for i in range(count)],
        "url": [f"http://a.example/{i}" for i in range(count)],
    }


@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_page_a_row(tmp_path, row_group_size, use_dictionary):
    path = write(
        tmp_path / "a",
        numbered(2500 if row_group_size > 7 else 20),
        row_group_size=row_group_size,
        use_dictionary=use_dictionary,
    )
    found = read(path)
    assert [page.source for page in found] == [f"f@{i}" for i in range(len(found))]
    assert [page.text for page in found if isinstance(page, Page)] == numbered(len(found))["text"]
    assert len(found) == (2500 if row_group_size > 7 else 20)


def test_a_corpus_of_ours(tmp_path):
    row = {
        "id": "00ff",
        "url": "http://a.example/",
        "text": "one\ntwo",
        "lang": "de",
        "lang_score": 0.9,
        "timestamp": "2024-03-01T12:00:00Z",
        "source": "a.wet.gz@7",
        "record_id": "<urn:uuid:1>",
    }
    path = write(tmp_path / "a", pa.Table.from_pylist([row], DOCUMENT_SCHEMA))
    assert read(path) == [
        Page(
            row["url"],
            row["text"].encode(),
            row["timestamp"],
            1709294400000000,
            "f@0",
            row["record_id"],
        )
    ]


def test_rows_of_datatrove_and_hugging_face(tmp_path):
    metadata = {"url": "http://a.example/", "date": "2024-01-01", "tokens": 7, "more": {"x": [1]}}
    path = write(
        tmp_path / "nested",
        {"text": ["t"], "id": ["<urn:uuid:1>"], "media": [None], "metadata": [metadata]},
    )
    [page] = read(path)
    assert (page.url, page.timestamp, page.record_id) == (
        "http://a.example/",
        "2024-01-01T00:00:00Z",
        "<urn:uuid:1>",
    )
    moment = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
    path = write(
        tmp_path / "flat",
        {
            "text": pa.array(["t", None, "u"], pa.large_string()),
            "url": pa.array(["a", "b", "c"]).dictionary_encode(),
            "timestamp": pa.array([moment, moment, None], pa.timestamp("ns", "Europe/Berlin")),
            "dump": ["CC-MAIN-2024-10"] * 3,
        },
    )
    found = read(path)
    assert reasons(found) == ["", "no_text", ""]
    assert [page.timestamp for page in found if isinstance(page, Page)] == [
        "2024-01-01T12:00:00Z",
        "2024-03-04T00:00:00Z",
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**62, pa.timestamp("us")),
        (2**62, pa.timestamp("us", "Europe/Berlin")),
        (2**60, pa.timestamp("ms")),
        # Times 1000 this is, modulo 2**64, a moment of our days.
        (2**61 + 1_700_000_000_000, pa.timestamp("ms")),
        (2**31 - 1, pa.date32()),
        (20_240_101, pa.date32()),
        (86_400_000 * 2_000_000_000, pa.date64()),
        (2**62, pa.time64("us")),
        (2**62 + 1, pa.time64("ns")),
    ],
    ids=str,
)
def test_a_moment_that_python_lacks_is_no_date(tmp_path, value, kind):
    columns = {**numbered(3), "timestamp": pa.array([0, value, None], kind)}
    found = read(write(tmp_path / "a", columns))
    assert found[1].timestamp == UNDATED


@pytest.mark.parametrize(
    "dates",
    [
        pa.array([1704067200000], pa.int64()),
        pa.array([1704067200000000], pa.int64()),
        pa.array([1704067200.0], pa.float64()),
        pa.array([20240101], pa.int32()),
        pa.array([20240101.0], pa.float64()),
        pa.array([datetime.date(2024, 1, 1)], pa.date32()),
        pa.array([datetime.date(2024, 1, 1)], pa.date64()),
        *(pa.array([datetime.datetime(2024, 1, 1)], pa.timestamp(u)) for u in ("s", "ms", "us")),
        pa.array(["Mon, 01 Jan 2024 00:00:00 GMT"]),
    ],
    ids=lambda dates: str(dates.type),
)
def test_dates_of_any_type(tmp_path, dates):
    [page] = read(write(tmp_path / "a", {**numbered(1), "date": dates}))
    assert (page.timestamp, page.timestamp_micros) == ("2024-01-01T00:00:00Z", 1704067200000000)


def test_fields_of_other_names_at_any_depth(tmp_path):
    metas = [{"link": "http://a.example/", "crawl": {"day": datetime.date(2024, 1, 1)}}, None]
    path = write(tmp_path / "a", {"content": ["one", "two"], "meta": metas})
    fields = map_fields(["text=content", "url=meta.link", "timestamp=meta.crawl.day"])
    page, other = read(path, fields=fields)
    assert (page.text, page.url) == ("one", "http://a.example/")
    assert page.timestamp == "2024-01-01T00:00:00Z"
    assert other.url == "file:///made/f@1"
    # Every row is counted, although none is read.
    found = read(path)
    assert reasons(found) == ["no_text", "no_text"]
    assert found[0].detail.endswith("the fields are content, meta.link, meta.crawl.day")
    found = read(path, fields=map_fields(["text=content"]))
    assert [page.url for page in found] == ["file:///made/f@0", "file:///made/f@1"]


@pytest.mark.parametrize(
    ("column", "kind", "names"),
    [
        (pa.array([1]), "int64", "text, url"),
        (pa.array([["t"]]), "list<element: string>", "url"),
        (
            pa.array([[("a", "t")]], pa.map_(pa.string(), pa.string())),
            "map<string, string ('text')>",
            "url",
        ),
        (pa.array([{"text": "t"}]), "struct<text: string>", "text.text, url"),
        (pa.array([None], pa.null()), "null", "text, url"),
    ],
)
def test_a_table_without_text(tmp_path, column, kind, names):
    [found] = read(write(tmp_path / "a", {"text": column, "url": ["u"]}))
    assert found.reason == "no_text"
    assert found.detail == (
        f"text is of type {kind}, not text: map a field with --field text=NAME; "
        f"the fields are {names}"
    )
    assert reasons(read(write(tmp_path / "b", {"body": column}))) == ["no_text"]


def test_rows_that_are_not_utf8_or_too_long(tmp_path):
    texts = pa.array([b"sound", b"caf\xe9", b"x" * 101, b"sound too"], pa.binary())
    for kind in (pa.binary(), pa.string()):
        column = texts if kind == pa.binary() else texts.view(pa.string())
        path = write(tmp_path / "a", {"text": column, "url": list("abcd")})
        assert reasons(read(path, 100)) == ["", "bad_utf8", "too_large", ""]


def test_a_damaged_row_group_costs_only_itself(tmp_path):
    path = write(
        tmp_path / "a",
        numbered(3000),
        row_group_size=1000,
        compression="zstd",
        write_page_checksum=True,
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 60 : start + 80] = b"\xff" * 20
    path.write_bytes(content)
    found = read(path)
    assert reasons(found) == [""] * 1000 + ["damaged"] * 1000 + [""] * 1000
    assert [one.source for one in found] == [f"f@{i}" for i in range(3000)]


def test_a_damaged_footer_does_not_abort_the_process(tmp_path):
    path = write(tmp_path / "a", numbered(60), row_group_size=20, compression="zstd")
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # The schema no longer has nulls where the size statistics of its column count them.
    content[footer + 20] = 0x52
    path.write_bytes(content)
    script = (
        "import sys\n"
        "from mswitch.pipelines.crawl import fields, parquet\n"
        "found = parquet.read_table(sys.argv[1], 'f', fields.Reading())\n"
        "print(*(getattr(one, 'reason', 'page') for one in found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["damaged"] * 60


def test_no_footer(tmp_path):
    path = write(tmp_path / "a", numbered(10))
    path.write_bytes(path.read_bytes()[:-20])
    [only] = read(path)
    assert (only.reason, only.source) == ("damaged", "f@0")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_survived(tmp_path, data):
    path = write(tmp_path / "a", numbered(60), row_group_size=20, compression="zstd")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(4, len(content) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=20))
    content[at : at + len(noise)] = noise
    path.write_bytes(content)
    assert len(read(path)) <= 60 + 3 + len(content) // parquet.MIN_ROW_BYTES


def test_a_column_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_COLUMN_BYTES", 100_000)
    table = numbered(20)
    table["text"][10:] = [f"{i}" * 20_000 for i in range(10)]
    path = write(tmp_path / "a", table, row_group_size=10, use_dictionary=False)
    found = read(path)
    assert reasons(found) == [""] * 10 + ["too_large"] * 10
    assert [one.source for one in found] == [f"f@{i}" for i in range(20)]


def test_rows_that_a_file_cannot_hold_are_not_counted_singly(tmp_path, monkeypatch):
    path = write(tmp_path / "a", {"text": ["x" * 10] * 10**6, "url": ["u"] * 10**6})
    monkeypatch.setattr(parquet, "MAX_COLUMN_BYTES", 10)
    [only] = read(path)
    assert (only.reason, only.source) == ("too_large", "f@0")
    assert only.detail.startswith("1000000 rows: ")


def shared_values(path: Path, size: int, rows: int) -> Path:
    """A value of `size` bytes that all rows share, in text, URL and metadata."""
    indices = pa.array([0] * rows, pa.int32())
    long = pa.DictionaryArray.from_arrays(indices, ["x" * size])
    nested = pa.StructArray.from_arrays([long], ["url"])
    columns = {"text": long, "url": long, "metadata": nested}
    return write(path, columns, dictionary_pagesize_limit=64 << 20)


def test_a_bomb_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BOMB_BYTES", 1 << 20)
    found = read(shared_values(tmp_path / "a", 10_000, 50_000))
    assert reasons(found)[-1] == "damaged"
    assert set(reasons(found)[:-1]) == {""}
    assert len(found) < 10_000


MIB = 1 << 20


def shared(path: Path) -> Path:
    """A value of 4 MiB that all rows share."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), ["x" * 4 * MIB])
    return write(path, {"text": text, "url": ["u"] * 100}, dictionary_pagesize_limit=64 * MIB)


def repeated(path: Path) -> Path:
    """A value of 4 MiB that each row takes from the row before it."""
    table = {"text": ["x" * 4 * MIB] * 100, "url": ["u"] * 100}
    encodings = {"text": "DELTA_BYTE_ARRAY", "url": "PLAIN"}
    options = {"use_dictionary": False, "write_statistics": False, "compression": "zstd"}
    return write(path, table, column_encoding=encodings, **options)


def brackets(path: Path) -> Path:
    path.write_bytes(b'{"text":"t","url":"u","a":[%s0]}' % (b"[0]," * (4 * MIB - 20)))
    return path


@pytest.mark.parametrize(("make", "most_mib"), [(shared, 320), (repeated, 512), (brackets, 150)])
def test_what_rows_share_is_not_held_for_each(tmp_path, make, most_mib):
    """Measure a child's memory.

    With all rows at a time, shared rows take 450 MiB and repeated rows 700 to 960. Without,
    repeated rows take 240 to 380: Arrow's allocator returns memory late on a busy machine.
    """
    script = (
        "import re, sys\n"
        "from mswitch.pipelines.crawl import fields, files, pages\n"
        "[file] = files.find_crawl_files(sys.argv[1:])\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "reading = fields.Reading(1 << 20 if file.format == 'parquet' else 16 << 20)\n"
        "print(*{getattr(one, 'reason', '') for one in pages.read_pages(file, reading)})\n"
        "print(peak() - before)"
    )
    path = make(tmp_path / "a")
    assert path.stat().st_size < 17 * MIB
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    reasons, kib = done.stdout.splitlines()
    assert reasons == "too_large"
    assert int(kib) < most_mib << 10


def test_errors_of_the_disk_are_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")
