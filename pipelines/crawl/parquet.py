"""Reads pages from Parquet, row group by row group."""

import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.crawl.columns import LIST
from mswitch.pipelines.crawl.decompression import BOMB_BYTES, MAX_RATIO, describe_damage, open_input
from mswitch.pipelines.crawl.fields import Reading, describe_missing
from mswitch.pipelines.crawl.rows import make_page_from_fields
from mswitch.pipelines.records import Page, Rejected, reject_record

BATCH_ROWS = 100
#: Maximum bytes of the rows to decode at a time, with the dictionaries of their columns.
BATCH_BYTES = 64 << 20
#: Bytes to read at a time to look at a row group's first pages.
_LOOK_BYTES = 64 << 10
#: Start of a page's header in Thrift's compact form: type (4: dictionary), decompressed size.
_PAGE_HEADER = re.compile(rb"\x15([\x00-\x7f])\x15([\x80-\xff]{0,4}[\x00-\x7f])")
_DICTIONARY_PAGE = b"\x04"
#: Text rarely has a higher compression ratio.
_ORDINARY = 100
#: Row groups with a larger decompressed column are rejected unread: Arrow allows 2 GiB per page.
MAX_COLUMN_BYTES = 2 << 30

#: Minimum bytes of a row. It limits how many unreadable rows a file can claim.
MIN_ROW_BYTES = 4

#: Type of a kept column (`columns.KINDS`) by its Parquet type. Columns of other types become text.
_KINDS = {"BOOLEAN": "bool", "INT32": "int64", "INT64": "int64", "FLOAT": "float64",
          "DOUBLE": "float64"}  # fmt: skip

#: Exceptions from a damaged file; causes include Thrift, missing codecs and absurd allocations.
_DAMAGE = (pa.ArrowException, OSError, EOFError, MemoryError, ValueError)


