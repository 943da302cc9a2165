"""From a corpus on gs:// to examples on gs://: the bytes of a local build, whatever was killed."""

import json
import signal
from pathlib import Path

import corpus_files
import numpy as np
import pytest
from processes import run_python
from trees import data_bytes, send

from mswitch.flows.cli.main import main
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary
from mswitch.tasks.batches.training import TrainBatches

VOCABULARY = VocabularyConfig(size=1000, character_coverage=0.999)
EXAMPLES = ExamplesConfig(inputs_length=32)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A directory with corpus, vocabulary and examples."""
    texts = {**corpus_files.small_texts(), "gl": {"train": [" "], "validation": ["\t"]}}
    corpus_files.write_corpus(tmp_path / "corpus", texts, shards=2)
    train_vocabulary(tmp_path / "corpus", tmp_path / "vocabulary", VOCABULARY)
    build_examples(tmp_path / "corpus", tmp_path / "vocabulary", tmp_path / "examples", EXAMPLES)
    return tmp_path


@pytest.mark.slow
def test_the_chain_in_a_bucket_leaves_the_bytes_of_a_local_one(local, bucket, capsys):
    corpus = send(local / "corpus", f"{bucket}/corpus")
    vocabulary, examples = f"{bucket}/vocabulary", f"{bucket}/examples"
    train = ["vocab", "train", "--corpus", corpus, "--out", vocabulary, "--size", "1000"]
    build = ["examples", "build", "--corpus", corpus, "--vocab", vocabulary, "--out", examples]
    for again in (False, True):
        for command in (
            [*train, "--character-coverage", "0.999", "--json"],
            [*build, "--inputs-length", "32", "--json"],
        ):
            assert main(command) == 0
            summary = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert summary["reused"] is again
            assert summary["out"] == command[command.index("--out") + 1]
    assert data_bytes(vocabulary) == data_bytes(local / "vocabulary")
    assert data_bytes(examples) == data_bytes(local / "examples")
    here, there = (TrainBatches(each, 8) for each in (local / "examples", examples))
    for name, values in here.batch(7).items():
        assert np.array_equal(values, there.batch(7)[name])


CHILD = """
import sys
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
build_examples(*sys.argv[1:4], ExamplesConfig(inputs_length=32))
"""


@pytest.mark.slow
def test_a_killed_build_goes_on(local, bucket):
    corpus = send(local / "corpus", f"{bucket}/corpus")
    out = f"{bucket}/examples"
    command = ("-c", CHILD, corpus, local / "vocabulary", out)
    for point in ("before_note", "after_shards", "before_marker", "after_publish"):
        killed = run_python(*command, MSWITCH_FAULT=f"examples.{point}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert storage.exists(f"{out}/_COMPLETED") == (point == "after_publish")
        with pytest.raises(UserError, match=r"made with other settings .*: choose another --out"):
            build_examples(corpus, local / "vocabulary", out, ExamplesConfig(inputs_length=64))
    assert "already complete" in run_python(*command).stderr
    found = data_bytes(out)
    found.pop("_BUILDING.json", None)
    assert found == data_bytes(local / "examples")


def test_what_is_not_there_is_named(bucket, local, capsys):
    build = ["examples", "build", "--vocab", str(local / "vocabulary"), "--out", f"{bucket}/e"]
    assert main([*build, "--corpus", f"{bucket}/none"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{bucket}/none is not a finished corpus output" in line
