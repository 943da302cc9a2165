"""`mswitch vocab inspect` and `--vocab FILE`, as a user gives them."""

import json
from pathlib import Path

import pytest

from mswitch.flows.cli.main import main
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small corpus and a vocabulary of it."""
    import corpus_files

    work = tmp_path_factory.mktemp("stages")
    corpus = corpus_files.write_corpus(work / "corpus", corpus_files.small_texts())
    config = VocabularyConfig(size=1000, character_coverage=0.999)
    train_vocabulary(corpus, work / "vocabulary", config)
    return corpus, work / "vocabulary"


def test_table_and_json(stages, capsys):
    corpus, vocabulary = stages
    command = ["vocab", "inspect", str(vocabulary), "--corpus", str(corpus)]
    assert main([*command, "--languages", "en,zh"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:]] == ["en", "zh", "mean"]
    assert main([*command, "--json", "--split", "train", "--max-bytes", "500"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["stage"], found["split"], found["max_bytes"]) == ("vocabulary", "train", 500)
    assert {"en", "de", "haw"} <= {row["lang"] for row in found["languages"]}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--languages", "xx"], "unknown language 'xx'"),
        (["--max-bytes", "0"], "max_bytes is 0"),
        (["--languages", "yo"], "has no validation text of yo"),
        (["--split", "test"], "test"),
    ],
)
def test_misuse_is_explained(stages, capsys, options, complaint):
    corpus, vocabulary = stages
    assert main(["vocab", "inspect", str(vocabulary), "--corpus", str(corpus), *options]) == 2
    assert complaint in capsys.readouterr().err


def test_a_model_file_serves_examples_as_its_directory_does(stages, capsys, tmp_path):
    corpus, vocabulary = stages
    for vocab in (vocabulary, vocabulary / "sentencepiece.model"):
        options = ["--corpus", str(corpus), "--vocab", str(vocab), "--inputs-length", "32"]
        assert main(["examples", "build", *options, "--out", str(tmp_path / "e"), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert summary["reused"] == (vocab != vocabulary)
