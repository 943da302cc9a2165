"""A small examples directory, built by the real stages; tests that damage it copy it first."""

import shutil
from pathlib import Path

import corpus_files
import pytest
from supervised_files import ALL_KINDS, write_kinds, write_task

from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH

VOCABULARY_SIZE = 1000


def build(work: Path, corpus: Path, *, finished: bool = False) -> Path:
    config = VocabularyConfig(size=VOCABULARY_SIZE, character_coverage=0.999)
    train_vocabulary(corpus, work / "vocabulary", config)
    examples = ExamplesConfig(inputs_length=32, finished=finished)
    build_examples(corpus, work / "vocabulary", work / "examples", examples)
    return work / "examples"


@pytest.fixture(scope="session")
def small_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight languages; `haw` has documents of one word, `de` no validation text."""
    work = tmp_path_factory.mktemp("small")
    texts = corpus_files.small_texts()
    return build(work, corpus_files.write_corpus(work / "corpus", texts, shards=2))


@pytest.fixture
def copy(small_examples: Path, tmp_path: Path) -> Path:
    """A copy of `small_examples`, to be damaged."""
    return Path(shutil.copytree(small_examples, tmp_path / "examples"))


@pytest.fixture(scope="session")
def added_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those eight, and three languages that mC4 lacks."""
    work = tmp_path_factory.mktemp("added")
    texts = {**corpus_files.small_texts(), **corpus_files.added_texts()}
    return build(work, corpus_files.write_corpus(work / "corpus", texts))


@pytest.fixture(scope="session")
def finished_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight languages of `small_examples`, training segments corrupted when written."""
    work = tmp_path_factory.mktemp("finished")
    texts = corpus_files.small_texts()
    corpus = corpus_files.write_corpus(work / "corpus", texts, shards=2)
    return build(work, corpus, finished=True)


@pytest.fixture(scope="session")
def reviews(small_examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of two labels in four languages, with the vocabulary of `small_examples`."""
    folder = tmp_path_factory.mktemp("reviews")
    write_kinds(folder)
    config = SupervisedConfig(inputs_length=64, targets_length=12)
    vocabulary = small_examples / VOCABULARY_PATH
    build_supervised(write_task(folder, ALL_KINDS), vocabulary, folder / "reviews", config)
    return folder / "reviews"
