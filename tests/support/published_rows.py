"""Rows as published corpora have them, with real text: excerpts of the Declaration of Human Rights.

Columns are those of the corpora's own cards.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gflanguages
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.samples.gflanguages import split_paragraphs

Form = Literal["fineweb2", "hplt", "madlad"]

#: Labels of the corpora for languages whose text gflanguages has: this table's code, ISO 639-3,
#: script. The last is a language that the table lacks.
LABELS = (
    ("de", "deu", "Latn"),
    ("sw", "swh", "Latn"),
    ("bg", "bul", "Cyrl"),
    ("iw", "heb", "Hebr"),
    ("zh", "cmn", "Hani"),
    ("ast", "ast", "Latn"),
)
_IDS = {"iw": "he_Hebr", "zh": "zh_Hans"}
DATE = "2024-01-05T12:00:00Z"


@functools.cache
def _load_languages() -> Any:
    return gflanguages.LoadLanguages()


@functools.cache
def paragraphs(lang: str, script: str) -> list[str]:
    """Paragraphs of a language, at least two."""
    entry = _load_languages()[_IDS.get(lang, f"{lang}_{script}")]
    texts = [value for _, value in entry.sample_text.ListFields() if isinstance(value, str)]
    return [text for text in split_paragraphs(texts) if len(text.encode()) >= 100]


def label(number: int) -> tuple[str, str, str]:
    """The label of a row: one of `LABELS`."""
    return LABELS[number % len(LABELS)]


def text(number: int) -> str:
    """A text of two paragraphs in the row's language, and a line that no other row has."""
    lang, _, script = label(number)
    known = paragraphs(lang, script)
    first, second = number % len(known), (number // len(known) + 1) % len(known)
    return f"{known[first]}\n{known[second]}\n№ {number}"


def make_row(form: Form, number: int) -> dict[str, Any]:
    """A row; its label is that of its text."""
    lang, iso, script = label(number)
    url = f"https://{lang}.example/{number}"
    digest = hashlib.md5(url.encode()).hexdigest()
    if form == "madlad":
        return {"text": text(number)}
    if form == "hplt":
        return {
            "f": f"./path/{number % 7}.warc.gz", "o": number, "s": 900, "rs": 4_000, "u": url,
            "c": "text/html", "ts": DATE, "de": "utf-8", "collection": "wide17",
            "lang": [f"{iso}_{script}", "eng_Latn"], "prob": [0.9, 0.05], "text": text(number),
            "seg_langs": [f"{iso}_{script}"] * 2, "id": digest, "filter": "keep",
            "doc_scores": [number % 10, 9.5], "robotstxt": "allowed",
        }  # fmt: skip
    return {
        "text": text(number), "id": f"<urn:uuid:{digest}>", "url": url,
        "dump": f"CC-MAIN-2024-{number % 50:02}", "date": DATE, "file_path": "s3://crawl/a.warc.gz",
        "language": iso,
        "language_score": 1 - number % 100 / 400, "language_script": script,
        "minhash_cluster_size": 1 + number % 9,
        "top_langs": json.dumps({f"{iso}_{script}_score": 0.99}),
    }  # fmt: skip


def write_rows(folder: Path, form: Form, rows: int, files: int = 2) -> Sequence[Path]:
    """Write rows: FineWeb2's as Parquet, others as JSON Lines."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(files):
        numbers = range(part, rows, files)
        paths.append(folder / f"{form}-{part}.{'parquet' if form == 'fineweb2' else 'jsonl'}")
        if form == "fineweb2":
            _write_parquet(paths[-1], [make_row(form, number) for number in numbers])
        else:
            paths[-1].write_text("".join(_write_lines(form, numbers)))
    return paths


def _write_lines(form: Form, numbers: Sequence[int]) -> Iterator[str]:
    return (json.dumps(make_row(form, number), ensure_ascii=False) + "\n" for number in numbers)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", row_group_size=5_000)
