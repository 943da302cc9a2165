"""Reads pages from JSON Lines: one object a line, plain, gzip or zstd."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mswitch.pipelines.crawl.decompression import (
    DamagedStreamError,
    DecompressedStream,
    Members,
    open_input,
)
from mswitch.pipelines.crawl.fields import field_names
from mswitch.pipelines.crawl.files import BYTE_ORDER_MARK
from mswitch.pipelines.crawl.rows import page_from_fields
from mswitch.pipelines.records import Page, Rejected

_READ_BYTES = 1 << 20
_ONE_A_LINE = "each line must be one JSON object"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of a file; `content` is None where it is longer than allowed.

    `offset` counts bytes of the decompressed stream.
    """

    offset: int
    content: bytes | None


def read_json_lines(
    path: str,
    name: str,
    *,
    fields: Mapping[str, Sequence[str]],
    max_bytes: int,
    drop_metadata_lines: bool,
) -> Iterator[Page | Rejected]:
    """Yield a page or a rejection for every line that is not blank.

    Damage of the compressed data is one rejection, the last one: behind it nothing is read. A line
    that damage has cut off is part of it.

    Args:
        path: where to open the file.
        name: its base name; a page's `source` adds the offset of its line.
        fields: where each part of a page is looked for; see `map_fields`.
        max_bytes: longer lines are rejected, and never held in memory as a whole.
        drop_metadata_lines: see `CorpusConfig`.
    """
    with open_input(path) as file:
        stream = Members(file).open()
        try:
            for line in read_lines(stream, max_bytes):
                source = f"{name}@{line.offset}"
                if line.content is None:
                    detail = f"a line of more than {max_bytes} bytes"
                    yield Rejected("read", "too_large", source, detail=detail)
                elif isinstance(row := _parse(line.content, source), Rejected):
                    yield row
                else:
                    yield page_from_fields(
                        row,
                        source,
                        fields=fields,
                        max_bytes=max_bytes,
                        drop_metadata_lines=drop_metadata_lines,
                    )
        except DamagedStreamError as damaged:
            detail = f"what follows byte {damaged.offset} of the file is not read: {damaged}"
            yield Rejected("read", "damaged", f"{name}@{stream.tell()}", detail=detail)


def read_field_names(path: str, max_bytes: int) -> list[str]:
    """Return the fields of the first object of a file that is not longer than `max_bytes`."""
    with open_input(path) as file, contextlib.suppress(DamagedStreamError):
        for line in read_lines(Members(file).open(), max_bytes):
            if line.content is not None:
                row = _parse(line.content, "")
                if not isinstance(row, Rejected):
                    return field_names(row)
    return []


def read_lines(stream: DecompressedStream, max_bytes: int) -> Iterator[Line]:
    """Split a stream at newlines, without blank lines; memory is bounded by `max_bytes`.

    A last line that damage has cut off is part of the damage, and does not come out.

    Args:
        stream: what to split.
        max_bytes: of longer lines only the offset is yielded.
    """
    kept: list[bytes] = []
    offset = kept_bytes = 0
    while True:
        block = stream.read(_READ_BYTES)
        stream.locate(stream.tell())  # forgets the members before: there may be millions
        first, *others = block.split(b"\n") if block else (b"", b"")
        for number, part in enumerate((first, *others)):
            if number:
                if line := _line(offset, kept, kept_bytes, max_bytes):
                    yield line
                offset += kept_bytes + 1
                kept, kept_bytes = [], 0
            kept_bytes += len(part)
            if kept_bytes <= max_bytes:
                kept.append(part)
            else:
                kept.clear()
        if not block:
            return


def _line(offset: int, parts: list[bytes], size: int, max_bytes: int) -> Line | None:
    if size > max_bytes:
        return Line(offset, None)
    content = b"".join(parts)
    return Line(offset, content) if content.strip() else None


def _parse(line: bytes, source: str) -> dict[str, Any] | Rejected:
    try:
        value = json.loads(line.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        return Rejected("read", "bad_utf8", source, detail=str(error))
    except (ValueError, RecursionError) as error:
        return Rejected("read", "bad_json", source, detail=f"{error}; {_ONE_A_LINE}")
    if not isinstance(value, dict):
        detail = f"a {type(value).__name__}; {_ONE_A_LINE}"
        return Rejected("read", "bad_json", source, detail=detail)
    return value
