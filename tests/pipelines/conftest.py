"""Small stage outputs that several tests read; none may change them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus_files
import pytest
import sentencepiece
from file_server import FileServer

from mswitch.pipelines import runners
from mswitch.pipelines.vocabulary.model import MODEL_FILE, load_vocabulary
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

VOCABULARY_SIZE = 1200


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    """Give a server on loopback whose files and moods a test decides."""
    with FileServer() as server:
        yield server


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "corpus"
    return corpus_files.write_corpus(out, corpus_files.small_texts(), shards=2)


@pytest.fixture(scope="session")
def small_vocabulary(small_corpus: Path) -> Path:
    out = small_corpus.with_name("vocabulary")
    config = VocabularyConfig(size=VOCABULARY_SIZE, character_coverage=0.999)
    train_vocabulary(small_corpus, out, config)
    return out


@pytest.fixture(scope="session")
def vocabulary(small_vocabulary: Path) -> sentencepiece.SentencePieceProcessor:
    return load_vocabulary(small_vocabulary / MODEL_FILE)


@pytest.fixture
def engine(monkeypatch) -> dict[str, Any]:
    """Beam's own small runner, in place of Prism."""
    small = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    monkeypatch.setitem(runners._CLASSES, "prism", small)
    return {"runner": "prism", "beam_options": ["--prism_location=unused"]}
