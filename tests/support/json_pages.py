"""Lines of JSON, compressed and read back."""

import gzip
import json
import random
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mswitch.pipelines.crawl.fields import STANDARD_FIELDS
from mswitch.pipelines.crawl.json_lines import read_json_lines
from mswitch.pipelines.records import Page, Rejected

LIMIT = 1 << 20
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {
    "plain": bytes,
    "gzip": partial(gzip.compress, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
COMPRESSORS = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())
COMPRESSED = pytest.mark.parametrize("kind", ["gzip", "zstd"])


def line(number: int, **fields: Any) -> bytes:
    page = {"text": f"page {number}", "url": f"http://a.example/{number}", **fields}
    return json.dumps(page).encode()


def read(path: Path, max_bytes: int = LIMIT) -> list[Page | Rejected]:
    options = {"fields": STANDARD_FIELDS, "max_bytes": max_bytes, "drop_metadata_lines": True}
    return list(read_json_lines(str(path), "f", **options))


def reasons(found: Iterable[Page | Rejected]) -> list[str]:
    return [one.reason if isinstance(one, Rejected) else "" for one in found]


def padded(first: int, count: int) -> bytes:
    """Lines that do not compress away."""
    noise = random.Random(first)
    lines = [line(first + i, padding=noise.randbytes(30).hex()) for i in range(count)]
    return b"\n".join(lines) + b"\n"


def numbers(found: Iterable[Page | Rejected]) -> list[int]:
    """Numbers of the pages in order, -1 for a drop, -2 for a page that noise has changed."""
    texts = [one.text if isinstance(one, Page) else "page -1" for one in found]
    return [int(text[5:]) if re.fullmatch("page -?[0-9]+", text) else -2 for text in texts]
