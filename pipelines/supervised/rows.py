"""Rows of JSON Lines, TSV, CSV and Parquet files, told apart by content; hostile ones are counted.

JSON Lines, TSV and CSV may be compressed with gzip or zstd. CSV is RFC 4180 (quotes, line breaks
within them); in TSV a quote is a character like any other, as in XNLI's and PAWS-X's files.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.crawl.files import BYTE_ORDER_MARK, PARQUET_MAGIC
from mswitch.pipelines.crawl.streams import (
    DamagedStreamError,
    DecompressedStream,
    Members,
    describe_damage,
    open_input,
)
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.definition import RowError
from mswitch.pipelines.supervised.formats import Numbered, read_squad, read_wikiann

#: A longer row is counted as too large; no task of mT5 or T5 has one of a tenth of it.
MAX_ROW_BYTES = 4 << 20
_HEAD_BYTES = 64 << 10
_BATCH_ROWS = 1_000


def read_rows(
    path: str,
    name: str,
    columns: Sequence[str] = (),
    wanted: Sequence[str] = (),
    file_format: str = "",
) -> Iterator[Numbered]:
    """Yield the rows of a file, and a `RowError` for each that cannot be read.

    Args:
        path: a local file.
        name: what to call it in messages.
        columns: names of columns where TSV and CSV have no header.
        wanted: fields to read of Parquet; by default all.
        file_format: of a file that is none of these: `squad` or `wikiann`.
    """
    with open_input(path) as file:
        if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            yield from _read_parquet(file, wanted)
            return
        number = 0
        try:
            if file_format == "squad":
                yield from read_squad(_open_text(file), name)
                return
            lines = _lines(_open_text(file))
            if file_format == "wikiann":
                yield from read_wikiann(lines)
                return
            head = list(itertools.islice(lines, 20))
            kind = _kind(head, name)
            lines = itertools.chain(head, lines)
            rows = _json_rows(lines) if kind == "jsonl" else _table_rows(lines, kind, columns)
            for number, row in rows:
                yield number, row
        except DamagedStreamError as error:
            yield number + 1, RowError("damaged", f"{error}: nothing is read from here on")


class _Plain(io.RawIOBase):
    """A decompressed stream as Python's `io` has them."""

    def __init__(self, stream: DecompressedStream):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._stream.locate(self._stream.tell())  # forgets the members before
        buffer[: len(data)] = data
        return len(data)


def _open_text(file: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(_Plain(Members(file).open()), 1 << 16)


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, bytes | RowError]]:
    for number in itertools.count(1):
        line = file.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW_BYTES)
            yield number, RowError("too_large", f"more than {MAX_ROW_BYTES:,} bytes")
        else:
            yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _kind(
    head: Sequence[tuple[int, bytes | RowError]], name: str
) -> Literal["jsonl", "tsv", "csv"]:
    """Most of the first lines of JSON Lines begin with a brace; a header has tabs or commas."""
    lines = [line for _, line in head if isinstance(line, bytes) and line.strip()]
    if 2 * sum(line.lstrip().startswith(b"{") for line in lines) > len(lines) > 0:
        return "jsonl"
    if lines and lines[0].lstrip().startswith(b"["):
        raise UserError(f"{name} is a JSON array, not JSON Lines: convert it with jq -c '.[]'")
    if lines and b"\t" in lines[0]:
        return "tsv"
    if lines and b"," in lines[0]:
        return "csv"
    raise UserError(f"{name} is neither JSON Lines, TSV or CSV with columns, nor Parquet")


def _json_rows(lines: Iterator[tuple[int, bytes | RowError]]) -> Iterator[Numbered]:
    for number, line in lines:
        if isinstance(line, RowError):
            yield number, line
        elif line.strip():
            yield number, _parse(line)


def _parse(line: bytes) -> Mapping[str, Any] | RowError:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return RowError("bad_utf8", str(error))
    except (ValueError, RecursionError) as error:
        return RowError("bad_json", str(error))
    if not isinstance(value, dict):
        return RowError("bad_json", f"a {type(value).__name__}, not an object")
    return value


def _table_rows(
    lines: Iterator[tuple[int, bytes | RowError]], kind: str, columns: Sequence[str]
) -> Iterator[Numbered]:
    # A quote that is never closed swallows what follows, up to this limit.
    csv.field_size_limit(MAX_ROW_BYTES)
    bad: list[Numbered] = []
    first = last = 0

    def decoded() -> Iterator[str]:
        nonlocal first, last
        for number, line in lines:
            first, last = first or number, number
            try:
                if isinstance(line, bytes):
                    yield line.decode()
                    continue
                error = line
            except UnicodeDecodeError as undecoded:
                error = RowError("bad_utf8", str(undecoded))
            bad.append((number, error))
            first = 0

    if kind == "csv":
        reader = csv.reader(decoded(), strict=True)
    else:
        reader = csv.reader(decoded(), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = list(columns)
    while True:
        first = 0
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            bad.append((first or last, RowError("bad_csv", str(error))))
            values = []
        yield from bad
        bad.clear()
        if not values:
            continue
        if not names:
            names = values
        elif len(values) != len(names):
            detail = f"{len(values)} columns, not {len(names)} ({', '.join(names)})"
            yield first, RowError("columns", detail)
        else:
            yield first, dict(zip(names, values, strict=True))
    yield from bad


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(_size, value))


def _read_parquet(file: BinaryIO, wanted: Sequence[str]) -> Iterator[Numbered]:
    number = 0
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        named = {field.partition(".")[0] for field in wanted} | set(wanted)
        there = [name for name in table.schema_arrow.names if not wanted or name in named]
        # No column would give rows without fields, and how many there are is not known then.
        for batch in table.iter_batches(_BATCH_ROWS, columns=there or None):
            for offset in range(batch.num_rows):
                number += 1
                try:
                    row = batch.slice(offset, 1).to_pylist()[0]
                except (ValueError, OverflowError, KeyError) as error:
                    # Python has no dates after 9999, no nanoseconds and not every time zone.
                    reason = "bad_utf8" if isinstance(error, UnicodeDecodeError) else "bad_value"
                    yield number, RowError(reason, str(error))
                    continue
                if _size(row) > MAX_ROW_BYTES:
                    yield number, RowError("too_large", f"more than {MAX_ROW_BYTES:,} characters")
                else:
                    yield number, row
    except (pa.ArrowException, OSError, EOFError, MemoryError, ValueError) as error:
        detail = f"{describe_damage(error)}: nothing is read from here on"
        yield number + 1, RowError("damaged", detail)
