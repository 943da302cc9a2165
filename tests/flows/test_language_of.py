"""Fine-tuning on the demo's corpus, as a user does it: which language is this?"""

import json
from pathlib import Path

import pytest
from processes import run_mswitch

pytestmark = [pytest.mark.learning, pytest.mark.timeout(3600)]


def mswitch(*arguments: str | Path) -> dict:
    # Other tests compile more than they compute.
    done = run_mswitch(*arguments, "--json", XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_languages_of_the_demos_corpus_are_told_apart(demo, tmp_path):
    rows, tasks, tuned = tmp_path / "rows", tmp_path / "tasks", tmp_path / "tuned"
    mswitch("sample", "supervised", "language-of", "--corpus", demo / "corpus", "--out", rows)
    lengths = ("--inputs-length", "64", "--targets-length", "8")
    task, vocabulary = ("--task", rows / "task.toml"), ("--vocab", demo / "vocabulary")
    mswitch("examples", "supervised", *task, *vocabulary, "--out", tasks, *lengths)
    options = "--steps 160 --eval-every 80 --batch-size 64 --base-learning-rate 0.04"
    origin = ("--from", demo / "runs" / "dense-seed-0", "--tasks", tasks, "--dtype", "float32")
    mswitch("finetune", *origin, "--out", tuned, *options.split())
    mswitch("predict", "--run", tuned, "--select")
    found = mswitch("predict", "--run", tuned, "--split", "test")
    accuracy = found["all"]["accuracy"]
    print(f"{accuracy['value']:.1f} % of {accuracy['rows']}, majority {accuracy['majority']:.1f} %")
    assert found["test_reads"] == 1
    page = mswitch("report", "run", tuned, "--out", tmp_path / "page")
    assert page["accuracy"] == pytest.approx(found["mean"]["accuracy"], rel=1e-4)
    assert accuracy["majority"] < 10
    assert accuracy["value"] >= 70
