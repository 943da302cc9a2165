"""What other libraries read from a corpus, by the code of its data card (runs in .venv-card).

read_corpus.py LIBRARY CORPUS prints JSON; a row is language, id and text.
"""
# pyright: reportMissingImports=false

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

#: Norwegian is no boolean of YAML, Hebrew has mC4's code, German has no validation documents.
LANGS = ("de", "iw", "no", "sw")


def card_code(corpus: str, library: str) -> str:
    """Return the one block of code on the card that imports `library`."""
    card = Path(corpus, "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^(import|from) {library}\b", block, re.M)]
    return code


def run_card_code(corpus: str, library: str) -> tuple[dict[str, Any], list[Any]]:
    """Run that block; return what it names and what it prints."""
    printed: list[Any] = []
    names = {"corpus": corpus, "print": printed.append}
    exec(compile(card_code(corpus, library), f"card, {library}", "exec"), names)
    return names, printed


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    return [[record["lang"], record["id"], record["text"]] for record in records]


def read_datasets(corpus: str) -> dict[str, Any]:
    import datasets

    names, _ = run_card_code(corpus, "datasets")
    configs = ["default", *(lang for lang in LANGS if Path(corpus, "data", lang).is_dir())]
    loaded = {config: datasets.load_dataset(corpus, config) for config in configs}
    streamed = datasets.load_dataset(corpus, "sw", split="train", streaming=True)
    return {
        "card": rows_of(names["documents"]),
        "split": str(names["documents"].split),
        "names": datasets.get_dataset_config_names(corpus),
        "unnamed": {split: len(rows) for split, rows in datasets.load_dataset(corpus).items()},
        "streamed": rows_of(streamed),
        "configs": {
            config: {split: rows_of(rows) for split, rows in splits.items()}
            for config, splits in loaded.items()
        },
    }


def read_polars(corpus: str) -> dict[str, Any]:
    import polars

    names, (counts,) = run_card_code(corpus, "polars")
    everything = polars.read_parquet(f"{corpus}/data/*/*.parquet")
    return {
        "counts": counts.rows(),
        "train": rows_of(names["train"].collect().iter_rows(named=True)),
        "everything": rows_of(everything.iter_rows(named=True)),
    }


def read_duckdb(corpus: str) -> dict[str, Any]:
    import duckdb

    # `show` leaves out rows; the relation has them all.
    with mock.patch.object(duckdb, "sql", wraps=duckdb.sql) as sql:
        run_card_code(corpus, "duckdb")
    ((query,), _) = sql.call_args
    columns = f"SELECT lang, id, text FROM '{corpus}/data/*"
    return {
        "counts": duckdb.sql(query).fetchall(),
        "train": duckdb.sql(f"{columns}/train-*.parquet'").fetchall(),
        "everything": duckdb.sql(f"{columns}/*.parquet'").fetchall(),
    }


READERS = {
    "datasets": read_datasets,
    "duckdb": read_duckdb,
    "polars": read_polars,
}

if __name__ == "__main__":
    library, corpus = sys.argv[1:]
    found = READERS[library](corpus)
    # The last line: the libraries, and the card's code, print too.
    print("\n" + json.dumps(found))
