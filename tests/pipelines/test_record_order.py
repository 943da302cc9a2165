"""Records of a language are in random order: documents by hash, segments within a shard."""

import json
import re
from pathlib import Path

import crawl_files as crawl
import numpy as np
import pytest
from example_files import stored

from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.vocabulary.model import MODEL_FILE, load_vocabulary
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

DOCUMENTS, SHARDS = 900, 4


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents in order of their number, each some records long, in one language."""
    work = tmp_path_factory.mktemp("order")
    lines = [
        {
            "url": f"http://de.example/{number}",
            "text": "".join(
                f"Nummer {number}: {line}\n"
                for line in crawl.prose(crawl.GERMAN, number).splitlines()
            ),
        }
        for number in range(DOCUMENTS)
    ]
    (work / "crawl.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = CorpusConfig(
        min_lines=1,
        min_long_line_characters=1,
        language_threshold=0.5,
        languages=("de",),
        shard_bytes=85_000,  # of 305 kB
    )
    build_corpus([str(work / "crawl.jsonl")], work / "corpus", config)
    train_vocabulary(work / "corpus", work / "vocabulary", VocabularyConfig(size=420))
    build_examples(
        work / "corpus", work / "vocabulary", work / "examples", ExamplesConfig(inputs_length=64)
    )
    return work


@pytest.fixture(scope="module")
def numbers(built: Path) -> np.ndarray:
    """The number of the first document named in each record, in the records' order."""
    vocabulary = load_vocabulary(built / "vocabulary" / MODEL_FILE)
    records = stored(built / "examples", "de", "train")
    texts = [vocabulary.DecodeIds(record["targets"].tolist()) for record in records]
    found = [re.search(r"Nummer (\d+):", text) for text in texts]
    return np.array([int(match[1]) for match in found if match])


def test_shards_are_balanced(built):
    entry = read_manifest(built / "examples", "examples")["languages"]["de"]["train"]
    records = [shard["records"] for shard in entry["shards"]]
    assert len(records) == SHARDS
    assert max(records) < 1.4 * min(records)  # about 225 documents each, give or take 13


def test_order_says_nothing_about_where_a_document_came_from(numbers):
    assert numbers.size > 2 * DOCUMENTS
    positions = np.arange(numbers.size)
    # A document has several records, so fewer than `size` numbers are independent.
    correlation = np.corrcoef(positions, np.argsort(np.argsort(numbers)))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(DOCUMENTS)
    for part in np.array_split(numbers, SHARDS):
        assert abs(part.mean() - DOCUMENTS / 2) < 4 * DOCUMENTS / np.sqrt(12 * DOCUMENTS / SHARDS)


def test_segments_of_a_document_do_not_follow_each_other(numbers):
    assert np.mean(numbers[1:] == numbers[:-1]) < 0.03
