"""Reads rows of JSON Lines, TSV, CSV and Parquet files, up to the first bad row.

The content decides the format. JSON Lines, TSV and CSV may be compressed with gzip or zstd. CSV is
RFC 4180 (quotes, line breaks within them). In TSV, quotes have no meaning, as in XNLI's and
PAWS-X's files.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.crawl.decompression import (
    DamagedStreamError,
    Members,
    describe_damage,
    open_input,
)
from mswitch.pipelines.crawl.files import BYTE_ORDER_MARK, PARQUET_MAGIC
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.definition import RowError
from mswitch.pipelines.supervised.squad_and_wikiann import Numbered, read_squad, read_wikiann

#: Maximum bytes of a row; the longest row in tasks of mT5 and T5 has less than a tenth of this.
MAX_ROW_BYTES = 4 << 20
_BATCH_ROWS = 1_000
#: Errors from damaged files, and from values that Python cannot represent: dates after 9999,
#: nanoseconds, time zones.
_UNREADABLE = (
    pa.ArrowException,
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    EOFError,
    ValueError,
)


def read_rows(
    path: str,
    name: str,
    columns: Sequence[str] = (),
    wanted: Sequence[str] = (),
    file_format: str = "",
) -> Iterator[Numbered]:
    """Yield the rows of a file; raise RowError at the first row that cannot be read.

    Args:
        path: a local file.
        name: name of the file in messages.
        columns: names of columns, if TSV and CSV have no header.
        wanted: fields to read from Parquet; default: all.
        file_format: `squad` or `wikiann`, if the file has this format.
    """
    with open_input(path) as file:
        number = 0
        try:
            for number, row in _read(file, name, columns, wanted, file_format):
                yield number, row
        except DamagedStreamError as error:
            raise RowError(f"the file is damaged here: {error}", number + 1) from error


def _read(
    file: BinaryIO, name: str, columns: Sequence[str], wanted: Sequence[str], file_format: str
) -> Iterator[Numbered]:
    if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
        return _read_parquet(file, wanted)
    content = Members(file).open().buffered()
    if file_format == "squad":
        return read_squad(content, name)
    lines = _read_lines(content)
    if file_format == "wikiann":
        return read_wikiann(lines)
    head = list(itertools.islice(lines, 20))
    kind = _detect_kind([line for _, line in head if line.strip()], name)
    lines = itertools.chain(head, lines)
    return _read_json_rows(lines) if kind == "jsonl" else _read_table_rows(lines, kind, columns)


def _read_lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number in itertools.count(1):
        line = file.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_ROW_BYTES:
            raise RowError(f"more than {MAX_ROW_BYTES:,} bytes", number)
        try:
            yield number, (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise RowError(str(error), number) from error


def _detect_kind(lines: Sequence[str], name: str) -> Literal["jsonl", "tsv", "csv"]:
    if 2 * sum(line.lstrip().startswith("{") for line in lines) > len(lines) > 0:
        return "jsonl"
    if lines and lines[0].lstrip().startswith("["):
        raise UserError(f"{name} is a JSON array, not JSON Lines: convert it with jq -c '.[]'")
    if lines and "\t" in lines[0]:
        return "tsv"
    if lines and "," in lines[0]:
        return "csv"
    raise UserError(
        f"{name} is not JSON Lines, TSV or CSV with several columns, or Parquet: convert it"
    )


def _read_json_rows(lines: Iterator[tuple[int, str]]) -> Iterator[Numbered]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RowError(str(error), number) from error
        if not isinstance(value, dict):
            raise RowError(f"a {type(value).__name__}, not an object", number)
        yield number, value


def _read_table_rows(
    lines: Iterator[tuple[int, str]], kind: str, columns: Sequence[str]
) -> Iterator[Numbered]:
    # An unclosed quote swallows the following lines, up to this limit.
    csv.field_size_limit(MAX_ROW_BYTES)
    texts = (line for _, line in lines)
    if kind == "csv":
        reader = csv.reader(texts, strict=True)
    else:
        reader = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = list(columns)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise RowError(str(error), first) from error
        if values is None:
            return
        if not names:
            names = values
        elif values and len(values) != len(names):
            raise RowError(f"{len(values)} columns, not {len(names)} ({', '.join(names)})", first)
        elif values:
            yield first, dict(zip(names, values, strict=True))


def _read_parquet(file: BinaryIO, wanted: Sequence[str]) -> Iterator[Numbered]:
    number = 0
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        named = {field.partition(".")[0] for field in wanted} | set(wanted)
        there = [name for name in table.schema_arrow.names if not wanted or name in named]
        # Without any column, Parquet would not yield the right number of rows.
        for batch in table.iter_batches(_BATCH_ROWS, columns=there or None):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except _UNREADABLE as error:
        detail = f"this row, or one of the {_BATCH_ROWS - 1} after it: {describe_damage(error)}"
        raise RowError(detail, number + 1) from error
