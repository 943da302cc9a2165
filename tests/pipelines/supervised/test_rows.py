import contextlib
import gzip
import json
import re
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
    return [row for _, row in read_rows(str(path), path.name, **options)]


def refused(path: Path) -> tuple[int, str]:
    """Number of the first row that cannot be read, and why."""
    with pytest.raises(RowError) as error:
        read(path)
    return error.value.number, str(error.value)


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


@pytest.mark.parametrize(
    ("head", "bad", "number", "why"),
    [
        (JSONL, b"{", 4, "Expecting"),
        (JSONL, b"[1]", 4, "a list, not an object"),
        (JSONL, b'\n"a"', 5, "a str, not an object"),
        (JSONL, b"[" * 90_000, 4, "recursion"),
        (JSONL, b'{"a": "\xff"}', 4, "can't decode"),
        (JSONL, b'{"a": "' + b"x" * 100_000, 4, "more than 100,000 bytes"),
        (TSV, b"one", 5, r"1 columns, not 2 \(a, b\)"),
        (TSV, b"4\t5\na\tb\tc", 6, r"3 columns, not 2 \(a, b\)"),
        (TSV, b"\xff\ttwo", 5, "can't decode"),
        (CSV, b'"open,5\nand,on', 5, "expected"),
        (CSV, b'"a\n\nb",5\n1,2,3', 8, "3 columns, not 2"),
    ],
)
def test_the_first_bad_line_is_named_by_its_number(tmp_path, monkeypatch, head, bad, number, why):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100_000)
    (tmp_path / "rows").write_bytes(head + bad + b"\n" + head)
    assert refused(tmp_path / "rows")[0] == number
    assert re.search(why, refused(tmp_path / "rows")[1])


def test_a_quoted_field_may_have_lines(tmp_path):
    (tmp_path / "rows").write_bytes(CSV + b'"a\n\nb",5\n')
    assert read(tmp_path / "rows") == [*ROWS, {"a": "a\n\nb", "b": "5"}]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_damage_is_named_by_the_row_after_the_last_sound_one(tmp_path, compress):
    many = "".join(json.dumps({"a": f"{i * 7919} {i}"}) + "\n" for i in range(50_000)).encode()
    data = bytearray(compress(many))
    (tmp_path / "rows").write_bytes(data[: len(data) // 2])
    number, why = refused(tmp_path / "rows")
    assert 1000 < number < 50_000
    assert why.startswith("the file is damaged here: ")


def test_damaged_parquet_is_named_by_its_row(tmp_path):
    table = pa.table({"a": [f"{i * 7919}" for i in range(10_000)]})
    path = tmp_path / "rows"
    pq.write_table(table, path, row_group_size=5000, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 255
    path.write_bytes(data)
    number, why = refused(path)
    assert 1 <= number <= 10_000
    assert "this row, or one of the 999 after it: " in why
    path.write_bytes(b"PAR1" + bytes(100))
    assert refused(path)[0] == 1


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"one", b"\xff", b"two"]).view(pa.string()),
        pa.array([0, 10**18, 1], pa.timestamp("us")),
        pa.array([1000, 1001, 2000], pa.timestamp("ns")),
        pa.array([0, 2**31 - 1, 1], pa.date32()),
        pa.array([1], pa.timestamp("us", tz="Mars/Olympus")),
    ],
)
def test_values_of_parquet_that_python_has_not_are_refused(tmp_path, values):
    pq.write_table(pa.table({"a": values}), tmp_path / "rows")
    assert refused(tmp_path / "rows")[0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON Lines, TSV or CSV"),
        (b"one column\n", "is not JSON Lines, TSV or CSV"),
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
    found = []
    with contextlib.suppress(RowError):
        found.extend(read_rows(str(path), "rows"))
    assert all(isinstance(row, dict) for _, row in found)
    assert [number for number, _ in found] == sorted({number for number, _ in found})
