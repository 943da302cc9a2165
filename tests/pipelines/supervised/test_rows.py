import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised import rows
from mswitch.pipelines.supervised.definition import RowError
from mswitch.pipelines.supervised.rows import read_rows

ROWS = [{"a": "one, two", "b": 'say "x"'}, {"a": "naïve", "b": "ß"}, {"a": "3", "b": ""}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TSV = "".join("\t".join(values) + "\n" for values in (ROWS[0], *map(dict.values, ROWS))).encode()
CSV = b'a,b\n"one, two","say ""x"""\nna\xc3\xafve,\xc3\x9f\n3,\n'


def read(path: Path, **options) -> list:
    """Rows as they are; of those that cannot be read, number and reason."""
    return [
        (number, row.reason) if isinstance(row, RowError) else row
        for number, row in read_rows(str(path), path.name, **options)
    ]


@pytest.mark.parametrize("content", [JSONL, TSV, CSV, TSV.replace(b"\n", b"\r\n")])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_a_text_file_is_read_whatever_it_is_called(tmp_path, content, compress):
    path = tmp_path / "rows.any"
    path.write_bytes(compress(content))
    assert read(path) == ROWS
    path.write_bytes(compress(b"\xef\xbb\xbf" + content))
    assert read(path) == ROWS


def test_parquet_is_read_with_what_is_wanted(tmp_path):
    nested = [{**row, "c": {"d": [1]}} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "rows", row_group_size=2)
    assert read(tmp_path / "rows") == nested
    assert read(tmp_path / "rows", wanted=("a", "b")) == ROWS
    assert read(tmp_path / "rows", wanted=("c.d",)) == [{"c": row["c"]} for row in nested]


def test_columns_without_a_header(tmp_path):
    (tmp_path / "rows").write_bytes(TSV.partition(b"\n")[2])
    assert read(tmp_path / "rows", columns=("a", "b")) == ROWS


def test_hostile_lines_of_json_are_counted_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1000)
    deep = b"[" * 900
    long = json.dumps({"a": "x" * 5000}).encode()
    lines = [b"{", b"[1]", b'"a"', deep, b'{"a": "\xff"}', long, b"", b'{"a": "last"}']
    (tmp_path / "rows").write_bytes(JSONL * 4 + b"\n".join(lines))
    assert read(tmp_path / "rows")[12:] == [
        (13, "bad_json"),
        (14, "bad_json"),
        (15, "bad_json"),
        (16, "bad_json"),
        (17, "bad_utf8"),
        (18, "too_large"),
        {"a": "last"},
    ]


def test_hostile_lines_of_tables_are_counted_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1000)
    bad = b"one\n\xff\ttwo\n" + b"x" * 5000 + b"\t\n" + b"a\tb\tc\n4\t5\n"
    (tmp_path / "rows").write_bytes(TSV + bad)
    expected = [(5, "columns"), (6, "bad_utf8"), (7, "too_large"), (8, "columns")]
    assert read(tmp_path / "rows") == [*ROWS, *expected, {"a": "4", "b": "5"}]


def test_a_quote_that_is_never_closed_is_counted(tmp_path):
    (tmp_path / "rows").write_bytes(CSV + b'"open,5\nand,on\n')
    assert read(tmp_path / "rows") == [*ROWS, (5, "bad_csv")]


def test_a_quoted_field_may_have_lines(tmp_path):
    (tmp_path / "rows").write_bytes(CSV + b'"a\n\nb",5\n1,2,3\n')
    assert read(tmp_path / "rows") == [*ROWS, {"a": "a\n\nb", "b": "5"}, (8, "columns")]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_what_comes_before_damage_is_read(tmp_path, compress):
    many = "".join(json.dumps({"a": f"{i * 7919} {i}"}) + "\n" for i in range(50_000)).encode()
    data = bytearray(compress(many))
    (tmp_path / "rows").write_bytes(data[: len(data) // 2])
    found = read(tmp_path / "rows")
    assert found[:3] == [{"a": "0 0"}, {"a": "7919 1"}, {"a": "15838 2"}]
    assert found[-1] == (len(found), "damaged")
    assert 1000 < len(found) < 50_000


def test_damaged_parquet_is_counted(tmp_path):
    table = pa.table({"a": [f"{i * 7919}" for i in range(10_000)]})
    path = tmp_path / "rows"
    pq.write_table(table, path, row_group_size=5000, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 255
    path.write_bytes(data)
    found = read(path)
    assert found[:2] == [{"a": "0"}, {"a": "7919"}]
    assert [row for row in found if isinstance(row, tuple)] == [(len(found), "damaged")]
    path.write_bytes(b"PAR1" + bytes(100))
    assert read(path) == [(1, "damaged")]


def test_text_of_parquet_that_is_not_utf8_is_counted(tmp_path):
    raw = pa.array([b"one", b"\xff", b"two"]).view(pa.string())
    pq.write_table(pa.table({"a": raw}), tmp_path / "rows")
    assert read(tmp_path / "rows") == [{"a": "one"}, (2, "bad_utf8"), {"a": "two"}]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 10**18, 1], pa.timestamp("us")),
        ([1000, 1001, 2000], pa.timestamp("ns")),
        ([0, 2**31 - 1, 1], pa.date32()),
    ],
)
def test_values_of_parquet_that_python_has_not_are_counted(tmp_path, values, kind):
    pq.write_table(pa.table({"a": pa.array(values, kind)}), tmp_path / "rows")
    first, bad, last = read(tmp_path / "rows")
    assert bad == (2, "bad_value")
    assert isinstance(first, dict)
    assert isinstance(last, dict)


def test_an_unknown_time_zone_is_counted(tmp_path):
    kind = pa.timestamp("us", tz="Mars/Olympus")
    pq.write_table(pa.table({"a": pa.array([1], kind)}), tmp_path / "rows")
    assert read(tmp_path / "rows") == [(1, "bad_value")]


def test_rows_of_parquet_are_as_large_as_what_is_in_their_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1000)
    large = {"a": [{"b": "x" * 600}, {"b": "x" * 600}]}
    small = {"a": [{"b": "x" * 600}]}
    pq.write_table(pa.Table.from_pylist([large, small]), tmp_path / "rows")
    assert read(tmp_path / "rows") == [(1, "too_large"), small]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither JSON Lines, TSV or CSV"),
        (b"one column\n", "neither JSON Lines, TSV or CSV"),
        (b'[{"a": 1}]', "rows is a JSON array, not JSON Lines: convert it with jq"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "rows")


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "rows"
    path.write_bytes(b'{"a": 1}\n' * 20 + content)
    for number, row in read_rows(str(path), "rows"):
        assert number > 0
        assert isinstance(row, dict | RowError)
