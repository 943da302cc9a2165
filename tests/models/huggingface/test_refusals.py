"""What cannot be exchanged is refused with one line that says why."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hf_logits import FIXTURES
from safetensors.numpy import load_file, save_file

from mswitch.models.huggingface import convert
from mswitch.models.huggingface.config import read_config, write_config
from mswitch.models.huggingface.convert import export_hf, import_hf
from mswitch.models.huggingface.tensors import Piece, list_pieces
from mswitch.models.nn.experts import SwitchFeedForward
from mswitch.models.nn.layers import parameter
from mswitch.models.presets import preset
from mswitch.models.training.state import _trace_tree
from mswitch.pipelines.errors import UserError


@pytest.fixture
def source(tmp_path, request) -> Path:
    """A copy of these files, of T5 unless others are named."""
    name = getattr(request, "param", "t5-tiny")
    return Path(shutil.copytree(FIXTURES / name, tmp_path / "source"))


@pytest.fixture
def sharded(tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / "mt5-tiny", tmp_path / "sharded"))


def refuse(directory: Path, message: str) -> None:
    out = directory.parent / "run"
    with pytest.raises(UserError, match=message):
        import_hf(directory, out)
    assert not out.exists()


def change_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(directory: Path, change) -> None:
    values = load_file(directory / "model.safetensors")
    change(values)
    save_file(values, directory / "model.safetensors")


WI = "encoder.block.1.layer.1.DenseReluDense.wi.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop(WI), f"has no tensor {WI}"),
        (
            lambda v: v.update({WI: np.ascontiguousarray(v[WI].T)}),
            rf"{WI} has shape \[16, 20\], but config.json implies \[20, 16\]",
        ),
        (
            lambda v: v.update({"encoder.block.2.x.weight": v[WI]}),
            r"has 1 tensors that are not in the model .*, such as encoder\.block\.2\.x",
        ),
        (lambda v: v[WI].__setitem__((0, 0), np.nan), f"{WI} holds infinities or NaN"),
        (lambda v: v.update({WI: np.zeros((20, 16), np.int32)}), f"{WI} is I32; mswitch reads F32"),
    ],
)
def test_other_tensors(source, change, message):
    change_weights(source, change)
    refuse(source, message)


def test_tied_and_untied_contradictions(source, sharded):
    change_config(source, tie_word_embeddings=False)
    refuse(source, r"no tensor lm_head.weight, and config.json says .* not tied")
    change_config(source, tie_word_embeddings=True)
    change_weights(source, lambda v: v.update({"lm_head.weight": v["shared.weight"] + 1}))
    refuse(source, r"lm_head.weight differs from shared.weight, though config.json says .* tied")
    change_config(sharded, tie_word_embeddings=True)
    refuse(sharded, "lm_head.weight differs from shared.weight")
    change_config(sharded, transformers_version="5.1.0")
    refuse(sharded, "transformers 5.1.0 marks every mT5 as tied")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bert"},
            "model_type 'bert' cannot be read; mswitch reads mt5, t5, umt5, switch_transformers",
        ),
        ({"model_type": None}, "model_type None cannot be read"),
        ({"d_model": "16"}, "d_model is '16'; it must be a number from 1"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": 3}, r"has no tensor encoder\.block\.2"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu' is unknown"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05; mswitch only computes 1e-06"),
        ({"mswitch": {"depth": 3}}, "mswitch has unknown keys: depth"),
        ({"mswitch": {"group_size": "9"}}, "mswitch.group_size is '9', and must be a number"),
        ({"mswitch": {"balance_scope": 1}}, "mswitch.balance_scope is 1, and must be a text"),
        ({"mswitch": {"balance_scope": "all"}}, "--balance-scope all is unknown: choose group or"),
        ({"mswitch": 3}, "mswitch is not an object"),
    ],
)
def test_configurations_of_other_models(source, changes, message):
    change_config(source, **changes)
    refuse(source, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_gated_act": True}, "SwitchTransformers has no gated layers"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'; mswitch only computes 'relu'"),
        ({"router_bias": True}, "router_bias is True"),
        ({"num_sparse_encoder_layers": 1}, r"one encoder layer in 4 and one decoder layer in 2"),
        ({"num_experts": 5}, r"has no tensor .*expert_4\.wi\.weight"),
        ({"num_experts": 3}, r"router.classifier.weight has shape \[4, 16\], .* \[3, 16\]"),
    ],
)
@pytest.mark.parametrize("source", ["switch-tiny"], indirect=True)
def test_switch_variants(source, changes, message):
    change_config(source, **changes)
    if changes == {"num_experts": 5}:
        grown = np.zeros((5, 16), np.float32)
        change_weights(source, lambda v: v.update({n: grown for n in v if "router" in n}))
    refuse(source, message)


def test_files_that_are_not_there_or_broken(source, sharded, tmp_path):
    refuse(tmp_path / "nowhere", "config.json cannot be read")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    refuse(source, "model.safetensors is not a safetensors file")
    weights.unlink()
    (source / "pytorch_model.bin").write_bytes(b"")
    refuse(source, "has neither model.safetensors nor .*safe_serialization=True")
    (source / "config.json").write_text("{")
    refuse(source, "config.json is not JSON")
    (source / "config.json").write_text("[]")
    refuse(source, "config.json does not hold a JSON object")
    index = sharded / "model.safetensors.index.json"
    good = index.read_text()
    for name in ("../source/model.safetensors", "/etc/passwd", "..", ""):
        change_index(index, good, "lm_head.weight", name)
        refuse(sharded, r"lm_head.weight is said to be in .*, which is not a plain file name")
    change_index(index, good, "lm_head.weight", "model-00009-of-00009.safetensors")
    refuse(sharded, "which does not exist")
    change_index(index, good, "lm_head.weight", "model-00001-of-00002.safetensors")
    refuse(sharded, "has no tensor lm_head.weight, though model.safetensors.index.json says so")
    index.write_text("{}")
    refuse(sharded, "has no weight_map")


def change_index(index: Path, text: str, tensor: str, file: str) -> None:
    content = json.loads(text)
    assert tensor in content["weight_map"]
    content["weight_map"][tensor] = file
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tied_embeddings": None}, "tied_embeddings is None; it must be true or false"),
        ({"shared_position_bias": 1}, "shared_position_bias is 1; it must be true or false"),
        ({"sparse_every": 0}, "sparse_every is 0; it must be a number from 1"),
        ({"mswitch": {"routing": "random"}}, "--routing random is unknown"),
    ],
)
def test_settings_of_the_modelling_file(changes, message):
    config = write_config(preset("mswitch-base").model)
    with pytest.raises(UserError, match=message):
        read_config(config | changes, "config.json")


def test_exports_without_their_checkpoint(tmp_path):
    import_hf(FIXTURES / "t5-tiny", tmp_path / "run")
    with pytest.raises(UserError, match="no checkpoint of step 7: choose among 0"):
        export_hf(tmp_path / "run", tmp_path / "hf", step=7)
    with pytest.raises(UserError, match="--max-shard-bytes must be at least 1"):
        export_hf(tmp_path / "run", tmp_path / "hf", max_shard_bytes=0)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        export_hf(tmp_path / "run", tmp_path / "hf")


def test_a_config_is_refused_before_weights_are_read(tmp_path):
    sizes = {"num_layers": 1, "vocab_size": 9, "d_model": 4, "d_ff": 4, "num_heads": 1}
    with pytest.raises(UserError, match="d_kv is None"):
        read_config({"model_type": "mt5", **sizes}, "c")


@pytest.fixture
def shared_expert(monkeypatch):
    """Sparse layers that have a dense one beside the routed experts."""
    build = SwitchFeedForward.__init__

    def build_more(self, config, *, rngs, **options):
        build(self, config, rngs=rngs, **options)
        shape = (config.d_model, config.d_ff)
        self.shared_wi = parameter(rngs, jax.nn.initializers.ones, shape, ("embed", "mlp"))

    def patch():
        monkeypatch.setattr(SwitchFeedForward, "__init__", build_more)
        _trace_tree.cache_clear()

    yield patch
    _trace_tree.cache_clear()


def test_parameters_that_hugging_face_does_not_know_are_named(tmp_path, shared_expert):
    import_hf(FIXTURES / "switch-tiny", tmp_path / "run")
    shared_expert()
    message = (
        r"parameters without a tensor in Hugging Face's layout: "
        r"decoder\.periods\.0\.blocks\.1\.switch\.shared_wi, .*encoder\S+shared_wi: "
    )
    with pytest.raises(UserError, match=message):
        export_hf(tmp_path / "run", tmp_path / "hf")
    with pytest.raises(UserError, match=message):
        import_hf(FIXTURES / "switch-tiny", tmp_path / "other")
    assert not (tmp_path / "hf").exists()


def test_tensors_without_a_parameter_are_named(tmp_path, monkeypatch):
    import_hf(FIXTURES / "switch-tiny", tmp_path / "run")
    extra = Piece("encoder.shared.weight", "encoder.shared.kernel")
    monkeypatch.setattr(convert, "list_pieces", lambda model: [*list_pieces(model), extra])
    with pytest.raises(UserError, match=r"that the model has not .*: encoder\.shared\.kernel: "):
        export_hf(tmp_path / "run", tmp_path / "hf")
