"""Foreign vocabularies: models trained here with mT5's options stand for mT5's own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from example_files import stored
from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import train_model

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.vocabulary.model import (
    MODEL_FILE,
    add_sentinels,
    load_vocabulary,
    open_vocabulary,
)

PIECES = 400
TEXT = [
    "all human beings are born free and equal in dignity and rights",
    "alle menschen sind frei und gleich an würde und rechten geboren",
    "все люди рождаются свободными и равными",
] * 40


def train(**options) -> bytes:
    return train_model(TEXT, **{"size": PIECES, **options})


@pytest.fixture(scope="module")
def plain_model() -> bytes:
    """A model with mT5's options and no sentinels."""
    return train()


def with_seqio_sentinels(model: bytes, count: int = 100) -> bytes:
    """What `mc4.250000.100extra` has at its end: user-defined pieces, the first span's last."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for number in reversed(range(count)):
        proto.pieces.add(
            piece=f"▁<extra_id_{number}>", score=0.0, type=proto.SentencePiece.USER_DEFINED
        )
    return proto.SerializeToString()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_model(model: bytes) -> Path:
        path = tmp_path / "given.model"
        path.write_bytes(model)
        return path

    return write_model


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.mark.parametrize("count", [0, 100, 300])
def test_every_layout_of_t5_gives_the_ids_of_t5(plain_model, write, count):
    given = with_seqio_sentinels(plain_model, count) if count else plain_model
    opened = open_vocabulary(write(given))
    assert opened.added == (count == 0)
    plain, prepared = processor(plain_model), processor(opened.model)
    size = plain.GetPieceSize() + (count or 100)
    assert opened.size == prepared.GetPieceSize() == size
    for number in range(100):
        assert prepared.IdToPiece(size - 1 - number).lstrip("▁") == f"<extra_id_{number}>"
        assert prepared.IsControl(size - 1 - number)
    for text in (*TEXT[:3], "unseen 人 🙂"):
        ids = plain.EncodeAsIds(text)
        assert prepared.EncodeAsIds(text) == ids == processor(given).EncodeAsIds(text)
    assert open_vocabulary(write(opened.model)).model == opened.model


def test_umt5s_300_sentinels_are_added_on_request(plain_model, write):
    opened = open_vocabulary(write(add_sentinels(plain_model, 300)))
    prepared = processor(opened.model)
    assert not opened.added
    assert opened.size == processor(plain_model).GetPieceSize() + 300
    for number in (0, 299):
        assert prepared.IdToPiece(opened.size - 1 - number) == f"<extra_id_{number}>"


@pytest.mark.parametrize("count", [0, 100])
def test_no_page_spells_a_sentinel(plain_model, write, count):
    given = with_seqio_sentinels(plain_model, count)
    text = "a <extra_id_0> b ▁<extra_id_99>"
    opened = open_vocabulary(write(given))
    assert max(processor(opened.model).EncodeAsIds(text)) < opened.size - 100
    if count:  # as mT5's model would
        assert max(processor(given).EncodeAsIds(text)) == opened.size - 1


def test_a_vocabulary_of_ours_is_taken_as_it_is(small_vocabulary):
    path = small_vocabulary / MODEL_FILE
    for given in (small_vocabulary, path, str(path)):
        opened = open_vocabulary(given)
        assert opened.model == path.read_bytes()
        assert (opened.sha256, opened.size, opened.added) == (file_sha256(path), 1200, False)


@pytest.mark.parametrize("count", [0, 100])
def test_examples_are_built_with_a_foreign_vocabulary(
    small_corpus, plain_model, write, tmp_path, count
):
    path = write(with_seqio_sentinels(plain_model, count))
    out = tmp_path / "examples"
    config = ExamplesConfig(inputs_length=32)
    assert not build_examples(small_corpus, path, out, config)["reused"]
    assert build_examples(small_corpus, str(path), out, config)["reused"]
    manifest = json.loads((out / "manifest.json").read_text())
    size = processor(plain_model).GetPieceSize() + 100
    assert manifest["vocabulary_size"] == size
    assert manifest["config"]["vocabulary"] == file_sha256(path)
    kept = out / "vocabulary" / MODEL_FILE
    assert manifest["vocabulary_sha256"] == file_sha256(kept)
    assert load_vocabulary(kept).GetPieceSize() == size
    for record in stored(out, "en", "validation"):
        assert record["targets"][0] == size - 1
        tokens = np.concatenate([record["inputs"], record["targets"]])
        assert tokens.max() == size - 1
    path.write_bytes(with_seqio_sentinels(plain_model, 300))
    with pytest.raises(UserError, match=r"changed: vocabulary"):
        build_examples(small_corpus, path, out, config)


def test_what_is_no_vocabulary(plain_model, write, tmp_path):
    for read, content in ((open_vocabulary, b"?"), (load_vocabulary, b"?"), (open_vocabulary, b"")):
        with pytest.raises(UserError, match=r"given\.model is not a SentencePiece model"):
            read(write(content))
    with pytest.raises(UserError, match=r"none\.model does not exist: give a vocabulary directory"):
        open_vocabulary(tmp_path / "none.model")
    with pytest.raises(UserError, match="is not a finished vocabulary output"):
        open_vocabulary(tmp_path)
    with pytest.raises(UserError, match=r"has no sentinels .*examples build --vocab FILE"):
        load_vocabulary(write(plain_model))


def test_other_sentinels_and_special_ids_are_refused(plain_model, write):
    few = with_seqio_sentinels(plain_model, 20)
    with pytest.raises(UserError, match=r"not <extra_id_99> \.\.\. <extra_id_0> as its last 100"):
        open_vocabulary(write(few))
    proto = sentencepiece_model_pb2.ModelProto.FromString(add_sentinels(plain_model))
    proto.pieces.add(piece="behind", score=-1.0)
    with pytest.raises(UserError, match=r"sentinels, but not"):
        open_vocabulary(write(proto.SerializeToString()))
    model = train(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    with pytest.raises(UserError, match=r"ids \(-1, 2, 0\).*--pad_id=0 --eos_id=1 --unk_id=2"):
        open_vocabulary(write(model))


def test_a_damaged_vocabulary_directory_is_named(small_vocabulary, tmp_path):
    for name in (MODEL_FILE, "manifest.json", "_COMPLETED"):
        (tmp_path / name).write_bytes((small_vocabulary / name).read_bytes())
    with open(tmp_path / MODEL_FILE, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=rf"{MODEL_FILE} is damaged"):
        open_vocabulary(tmp_path)
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(UserError, match=rf"cannot read .*{MODEL_FILE}"):
        open_vocabulary(tmp_path)
