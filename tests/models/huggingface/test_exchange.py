"""Weights there and back: nothing changes on the way, and a killed import or export leaves none."""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import sentencepiece
import train_child as child
import trained_runs
from hf_logits import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_mswitch
from safetensors.numpy import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import train_model

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.huggingface.config import read_config, write_config
from mswitch.models.huggingface.convert import (
    export_hf,
    find_preset_name,
    find_tensor_shape,
    import_hf,
)
from mswitch.models.huggingface.files import WeightFiles, write_weights
from mswitch.models.huggingface.tensors import list_pieces
from mswitch.models.huggingface.tokenizer import write_tokenizer
from mswitch.models.presets import preset
from mswitch.models.training.run_directory import CONFIG, SELECTED, parse_model, read_run
from mswitch.models.training.state import Skeleton, unroll
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import add_sentinels, open_vocabulary

FLOAT32 = TrainConfig(dtype="float32")
SPECIAL = ["<pad>", "</s>", "<unk>"]


def parse_config(directory: Path) -> dict:
    """A config.json without what says nothing of the model: the type's name, our own key."""
    config = json.loads((directory / "config.json").read_text())
    others = ["dtype", "torch_dtype", "mswitch", "tie_word_embeddings", "decoder_start_token_id"]
    return {name: value for name, value in config.items() if name not in others}


def tensors(directory: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def parameters_of(run: Path, step: int = 0) -> dict[str, np.ndarray]:
    return jax.device_get(unroll(trained_runs.parameters_of(run, step)))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name, strict=True)


@pytest.mark.parametrize(
    "name",
    [
        *("mt5-tiny", "umt5-tiny", "t5-tiny", "t5.1.1-tiny", "switch-tiny", "switch-untied-tiny"),
        "switch-all-tiny",
    ],
)
def test_hugging_face_to_run_and_back_is_the_identity(tmp_path, name):
    run, back = tmp_path / "run", tmp_path / "back"
    summary = import_hf(FIXTURES / name, run)
    assert summary["reused"] is False
    made = export_hf(run, back)
    assert made["parameters"] == summary["parameters"]
    original = tensors(FIXTURES / name)
    # Without these copies, Hugging Face's class would make them up at random.
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    wanted = dict.fromkeys(copies if "untied" in name else (), original["shared.weight"])
    assert_same(tensors(back), original | wanted)
    assert summary["parameters"] == sum(values.size for values in original.values())
    assert parse_config(back) == parse_config(FIXTURES / name)


@pytest.mark.parametrize("scan_layers", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_run_to_hugging_face_and_back_is_the_identity(tmp_path, scan_layers):
    """A trained dense run, in shards; its training settings come back too."""
    run, exported, back = tmp_path / "run", tmp_path / "hf", tmp_path / "back"
    child.run("mt5-tiny", run, 4, scan_layers=scan_layers)
    assert export_hf(run, exported, max_shard_bytes=20_000)["files"] > 3
    import_hf(exported, back)
    assert_same(parameters_of(back), parameters_of(run, 4))
    trained = dataclasses.replace(parse_model(read_run(run)), sparse_every=2)  # means nothing here
    assert parse_model(read_run(back)) == trained
    export_hf(back, tmp_path / "again", max_shard_bytes=20_000)
    for path in exported.glob("model*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    first = read_run(run)["eval_steps"][0]
    export_hf(run, tmp_path / "first", step=first)
    import_hf(tmp_path / "first", tmp_path / "early")
    assert_same(parameters_of(tmp_path / "early"), parameters_of(run, first))
    (run / SELECTED).write_text(json.dumps({"step": first}))  # as `mswitch predict --select`
    assert export_hf(run, tmp_path / "first")["reused"]


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=9),
    st.integers(1, 900),
)
def test_any_tensors_in_any_shards_come_back(tmp_path_factory, shapes, max_shard_bytes):
    directory = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    # Transposed views, whose memory is in another order than their shape says.
    values = {
        f"t{i}": rng.normal(size=shape[::-1]).astype(np.float32).T for i, shape in enumerate(shapes)
    }
    shapes = {name: value.shape for name, value in values.items()}
    names = write_weights(directory, shapes, values.__getitem__, max_shard_bytes)
    for name in names:
        shard = load_file(directory / name)
        assert len(shard) == 1 or sum(v.nbytes for v in shard.values()) <= max_shard_bytes
    if len(names) > 1:
        assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in values.values())
    files = WeightFiles(directory)
    assert_same({name: files.read(name, shape) for name, shape in shapes.items()}, values)


@settings(max_examples=12)
@given(
    st.sampled_from(["geglu", "relu"]),
    st.booleans(),
    st.sampled_from([(0, 1), (2, 1), (3, 2), (2, 4)]),
    st.sampled_from([(4, 4), (8, 4)]),
    st.booleans(),
    st.sampled_from(["learned", "token", "hash"]),
)
def test_every_value_of_every_parameter_has_one_place(
    activation, tied, experts, layers, shared, routing
):
    model = ModelConfig(
        vocabulary_size=7,
        d_model=3,
        d_ff=5,
        heads=2,
        d_kv=2,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        activation=activation,
        tied_embeddings=tied,
        experts=experts[0],
        sparse_every=experts[1],
        shared_position_bias=shared,
        routing=routing if experts[0] else "learned",
    )
    skeleton = Skeleton.build(model, FLOAT32)
    covered = {name: np.zeros(s.shape, int) for name, s in skeleton.shapes.items()}
    names = []
    for piece in list_pieces(model):
        part = covered[piece.parameter][piece.index]
        assert part.size == math.prod(find_tensor_shape(piece, skeleton))
        part += 1
        names.append(piece.tensor)
    assert all((count == 1).all() for count in covered.values())
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("mt5-base", "mt5"), ("mt5-xxl", "mt5"), ("umt5-base", "umt5"), ("t5-base", "t5")),
        *((f"switch-{size}", "switch_transformers") for size in ("base-8", "c")),
        *(("mswitch-base-relu", "switch_transformers"), ("mswitch-base", "mswitch")),
    ],
)
def test_presets_survive_their_config_json(name, kind):
    model = preset(name).model
    config = json.loads(json.dumps(write_config(model)))
    assert read_config(config, name) == model
    assert config["model_type"] == kind


