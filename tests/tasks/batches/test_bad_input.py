"""Examples that are not what they should be are refused when they are opened."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_files import change_manifest, open_tfrecord, restore
from sentencepiece import sentencepiece_model_pb2

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.example_proto import encode_example
from mswitch.pipelines.examples.tfrecord import index_path, write_tfrecord
from mswitch.pipelines.outputs import file_sha256
from mswitch.tasks.batches.collate import Batch
from mswitch.tasks.batches.examples import VOCABULARY_PATH
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.batches.validation import ValidationBatches

SIZE = 1000


def refused(examples: Path, match: str) -> None:
    for kind in (TrainBatches, ValidationBatches):
        with pytest.raises(UserError, match=match) as caught:
            kind(examples, 4)
        assert "\n" not in str(caught.value)
        assert any(fix in str(caught.value) for fix in ("again", "give one", "copy it back"))


@pytest.mark.parametrize(
    "record",
    [
        b"no example",
        encode_example({"targets": np.array([5, SIZE - 100])}),
        encode_example({"targets": np.arange(3, 38)}),
        encode_example({"targets": np.array([], np.int64)}),
        encode_example({"inputs": np.array([5, 6])}),
        encode_example({"inputs": np.array([5, 6]), "targets": np.array([SIZE - 1, 7, 1])}),
    ],
)
def test_a_record_that_does_not_suit_is_named(copy, record):
    """No example; an id, a length or a feature that training segments do not have."""
    shard = copy / "mc4.bg" / "train.tfrecord-00001-of-00002"
    records, size, _ = write_tfrecord(shard, [record, *list(open_tfrecord(shard))[1:]])

    def change(manifest: dict[str, Any]) -> None:
        manifest["languages"]["bg"]["train"]["shards"][1].update(records=records, bytes=size)

    change_manifest(copy, change)
    ids = f"does not hold 1 to 34 ids below {SIZE - 100} as 'targets'"
    refused(copy, rf"{shard}: record 0 (is not an example|{ids})")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("end", [20, -1])
def test_damage_at_either_end_of_a_shard_and_its_loss_are_named(copy, split, end):
    shard = copy / "mc4.ko" / f"{split}.tfrecord-00000-of-00002"
    data = bytearray(shard.read_bytes())
    data[end] ^= 1
    shard.write_bytes(data)
    refused(copy, rf"^{shard} is damaged \(checksum of the record at byte")
    shard.write_bytes(data[:-10])
    refused(copy, rf"mc4\.ko/{shard.name} .*build the examples again")


def test_an_index_of_another_shard_is_named(copy):
    shards = [copy / "mc4.ko" / f"train.tfrecord-0000{number}-of-00002" for number in (0, 1)]
    offsets = np.fromfile(index_path(shards[0]), "<u8")
    offsets[-1] += 3
    offsets.tofile(index_path(shards[0]))
    refused(copy, rf"^{shards[0]} is damaged")


@pytest.mark.parametrize("pattern", ["mc4.sw", "mc4.sw/train.tfrecord-00001-of-00002.index"])
def test_a_missing_language_or_index_is_named(copy, pattern):
    path = copy / pattern
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(copy, rf"^{copy}/mc4\.sw/train.tfrecord-0000\d-of-00002(.index)? is missing")


def test_a_mixture_of_a_language_that_is_not_there_is_refused(copy):
    change_manifest(copy, lambda manifest: manifest["languages"].pop("ko"))
    TrainBatches(copy, 4)
    with pytest.raises(UserError, match="the mixture names ko, but the examples have no"):
        TrainBatches(copy, 4, mixture=Mixture(languages=("ko", "sw")))


def put_vocabulary(examples: Path, model: bytes) -> None:
    (examples / VOCABULARY_PATH).write_bytes(model)
    sha256 = file_sha256(examples / VOCABULARY_PATH)
    change_manifest(examples, lambda manifest: manifest.update(vocabulary_sha256=sha256))


def test_a_vocabulary_that_does_not_suit_is_named(copy):
    path = copy / VOCABULARY_PATH
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    del proto.pieces[-1]
    put_vocabulary(copy, proto.SerializeToString())
    refused(copy, rf"^{path} has no sentinels <extra_id_99> ... <extra_id_0> as its last 100")
    put_vocabulary(copy, b"\x0f no model")
    refused(copy, rf"^{path} is not a SentencePiece model")
    path.write_bytes(b"x")
    refused(copy, rf"{VOCABULARY_PATH} is not the vocabulary")
    path.unlink()
    refused(copy, rf"{VOCABULARY_PATH} is missing: copy it back")


def test_a_vocabulary_of_another_size_is_named(copy):
    change_manifest(copy, lambda manifest: manifest.update(vocabulary_size=SIZE + 28))
    refused(copy, rf"{VOCABULARY_PATH} has 1,000 ids, but the manifest says 1,028")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda m: m["config"].update(inputs_length=64),
            "was changed, or belongs to other examples",
        ),
        (lambda m: m.update(config_hash="0" * 16), "was changed, or belongs to other examples"),
        (
            lambda m: m.pop("languages"),
            r"is not a manifest of examples \(KeyError\('languages'\)\)",
        ),
        (lambda m: m.update(languages=[]), "is not a manifest of examples"),
        (lambda m: m["languages"]["sw"].update(test=m["languages"]["sw"]["train"]), "'test'"),
        (lambda m: m["languages"]["sw"]["train"].update(records=7), "says 7 train records of sw, "),
        (
            lambda m: m["languages"]["sw"]["train"]["shards"].pop(),
            r"says \d+ train records of sw, ",
        ),
    ],
)
def test_a_manifest_that_lies_is_named(copy, change, match):
    change_manifest(copy, change)
    refused(copy, rf"^{copy}/manifest\.json .*{match}")


def test_damage_within_a_shard_reaches_whoever_iterates(copy):
    shard = copy / "mc4.en" / "train.tfrecord-00000-of-00002"
    offsets = np.fromfile(index_path(shard), "<u8")
    data = bytearray(shard.read_bytes())
    data[int(offsets[len(offsets) // 2]) + 15] ^= 1
    shard.write_bytes(data)
    batches = TrainBatches(copy, 32)
    for prefetch, workers in ((0, 1), (2, 1), (4, 3)):
        with pytest.raises(UserError, match=rf"^{shard} is damaged \(checksum of the record"):
            list(itertools.islice(batches.iterate(prefetch=prefetch, workers=workers), 200))


def restored(batch: Batch) -> set[tuple[int, ...]]:
    """Language and whole text of each row."""
    names = ("language", "encoder_input_tokens", "decoder_target_tokens")
    return {
        (int(language), *restore(inputs[inputs > 0], targets[targets > 0], SIZE).tolist())
        for language, inputs, targets in zip(*map(batch.get, names), strict=True)
        if language >= 0
    }


@pytest.mark.parametrize("examples", ["small_examples", "finished_examples"])
def test_no_validation_example_is_ever_trained_on(examples, request):
    directory = request.getfixturevalue(examples)
    validation = set().union(*map(restored, ValidationBatches(directory, 8)))
    batches = TrainBatches(directory, 64)
    # Two windows of the mixture: several epochs of every language.
    trained = set().union(*(restored(batches.batch(step)) for step in range(128)))
    records = [stream.source for stream in batches._streams]
    assert len(trained) == sum(map(len, records))
    assert len(validation) > 10
    assert not trained & validation
