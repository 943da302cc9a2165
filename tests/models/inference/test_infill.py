"""A model that learned one text fills its gaps; what does not suit is refused."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import sentencepiece
from sentencepiece_models import train_model
from train_child import features

from mswitch.flows.cli.main import main
from mswitch.models.capacity import group_batch
from mswitch.models.config import PredictConfig, TrainConfig
from mswitch.models.inference.decoding_batches import Generator
from mswitch.models.inference.infill import infill
from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.run_directory import CHECKPOINTS, CONFIG, SELECTED
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
    batch = features(*(np.tile(np.array(ids, np.int32), (8, 1)) for ids in (source, target)))
    config = dataclasses.replace(config, vocabulary_size=256)
    train = TrainConfig(batch_size=8, warmup_steps=100, dtype="float32")
    skeleton, optimizer = Skeleton.build(config, train), make_optimizer(train)
    groups = group_batch(config, 8, len(source), len(target))
    step = make_train_step(skeleton, optimizer, groups)
    state = skeleton.initial_state(optimizer)
    for _ in range(steps):
        state, _ = step(state, batch)
    described = {
        "model": dataclasses.asdict(config),
        "train": dataclasses.asdict(train),
        "examples": None,
    }
    described |= {"config_hash": "0" * 16}
    storage.write_json(directory / CONFIG, described)
    checkpoints = Checkpoints(directory / CHECKPOINTS, kept=())
    checkpoints.save(state, steps)
    checkpoints.wait()
    return directory


@pytest.mark.slow
def test_gaps_are_filled_with_what_was_learned(run, vocabulary, capsys):
    made = infill(run, [TEXT, TEXT], PredictConfig(), vocab=vocabulary)
    assert made["step"] == 60
    assert made["texts"] == [{"text": TEXT, "spans": SPANS, "filled": WHOLE}] * 2
    options = ["--run", str(run), "--vocab", str(vocabulary), "--decode", "beam"]
    assert main(["predict", *options, "--text", f"{TEXT} <extra_id_2>"]) == 0
    printed, said = capsys.readouterr()
    assert printed == f"{WHOLE} \n"
    assert "[predict] 1 of 3 spans stay empty: the model wrote nothing for them" in said


@pytest.mark.parametrize(
    ("text", "decode", "message"),
    [
        ("no gap", None, "must mark its gaps"),
        ("<extra_id_1> before <extra_id_0>", None, "in this order"),
        ("<extra_id_99> no gap", None, "must mark its gaps"),
        (TEXT, "labels", "--decode labels: gaps of a text have no labels"),
    ],
)
def test_what_cannot_be_filled_is_refused(untrained, vocabulary, text, decode, message):
    with pytest.raises(UserError, match=message):
        infill(untrained, [text], PredictConfig(decode=decode), vocab=vocabulary)


def test_the_mode_of_a_ul2_model_precedes_a_text(untrained, vocabulary, monkeypatch):
    given = []

    def answer(self, inputs, step, what):
        given.extend(inputs)
        return [dict(enumerate(SPANS))] * len(inputs), []

    monkeypatch.setattr(Generator, "__call__", answer)
    texts = [TEXT, f"<extra_id_99> {TEXT}"]
    made = infill(untrained, texts, PredictConfig(), vocab=vocabulary)
    assert given[1] == [open_vocabulary(vocabulary).size - 1 - 99, *given[0]]
    assert [(entry["spans"], entry["filled"]) for entry in made["texts"]] == [(SPANS, WHOLE)] * 2


def test_the_checkpoint_is_the_selected_one(untrained, vocabulary, tmp_path):
    run = shutil.copytree(untrained, tmp_path / "run")
    storage.write_json(run / SELECTED, {"step": 7})
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        infill(run, [TEXT], PredictConfig(), vocab=vocabulary)


def test_the_vocabulary_is_that_of_the_run(untrained, vocabulary, tmp_path):
    with pytest.raises(UserError, match="trained on nothing here: give --tasks"):
        infill(untrained, [TEXT], PredictConfig())
    described = json.loads((untrained / CONFIG).read_text())
    # Examples have the vocabulary with the sentinels that this one lacks.
    model = open_vocabulary(vocabulary).model
    (tmp_path / "examples/vocabulary").mkdir(parents=True)
    (tmp_path / "examples/vocabulary/sentencepiece.model").write_bytes(model)
    examples = {"vocabulary_sha256": hashlib.sha256(model).hexdigest(), "path": "../examples"}
    other = {**examples, "vocabulary_sha256": "other"}
    run = tmp_path / "run"
    run.mkdir()
    for trained_on, rows, message in [
        (examples, 256, "no checkpoint"),
        (other, 256, "trained with another vocabulary"),
        (examples, 100, "has 100 rows for"),
    ]:
        described["examples"], described["model"]["vocabulary_size"] = trained_on, rows
        (run / CONFIG).write_text(json.dumps(described))
        for vocab in (None, vocabulary):
            with pytest.raises(UserError, match=message):
                infill(run, [TEXT], PredictConfig(), vocab=vocab)