def test_an_imported_preset_is_recognised():
    assert find_preset_name(preset("mt5-small").model) == "mt5-small"
    assert find_preset_name(dataclasses.replace(preset("mt5-small").model, d_ff=7)) == "imported"


@pytest.mark.parametrize("half", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_is_read(tmp_path, half):
    source = copy(FIXTURES / "t5-tiny", tmp_path)
    rounded = {name: v.astype(half) for name, v in tensors(source).items()}
    save_file(rounded, source / "model.safetensors", metadata={"format": "pt"})
    import_hf(source, tmp_path / "run")
    export_hf(tmp_path / "run", tmp_path / "back")
    wanted = {name: value.astype(np.float32) for name, value in rounded.items()}
    assert_same(tensors(tmp_path / "back"), wanted)


def test_older_checkpoints_with_copies_of_the_embedding(tmp_path):
    source = copy(FIXTURES / "t5-tiny", tmp_path)
    values = tensors(source)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        values[name] = values["shared.weight"]
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    values[unused] = np.zeros((32, 2), np.float32)
    save_file(values, source / "model.safetensors")
    import_hf(source, tmp_path / "run")
    import_hf(FIXTURES / "t5-tiny", tmp_path / "plain")
    assert_same(parameters_of(tmp_path / "run"), parameters_of(tmp_path / "plain"))


def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "source"))


def test_again_does_nothing_and_another_source_is_refused(tmp_path):
    for _ in range(2):
        imported = import_hf(FIXTURES / "t5-tiny", tmp_path / "run")
        exported = export_hf(tmp_path / "run", tmp_path / "hf")
    assert imported["reused"] is exported["reused"] is True
    with pytest.raises(UserError, match=r"made with other settings or inputs.*sha256"):
        import_hf(FIXTURES / "mt5-tiny", tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings or inputs \(changed: max_shard_bytes\)"):
        export_hf(tmp_path / "run", tmp_path / "hf", max_shard_bytes=9999)


def test_a_vocabulary_is_exported_as_a_tokenizer(tmp_path):
    run, out, given = tmp_path / "run", tmp_path / "hf", tmp_path / "given.model"
    model = add_sentinels(train_model(["a cab", "a bad cad"] * 20, 16, byte_fallback=False))
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces[-100:]:
        piece.piece = f"\u2581{piece.piece}"  # as mT5 names them
    given.write_bytes(proto.SerializeToString(deterministic=True))
    opened = open_vocabulary(given)
    child.run("mt5-tiny", run, 1)
    with pytest.raises(UserError, match="was trained with another vocabulary than"):
        export_hf(run, out, vocab=given)
    described = json.loads((run / CONFIG).read_text())
    described["examples"]["vocabulary_sha256"] = hashlib.sha256(opened.model).hexdigest()
    (run / CONFIG).write_text(json.dumps(described))
    export_hf(run, out, vocab=given)
    assert (out / "spiece.model").read_bytes() == model
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    # What transformers makes of it is in tests/parity.
    vocabulary = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    assert [piece for piece, _ in vocabulary] == [
        processor.IdToPiece(token) for token in range(processor.GetPieceSize())
    ]
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["additional_special_tokens"] == [f"<extra_id_{99 - n}>" for n in range(100)]
    assert [tokenizer[f"{kind}_token"] for kind in ("pad", "eos", "unk")] == SPECIAL
    assert export_hf(run, out, vocab=given)["reused"]
    with pytest.raises(
        UserError, match=r"other settings or inputs \(changed: tokenizer, vocabulary\)"
    ):
        export_hf(run, out)
    import_hf(FIXTURES / "mt5-tiny", tmp_path / "small")
    with pytest.raises(UserError, match=r"small has 40 rows for the \d+ pieces of"):
        export_hf(tmp_path / "small", tmp_path / "no", vocab=given)


def test_a_vocabulary_that_is_no_unigram_model_is_refused(tmp_path):
    model = add_sentinels(train_model(["a cab", "a bad cad"] * 20, 300, model_type="bpe"))
    with pytest.raises(
        UserError, match="--vocab is a BPE model, but tokenizers are written only for"
    ):
        write_tokenizer(tmp_path, model)


@pytest.mark.kill
def test_the_commands_killed_and_run_again(tmp_path):
    """Whatever the moment, the directory appears as a whole or not at all."""
    # Accelerators are left alone: that there is none goes unnoticed.
    call = functools.partial(run_mswitch, JAX_PLATFORMS="nowhere")
    source = FIXTURES / "switch-all-tiny"
    run, back = tmp_path / "run", tmp_path / "back"
    importing = ("import-hf", source, "--out", run, "--json")
    assert call(*importing, MSWITCH_FAULT="import-hf.before_publish").returncode == -9
    assert not run.exists()
    done = call(*importing)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["preset"] == "imported"
    exporting = ("export-hf", run, "--out", back, "--max-shard-bytes", 30_000)
    assert call(*exporting, MSWITCH_FAULT="export-hf.before_marker").returncode == -9
    assert not back.exists()
    assert call(*exporting).returncode == 0
    assert_same(tensors(back), tensors(source))
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []
    refused = call("export-hf", tmp_path, "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert "is not a training run" in refused.stderr
