"""Rows of a small task, as files of every kind."""

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


def write_kinds(folder: Path) -> None:
    """Write 100 rows to each of five files."""
    parts = [rows(100, 100 * number) for number in range(5)]
    (folder / "plain").write_bytes(json_lines(parts[0]))
    (folder / "gzip").write_bytes(gzip.compress(json_lines(parts[1])))
    (folder / "zstd").write_bytes(zstandard.compress(json_lines(parts[2])))
    table = "".join("\t".join(row.values()) + "\n" for row in parts[3])
    (folder / "tsv").write_text("title\tlabel\tlang\tproduct\n" + table)
    pq.write_table(pa.Table.from_pylist(parts[4]), folder / "parquet")


def write_task(folder: Path, files: str, text: str = TASK) -> Path:
    path = folder / "task.toml"
    path.write_text(text.replace("{files}", files))
    return path


ALL_KINDS = '["plain", "gzip", "zstd", "tsv", "parquet"]\nsplit = "hash"'
