"""A corpus read by other libraries, with the code that its data card shows: `make test-card`.

Real text, three builds: by mC4's rules with a crawl added, in profile modern, and small, without
validation documents. What is read equals the shards that manifest.json names, row by row.
"""

import collections
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import seqio

from tests.card.read_corpus import LANGS, card_code, run_card_code

pytestmark = pytest.mark.card

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".venv-card" / "bin" / "python"
MSWITCH = Path(sys.executable).with_name("mswitch")

#: What the README gives for pages of a few sentences.
SHORT = ["--min-lines", "1", "--min-long-line-characters", "1"]
THRESHOLD = ["--language-threshold", "0.7"]
VALIDATION = ["--min-validation-documents", "2"]
BUILDS = {
    "mc4": [*SHORT, *THRESHOLD, *VALIDATION],
    "modern": [*SHORT, *VALIDATION, "--profile", "modern", "--set", "quality.min_words=1"],
    "small": [*SHORT, *THRESHOLD, "--languages", ",".join(LANGS)],
}

Rows = list[list[str]]


def mswitch(*arguments: str | Path) -> None:
    subprocess.run([str(word) for word in (MSWITCH, *arguments)], check=True)


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "crawl"
    mswitch("sample", "gflanguages", "--out", out)
    return out


@pytest.fixture(scope="session", params=BUILDS)
def corpus(
    request: pytest.FixtureRequest, crawl: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "corpus"
    build = ("corpus", "build", "--out", out, *BUILDS[request.param], "--input")
    if request.param == "mc4":
        mswitch(*build, crawl / "wet" / "*")
        mswitch(*build, crawl / "warc" / "*", "--append")
    else:
        mswitch(*build, crawl / "wet" / "*", crawl / "warc" / "*")
    return out


@pytest.fixture(scope="session")
def splits(corpus: Path) -> dict[str, Rows]:
    """Language, id and text of every document by split, as the manifest's shards have them."""
    rows: dict[str, Rows] = {}
    for shard in json.loads((corpus / "manifest.json").read_text())["shards"]:
        columns = ["lang", "id", "text"]
        table = pyarrow.parquet.read_table(corpus / shard["path"], columns=columns)
        assert table.num_rows == shard["rows"]
        assert set(table["lang"].to_pylist()) == {shard["lang"]}
        rows.setdefault(shard["split"], []).extend([*row.values()] for row in table.to_pylist())
    return {split: sorted(found) for split, found in rows.items()}


def read(library: str, corpus: Path, home: Path) -> dict[str, Any]:
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    environment = {**os.environ, **offline}
    command = [str(PEER), str(HERE / "read_corpus.py"), library, str(corpus)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def of_lang(rows: Rows, lang: str) -> Rows:
    return [row for row in rows if lang in ("default", row[0])]


def count(rows: Rows) -> dict[str, int]:
    return dict(collections.Counter(lang for lang, _, _ in rows))


def test_the_builds_differ(corpus, splits):
    name = corpus.parent.name
    assert set(splits) == ({"train"} if "small" in name else {"train", "validation"})
    assert ("mc4" in name) == any(corpus.glob("data/*/*-added-*.parquet"))


def test_datasets(corpus, splits, tmp_path):
    found = read("datasets", corpus, tmp_path)
    (example,) = {lang for lang, _, _ in found["card"]}
    assert found["split"] == ("validation" if "validation" in splits else "train")
    assert sorted(found["card"]) == of_lang(splits[found["split"]], example)
    assert set(found["names"]) == {"default", *os.listdir(corpus / "data")}
    assert set(found["configs"]) >= {"default", "iw", "no", "sw"}
    for config, loaded in found["configs"].items():
        expected = {split: of_lang(rows, config) for split, rows in splits.items()}
        rows_by_split = {split: sorted(rows) for split, rows in loaded.items()}
        assert rows_by_split == {split: rows for split, rows in expected.items() if rows}
    assert sorted(found["streamed"]) == of_lang(splits["train"], "sw")
    assert found["unnamed"] == {split: len(rows) for split, rows in splits.items()}


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_tables(library, corpus, splits, tmp_path):
    found = read(library, corpus, tmp_path)
    assert dict(found["counts"]) == count(splits["train"])
    assert sorted(found["train"]) == splits["train"]
    assert sorted(found["everything"]) == sorted(itertools.chain(*splits.values()))


def test_seqio(corpus, splits):
    source = run_card_code(str(corpus), "seqio")[0]["source"]
    (example,) = re.findall(r"/data/([\w-]+)/{split}", card_code(str(corpus), "seqio"))
    rows_by_split = {split: of_lang(rows, example) for split, rows in splits.items()}
    assert set(source.splits) == {split for split, rows in rows_by_split.items() if rows}
    task = seqio.TaskRegistry.add(
        f"card_{corpus.parent.name}", source=source, preprocessors=[], output_features={}
    )
    for split in source.splits:
        dataset = task.get_dataset(None, split, use_cached=False, shuffle=False)
        texts = sorted(record["text"].decode() for record in dataset.as_numpy_iterator())
        assert texts == sorted(text for _, _, text in rows_by_split[split])