def read_table(path: str, name: str, reading: Reading) -> Iterator[Page | Rejected]:
    """Yield a page or a rejection for every row.

    If a row group cannot be read, each of its rows is a rejection, or all rows together if there
    cannot be as many as the file claims. Reading continues at the next row group, but stops at a
    file with more text than compression allows.

    `name` is the file's base name; a page's `source` adds the number of its row.
    `reading.max_record_bytes` limits all strings of a row together.
    """
    max_bytes = reading.max_record_bytes
    with open_input(path) as raw:
        try:
            file = _open(raw)
            columns = file.schema
            names = _list_paths(columns)
            reading = reading.recognize(names)._replace(unread=_find_lists(file, names))
            fields = reading.fields
            looked_for = dict.fromkeys(path for paths in fields.values() for path in paths)
            kept = dict.fromkeys(column.path for column in reading.keep)
            lenient = (kept.keys() & names) - looked_for.keys()
            wanted = [path for path in looked_for | kept if path in names]
            strings = [
                column.path
                for column in map(columns.column, range(len(columns)))
                if column.path in wanted and column.physical_type == "BYTE_ARRAY"
            ]
            kinds = {column.name: str(column.type) for column in file.schema_arrow}
        except _DAMAGE as error:
            yield reject_record("damaged", f"{name}@0", describe_damage(error))
            return
        size = raw.seek(0, os.SEEK_END)
        unread = _UnreadRows(name, size // MIN_ROW_BYTES)
        if not set(fields["text"]) & set(strings):
            given = [
                f"{path} is of type {kinds[path]:.60}" for path in fields["text"] if path in kinds
            ]
            wrong = f"{given[0]}, not text" if given else ""
            detail = describe_missing("text", fields["text"], names, wrong)
            yield from unread.reject("no_text", 0, file.metadata.num_rows, detail)
            return
        first = text_bytes = 0
        for number in range(file.num_row_groups):
            rows = max(0, file.metadata.row_group(number).num_rows)
            at = first
            try:
                if error := _find_too_large(file, number, wanted):
                    yield from unread.reject("too_large", first, rows, error)
                    continue
                for row in _read_rows(file, raw, number, wanted):
                    source = f"{name}@{at}"
                    at += 1
                    row_bytes = sum(len(v) for v in row.values() if isinstance(v, bytes))
                    text_bytes += row_bytes
                    if row_bytes > max_bytes:
                        yield reject_record("too_large", source, f"more than {max_bytes} bytes")
                        continue
                    if text_bytes > BOMB_BYTES and text_bytes > MAX_RATIO * size:
                        yield reject_record("damaged", source, "it expands beyond reason")
                        return
                    yield _make_page(row, source, reading, lenient)
                if at < first + rows:
                    lacking = first + rows - at
                    yield from unread.reject("damaged", at, lacking, f"{lacking} rows lack")
            except _DAMAGE as error:
                detail = describe_damage(error)
                yield from unread.reject("damaged", at, first + rows - at, detail)
            finally:
                first += rows


def read_column_kinds(path: str) -> dict[str, str]:
    """Return the kinds of all columns of a file by their paths; lists and maps are `LIST`.

    A damaged file has none; `read_table` counts it.
    """
    try:
        with open_input(path) as raw:
            file = _open(raw)
            columns, names = file.schema, _list_paths(file.schema)
            lists = _find_lists(file, names)
    except _DAMAGE:
        return {}
    leaves = [columns.column(number) for number in range(len(columns))]
    plain = {leaf.path: leaf for leaf in leaves if leaf.logical_type.type in ("NONE", "INT")}
    kinds = {path: _KINDS.get(leaf.physical_type, "string") for path, leaf in plain.items()}
    readable = {path: kinds.get(path, "string") for path in names}
    return readable | dict.fromkeys(sorted(lists), LIST)


def _list_paths(columns: pq.ParquetSchema) -> list[str]:
    """Return the columns with one value per row."""
    leaves = map(columns.column, range(len(columns)))
    return [column.path for column in leaves if not column.max_repetition_level]


def _find_lists(file: pq.ParquetFile, names: Collection[str]) -> set[str]:
    """Return the paths of list and map columns, also in structs, except those in `names`."""
    lists: set[str] = set()
    columns = [(field.name, field.type) for field in file.schema_arrow]
    while columns:
        path, kind = columns.pop()
        if pa.types.is_struct(kind):
            columns += [(f"{path}.{field.name}", field.type) for field in kind]
        elif pa.types.is_nested(kind):
            lists.add(path)
    return lists.difference(names)


class _UnreadRows:
    """Makes a rejection for each row that cannot be read.

    A damaged file may claim any number of rows: beyond `most` in total, rows share a rejection.
    """

    def __init__(self, name: str, most: int):
        self._name, self._left = name, most

    def reject(self, reason: str, first: int, rows: int, detail: str) -> Iterator[Rejected]:
        if rows > self._left:
            detail, rows = f"{rows} rows: {detail}", 1
        rows = max(rows, 1)
        self._left -= rows
        for row in range(first, first + rows):
            yield reject_record(reason, f"{self._name}@{row}", detail)


def _open(raw: Any) -> pq.ParquetFile:
    return pq.ParquetFile(raw, page_checksum_verification=True)


def _find_too_large(file: pq.ParquetFile, number: int, wanted: Sequence[str]) -> str:
    group = file.metadata.row_group(number)
    # Access to a column's damaged metadata would abort the process, because pyarrow does not catch
    # Parquet's exception there. Reading the rows later raises the exception.
    if group.total_byte_size <= MAX_COLUMN_BYTES:
        return ""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema in wanted and column.total_uncompressed_size > MAX_COLUMN_BYTES:
            return f"row group {number}: more than {MAX_COLUMN_BYTES} bytes in one column"
    return ""


def _make_page(
    row: dict[str, Any], source: str, reading: Reading, lenient: Collection[str]
) -> Page | Rejected:
    """Return the page of a row; only `lenient` columns may contain bytes that are not UTF-8."""
    for key in lenient:
        if isinstance(value := row[key], bytes):
            row[key] = value.decode(errors="surrogateescape")
    try:
        values = {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()}
    except UnicodeDecodeError as error:
        return reject_record("bad_utf8", source, str(error))
    return make_page_from_fields(values, source, reading)


def _choose_batch_rows(
    file: pq.ParquetFile, raw: BinaryIO, number: int, wanted: Sequence[str]
) -> int:
    """Return how many rows of a row group to decode at once, since rows may share large values.

    No value is larger than the dictionary of its column. With an encoding that shares beginnings of
    values, no value is larger than its decompressed column.
    """
    # Damaged metadata of a column raises an error here; access to it below would abort the process.
    first = pq.ParquetFile(raw, metadata=file.metadata, pre_buffer=False, buffer_size=_LOOK_BYTES)
    next(first.iter_batches(1, row_groups=[number], columns=list(wanted)), None)
    group, largest = file.metadata.row_group(number), 1
    for column in map(group.column, range(group.num_columns)):
        path, size = column.path_in_schema, column.total_uncompressed_size
        if path not in wanted:
            if path.startswith(tuple(f"{name}." for name in wanted)):
                raise ValueError(f"column {path} exists twice, with different types")
            continue
        # The metadata may state wrong encodings, so also check the compression ratio.
        beyond = size > _ORDINARY * column.total_compressed_size
        if beyond or "DELTA_BYTE_ARRAY" in column.encodings:
            largest += size
            continue
        raw.seek(min(column.data_page_offset, column.dictionary_page_offset or sys.maxsize))
        header = _PAGE_HEADER.match(raw.read(8))
        if header is None:
            largest += column.total_uncompressed_size
        elif header[1] == _DICTIONARY_PAGE:
            bits = "".join(f"{byte & 0x7F:07b}" for byte in reversed(header[2]))
            largest += int(bits, 2) // 2
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def _read_rows(
    file: pq.ParquetFile, raw: BinaryIO, number: int, wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row group's rows by column path; text is bytes, because it is not always UTF-8."""
    size = _choose_batch_rows(file, raw, number, wanted)
    for batch in file.iter_batches(size, row_groups=[number], columns=list(wanted)):
        columns: dict[str, pa.Array] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns |= _flatten(name, column)
        # Convert row by row, because rows may share a large value.
        for values in zip(*map(_read_values, columns.values()), strict=True):
            yield dict(zip(columns, values, strict=True))


def _flatten(path: str, column: pa.Array) -> dict[str, pa.Array]:
    if not isinstance(column, pa.StructArray):
        return {path: column}
    leaves: dict[str, pa.Array] = {}
    for field, child in zip(column.type, column.flatten(), strict=True):
        leaves |= _flatten(f"{path}.{field.name}", child)
    return leaves


def _read_values(column: pa.Array) -> Iterator[Any]:
    """Yield a column's values; replace times beyond Python's range by text: type and integer."""
    if isinstance(column, pa.DictionaryArray):
        indices = np.asarray(column.indices.drop_null())
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(column.dictionary):
            raise pa.ArrowInvalid("an index beyond its dictionary")
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        # Python's datetime has no nanoseconds, and may not know the name of the zone.
        unit = "us" if column.type.unit == "ns" else column.type.unit
        column = column.cast(pa.timestamp(unit), safe=False)
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    yield from map(_get_value, column)


def _get_value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return f"{scalar.type} {getattr(scalar, 'value', '')}"
