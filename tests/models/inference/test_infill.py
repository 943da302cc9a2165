"""A model that learned one text fills its gaps; what does not suit is refused."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from sentencepiece_models import train_model

from mswitch.flows.cli.main import main
from mswitch.models.capacity import batch_groups
from mswitch.models.config import TrainConfig, as_json
from mswitch.models.inference.infill import InfillConfig, infill
from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.run_directory import CHECKPOINTS, CONFIG
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_train_step
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import open_vocabulary

TEXT = "the cat <extra_id_0> on the <extra_id_1> again"
WHOLE = "the cat sat down on the old mat again"
SPANS = ["sat down", "old mat"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A SentencePiece model without sentinels, as T5's."""
    path = tmp_path_factory.mktemp("vocabulary") / "words.model"
    lines = [WHOLE, "the old cat sat again on the mat"] * 20
    path.write_bytes(train_model(lines, 40, byte_fallback=False))
    return path


@pytest.fixture(scope="module", params=["dense", "sparse"])
def run(request, tmp_path_factory, vocabulary):
    """A run directory whose model learned one example by heart."""
    config = request.getfixturevalue(request.param)
    return write_run(config, tmp_path_factory.mktemp(request.param), vocabulary, steps=60)


@pytest.fixture(scope="module")
def untrained(sparse, tmp_path_factory, vocabulary):
    return write_run(sparse, tmp_path_factory.mktemp("untrained"), vocabulary, steps=0)


def write_run(config, directory, vocabulary, steps):
    opened = open_vocabulary(vocabulary)
    encode = sentencepiece.SentencePieceProcessor(model_proto=opened.model).EncodeAsIds
    last = opened.size - 1
    source = [*encode("the cat"), last, *encode("on the"), last - 1, *encode("again"), 1]
    target = [last, *encode(SPANS[0]), last - 1, *encode(SPANS[1]), 1]
    targets = np.tile(np.array(target, np.int32), (8, 1))
    batch = {
        "encoder_input_tokens": np.tile(np.array(source, np.int32), (8, 1)),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }
    config = dataclasses.replace(config, vocabulary_size=256)
    train = TrainConfig(batch_size=8, warmup_steps=100, dtype="float32")
    skeleton, optimizer = Skeleton.of(config, train), optimizer_of(train)
    groups = batch_groups(config, 8, len(source), targets.shape[1])
    step = make_train_step(skeleton, optimizer, groups)
    state = skeleton.initial_state(optimizer)
    for _ in range(steps):
        state, _ = step(state, batch)
    described = {"model": as_json(config), "train": as_json(train), "examples": None}
    described |= {"config_hash": "0" * 16}
    storage.write_json(directory / CONFIG, described)
    checkpoints = Checkpoints(directory / CHECKPOINTS, kept=())
    checkpoints.save(state, steps)
    checkpoints.wait()
    return directory


@pytest.mark.slow
def test_gaps_are_filled_with_what_was_learned(run, vocabulary, capsys):
    made = infill(run, vocabulary, [TEXT, TEXT], InfillConfig())
    assert made["step"] == 60
    assert made["texts"] == [{"text": TEXT, "spans": SPANS, "filled": WHOLE}] * 2
    options = ["--run", str(run), "--vocab", str(vocabulary), "--text", TEXT, "--max-tokens", "3"]
    assert main(["infill", *options]) == 0
    printed, said = capsys.readouterr()
    assert printed.startswith("the cat s")
    assert printed.endswith(" on the  again\n")
    assert said.count("stay empty") == 1
    assert "[infill] 1 of 2 spans stay empty: the model gave nothing for them" in said


@pytest.mark.slow
def test_devices_that_share_the_width_fill_the_same(run, vocabulary):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    options = ["--run", str(run), "--vocab", str(vocabulary), "--text", TEXT]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mswitch.flows.cli.main",
            "infill",
            *options,
            "--model-parallel",
            "2",
        ],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{WHOLE}\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("no gap", {}, "must mark what is to be filled"),
        ("<extra_id_1> before <extra_id_0>", {}, "in this order"),
        (TEXT, {"max_tokens": 0}, "--max-tokens must be at least 1"),
        (TEXT, {"temperature": -1.0}, "--temperature must be at least 0"),
        (TEXT, {"model_parallel": 0}, "--model-parallel must be at least 1"),
        (TEXT, {"model_parallel": 64}, "needs 64 devices"),
    ],
)
def test_what_cannot_be_filled_is_refused(untrained, vocabulary, text, options, message):
    with pytest.raises(UserError, match=message):
        infill(untrained, vocabulary, [text], InfillConfig(**options))


def test_text_that_is_not_utf8_is_refused(untrained, vocabulary, capsys):
    options = ["--run", str(untrained), "--vocab", str(vocabulary), "--text", f"{TEXT}\udcff"]
    assert main(["infill", *options]) == 2
    assert r"again\udcff' is not UTF-8: convert it" in capsys.readouterr().err


def test_another_vocabulary_is_refused(untrained, vocabulary, tmp_path):
    described = json.loads((untrained / CONFIG).read_text())
    # Examples have the vocabulary with the sentinels that this one lacks.
    sha256 = hashlib.sha256(open_vocabulary(vocabulary).model).hexdigest()
    described["examples"] = {"vocabulary_sha256": sha256}
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(UserError, match="no checkpoint"):
        infill(tmp_path, vocabulary, [TEXT], InfillConfig())
    described["examples"] = {"vocabulary_sha256": "other"}
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(UserError, match="trained with another vocabulary"):
        infill(tmp_path, vocabulary, [TEXT], InfillConfig())
    described["model"]["vocabulary_size"] = 100
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(UserError, match="only 100 rows"):
        infill(tmp_path, vocabulary, [TEXT], InfillConfig())
