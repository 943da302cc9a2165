"""A small examples directory, built by the real stages; tests that damage it copy it first."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import settings

from pipelines.examples.build import ExamplesConfig, build_examples
from pipelines.vocabulary import VocabularyConfig, train_vocabulary

# Timings on a busy machine say nothing; examples are not kept between runs.
settings.register_profile("mswitch", deadline=None, database=None)
settings.load_profile("mswitch")

VOCABULARY_SIZE = 1000


@pytest.fixture(scope="session")
def small_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight languages; `haw` has documents of one word, `de` no validation text."""
    path = Path(__file__).parents[1] / "pipelines" / "corpus_files.py"
    spec = importlib.util.spec_from_file_location("corpus_files", path)
    assert spec is not None
    assert spec.loader is not None
    corpus_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus_files)

    work = tmp_path_factory.mktemp("small")
    corpus = corpus_files.write_corpus(work / "corpus", corpus_files.small_texts(), shards=2)
    config = VocabularyConfig(size=VOCABULARY_SIZE, character_coverage=0.999)
    train_vocabulary(corpus, work / "vocabulary", config)
    settings = ExamplesConfig(inputs_length=32)
    build_examples(corpus, work / "vocabulary", work / "examples", settings)
    return work / "examples"
