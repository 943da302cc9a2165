"""Rows of a small task, as files of every kind, with rows that cannot be used among them."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

LANGUAGES = ("en", "sw", "he", "sr-Latn")
LABELS = ("negative", "positive")
TASK = """
name = "reviews"
files = {files}
inputs = "sentiment: {title}"
targets = "{label}"
labels = { 0 = "negative", 1 = "positive" }
language = "{lang}"
group = "{product}"
"""


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    """Rows of several languages, three of each product."""
    return [
        {
            "title": f"human beings are born number {number}",
            "label": str(number // 4 % 2),
            "lang": LANGUAGES[number % len(LANGUAGES)],
            "product": f"p{number // 3}",
        }
        for number in range(first, first + count)
    ]


def json_lines(values: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in values).encode()


def write_kinds(folder: Path) -> dict[str, int]:
    """Write 100 rows to each of five files; return how many bad rows those have, by reason."""
    parts = [rows(100, 100 * number) for number in range(5)]
    surrogate = b'{"title": "\\ud800", "label": "0", "lang": "en", "product": "x"}\n'
    nul = b'{"title": "\\u0000", "label": "0", "lang": "en", "product": "x"}\n'
    hostile = b"{\n\xff{}\n" + surrogate + nul
    (folder / "plain").write_bytes(json_lines(parts[0]) + hostile)
    (folder / "gzip").write_bytes(gzip.compress(json_lines(parts[1])))
    (folder / "zstd").write_bytes(zstandard.compress(json_lines(parts[2])))
    table = "".join("\t".join(row.values()) + "\n" for row in parts[3])
    (folder / "tsv").write_text("title\tlabel\tlang\tproduct\n" + table + "short\n")
    pq.write_table(pa.Table.from_pylist(parts[4]), folder / "parquet")
    return dict.fromkeys(("bad_json", "bad_utf8", "bad_unicode", "nul", "columns"), 1)


def write_task(folder: Path, files: str, text: str = TASK) -> Path:
    path = folder / "task.toml"
    path.write_text(text.replace("{files}", files))
    return path


ALL_KINDS = '["plain", "gzip", "zstd", "tsv", "parquet"]\nsplit = "hash"'
