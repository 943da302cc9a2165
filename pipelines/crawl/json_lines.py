"""Reads pages from JSON Lines: one object a line, plain, gzip or zstd."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from pipelines.crawl.files import BYTE_ORDER_MARK
from pipelines.crawl.rows import page_from_fields
from pipelines.crawl.streams import (
    DamagedStreamError,
    DecompressedStream,
    compression_of,
    open_input,
    zstd_dictionary,
)
from pipelines.records import Page, Rejected

_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of a file; `content` is None where it is longer than allowed.

    `offset` counts bytes of the decompressed stream.
    """

    offset: int
    content: bytes | None


def read_json_lines(
    path: str, name: str, *, max_bytes: int, drop_metadata_lines: bool
) -> Iterator[Page | Rejected]:
    """Yield a page or a rejection for every line that is not blank.

    A damaged stream gives the lines before the damage and one rejection; the rest is not read.

    Args:
        path: where to open the file.
        name: its base name; a page's `source` adds the offset of its line.
        max_bytes: longer lines are rejected, and never held in memory as a whole.
        drop_metadata_lines: see `CorpusConfig`.
    """
    with open_input(path) as file:
        compression = compression_of(file.read(4))
        stream = None
        try:
            dictionary = zstd_dictionary(file) if compression == "zstd" else None
            stream = DecompressedStream(file, compression, dictionary=dictionary, salvage=True)
            for line in read_lines(stream, max_bytes):
                source = f"{name}@{line.offset}"
                if line.content is None:
                    detail = f"a line of more than {max_bytes} bytes"
                    yield Rejected("read", "too_large", source, detail=detail)
                    continue
                fields = _parse(line.content, source)
                if isinstance(fields, Rejected):
                    yield fields
                    continue
                yield page_from_fields(
                    fields, source, max_bytes=max_bytes, drop_metadata_lines=drop_metadata_lines
                )
        except DamagedStreamError as damaged:
            offset = stream.tell() if stream else 0
            detail = f"the compressed data from byte {damaged.offset} on: {damaged}"
            yield Rejected("read", "damaged", f"{name}@{offset}", detail=detail)


def read_lines(stream: DecompressedStream, max_bytes: int) -> Iterator[Line]:
    """Split a stream at newlines, without blank lines; memory is bounded by `max_bytes`.

    A last line that damage has cut off is part of the damage, and does not come out.
    """
    kept: list[bytes] = []
    kept_bytes = offset = 0
    while True:
        block = stream.read(_READ_BYTES)
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
        return Rejected("read", "bad_json", source, detail=str(error))
    if not isinstance(value, dict):
        detail = f"a {type(value).__name__}, not an object"
        return Rejected("read", "bad_json", source, detail=detail)
    return value
