"""Reads pages from JSON Lines: one object per line, plain, gzip or zstd."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from mswitch.pipelines.crawl.columns import find_kind, join_kinds
from mswitch.pipelines.crawl.decompression import (
    DamagedStreamError,
    Members,
    open_input,
)
from mswitch.pipelines.crawl.fields import Reading, find_value, list_field_names
from mswitch.pipelines.crawl.files import BYTE_ORDER_MARK
from mswitch.pipelines.crawl.rows import make_page_from_fields
from mswitch.pipelines.records import Page, Rejected, reject_record

_SKIP_BYTES = 1 << 20
#: Maximum lists and objects in a line, because each takes up to 30 times its bytes in memory.
_MOST_VALUES = 1 << 20
_ONE_A_LINE = "each line must be one JSON object"


def read_json_lines(path: str, name: str, reading: Reading) -> Iterator[Page | Rejected]:
    """Yield a page or a rejection for every line that is not blank.

    Damaged compressed data, with the line that it cuts off, yields one rejection, the last result.

    `name` is the file's base name; a page's `source` adds the offset of its line. A line longer
    than `reading.max_record_bytes` is never in memory as a whole.
    """
    with open_input(path) as file:
        stream = Members(file).open()
        known: Reading | None = None
        try:
            for offset, line in read_lines(stream.buffered(), reading.max_record_bytes):
                source = f"{name}@{offset}"
                if line is None:
                    detail = f"a line of more than {reading.max_record_bytes} bytes"
                    yield reject_record("too_large", source, detail)
                elif isinstance(row := _parse(line, source), Rejected):
                    yield row
                else:
                    known = known or reading.recognize(list_field_names(row))
                    yield make_page_from_fields(row, source, known)
        except DamagedStreamError as damaged:
            detail = f"what follows byte {damaged.offset} of the file is not read: {damaged}"
            yield reject_record("damaged", f"{name}@{stream.tell()}", detail)


def read_field_kinds(path: str, max_bytes: int, rows: int) -> dict[str, str]:
    """Return each field's kind in the first `rows` JSON objects; skip objects over `max_bytes`."""
    kinds: dict[str, str] = {}
    with open_input(path) as file, contextlib.suppress(DamagedStreamError):
        lines = read_lines(Members(file).open().buffered(), max_bytes)
        parsed = (_parse(line, "") for _, line in lines if line is not None)
        objects = (row for row in parsed if not isinstance(row, Rejected))
        for row in itertools.islice(objects, rows):
            for name in list_field_names(row):
                kinds[name] = join_kinds(kinds.get(name, ""), find_kind(find_value(row, name)))
    return kinds


def read_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the non-blank lines of a file with their offsets; a line that is too long is None.

    A last line that damage cuts off counts as damage, and is not yielded.
    """
    offset = 0
    while line := file.readline(max_bytes + 1):
        start, offset = offset, offset + len(line)
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while not line.endswith(b"\n") and (line := file.readline(_SKIP_BYTES)):
                offset += len(line)
            yield start, None
        elif line.strip():
            yield start, line.removesuffix(b"\n")


def _parse(line: bytes, source: str) -> dict[str, Any] | Rejected:
    if line.count(b"[") + line.count(b"{") > _MOST_VALUES:
        detail = f"more than {_MOST_VALUES} lists and objects in a line"
        return reject_record("too_large", source, detail)
    try:
        value = json.loads(line.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        return reject_record("bad_utf8", source, str(error))
    except (ValueError, RecursionError) as error:
        return reject_record("bad_json", source, f"{error}; {_ONE_A_LINE}")
    if not isinstance(value, dict):
        return reject_record("bad_json", source, f"a {type(value).__name__}; {_ONE_A_LINE}")
    return value
