import json
from collections import Counter
from pathlib import Path

import corpus_files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import data_bytes

from mswitch.flows.cli.app import run
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.definition import read_task
from mswitch.pipelines.supervised.samples import language_of
from mswitch.pipelines.supervised.samples.language_of import STRIDE, cut_windows, write_language_of
from mswitch.pipelines.supervised.split import fold


def rows(out: Path, split: str) -> list[dict]:
    path = out / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@given(st.text())
def test_windows_cover_a_text(text):
    joined = " ".join(text.split())
    found = list(cut_windows(text))
    assert found[0] == joined[:60].strip()
    assert all(len(window) <= 60 for window in found)
    assert sum(len(window) for window in found) >= len(joined) - STRIDE - len(found)


@pytest.fixture(scope="module")
def sample(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("language_of") / "sample"
    arguments = ["sample", "supervised", "language-of", "--corpus", str(small_corpus)]
    assert run([*arguments, "--out", str(out)]) == 0
    return out


def test_documents_keep_the_splits_of_the_corpus(sample, small_corpus):
    documents = {
        document["id"]: (shard.lang, shard.split)
        for shard in open_corpus(small_corpus).shards
        for document in shard.documents()
    }
    for split in ("train", "validation", "test"):
        for row in rows(sample, split):
            expected = "train" if split == "train" else "validation"
            assert documents[row["document"]] == (row["lang"], expected)
    found = [{row["document"] for row in rows(sample, split)} for split in ("validation", "test")]
    assert not found[0] & found[1]


def test_no_window_comes_twice(sample):
    splits = ("train", "validation", "test")
    texts = [row["text"] for split in splits for row in rows(sample, split)]
    assert len({fold(text) for text in texts}) == len(texts) > 100


def test_it_is_a_task_without_overlap(sample, small_vocabulary, tmp_path):
    task = read_task(sample / "task.toml")
    counts = Counter(row["lang"] for row in rows(sample, "train"))
    assert set(task.labels or ()) >= set(counts)
    config = SupervisedConfig(inputs_length=80, targets_length=16)
    build_supervised(sample / "task.toml", small_vocabulary, tmp_path / "lid", config)
    manifest = corpus_files.read_json(tmp_path / "lid/manifest.json")
    assert manifest["overlap"] == {}
    assert manifest["rows"]["dropped"] == {}
    languages = manifest["languages"].items()
    assert counts == {lang: of["train"]["records"] for lang, of in languages if "train" in of}


def test_twice_it_is_the_same_and_a_cap_takes_the_first_documents(
    sample, small_corpus, tmp_path, monkeypatch
):
    write_language_of(small_corpus, tmp_path / "again")
    assert data_bytes(tmp_path / "again") == data_bytes(sample)
    monkeypatch.setattr(language_of, "MAX_WINDOWS", dict.fromkeys(language_of.SPLITS, 2))
    write_language_of(small_corpus, tmp_path / "few")
    few = rows(tmp_path / "few", "train")
    assert set(Counter(row["lang"] for row in few).values()) <= {1, 2}
    first = [row for row in rows(sample, "train") if row["lang"] == "zh"][:2]
    assert [row for row in few if row["lang"] == "zh"] == first
