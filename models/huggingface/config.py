"""Convert between the `config.json` of a Hugging Face model and a `ModelConfig`.

Only settings that the logits depend on are read from there. Settings that matter only in training
(capacity, balance loss, jitter, dropout) mean something else in Hugging Face's classes. So they
have their own key, `mswitch`, which these classes keep and ignore.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mswitch.models.config import OF_EXPERTS, ModelConfig
from mswitch.models.nn.layers import NORM_EPSILON
from mswitch.pipelines.errors import UserError

ARCHITECTURES = {
    "mt5": "MT5ForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
    "switch_transformers": "SwitchTransformersForConditionalGeneration",
    "mswitch": "MSwitchForConditionalGeneration",
}
#: Python file that defines the classes of model type `mswitch`.
MODELING = Path(__file__).parent / "remote_code" / "modeling_mswitch.py"
#: Fields of a ModelConfig that change no logits as long as no token is dropped (`router_dtype`
#: changes them only by rounding).
TRAINING_FIELDS = (*OF_EXPERTS, "init_scale", "dropout_rate")
OWN_KEY = "mswitch"

_ACTIVATIONS = {"gated-gelu": "geglu", "relu": "relu"}
_FEED_FORWARD = {own: other for other, own in _ACTIVATIONS.items()}
_NUMBERS = {
    "vocabulary_size": "vocab_size",
    "d_model": "d_model",
    "d_ff": "d_ff",
    "heads": "num_heads",
    "d_kv": "d_kv",
    "encoder_layers": "num_layers",
    "decoder_layers": "num_decoder_layers",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
}
#: More settings of model type `mswitch`. transformers 5 changes `tie_word_embeddings` of every T5.
_OWN_NUMBERS = {"experts": "num_experts", "sparse_every": "sparse_every"}
_SWITCHES = ("tied_embeddings", "shared_position_bias")
_USUAL = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}


def read_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the model that a config.json describes; `where` is its path, for errors."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{where}: model_type {kind!r} cannot be read; mswitch reads {', '.join(ARCHITECTURES)}"
        )
    _require(config, where, "layer_norm_epsilon", NORM_EPSILON)
    usual = {**_USUAL, "num_decoder_layers": config.get("num_layers")}
    architecture: dict[str, Any] = {
        own: _read_number(config, where, theirs, usual.get(theirs))
        for own, theirs in _NUMBERS.items()
    }
    if kind == "mswitch":
        for own, theirs in _OWN_NUMBERS.items():
            architecture[own] = _read_number(config, where, theirs)
        architecture |= {name: _read_switch(config, where, name) for name in _SWITCHES}
    else:
        architecture["tied_embeddings"] = _read_tied(config, where, kind)
        architecture["shared_position_bias"] = kind != "umt5"
    if kind == "switch_transformers":
        layers = (architecture["encoder_layers"], architecture["decoder_layers"])
        architecture |= _read_sparse_part(config, where, *layers)
    else:
        named = config.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
        if named not in _ACTIVATIONS:
            raise UserError(
                f"{where}: feed_forward_proj {named!r} is unknown; mswitch reads "
                f"{', '.join(_ACTIVATIONS)}"
            )
        architecture["activation"] = _ACTIVATIONS[named]
    return ModelConfig(**architecture, **_read_training_part(config, where, kind))


def write_config(model: ModelConfig, original: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a model's config.json in the format of transformers 4; transformers 5 reads it too.

    Args:
        model: the model.
        original: the config.json it was imported from, whose other keys are kept.
    """
    if model.sparse:
        kind = "mswitch" if needs_modeling_file(model) else "switch_transformers"
    else:
        # Class T5 supports every combination of activation and tied embeddings. Published mT5
        # checkpoints use class MT5.
        kind = "mt5" if model.activation == "geglu" and not model.tied_embeddings else "t5"
        if not model.shared_position_bias:
            kind = "umt5"
        elif original is not None:
            kind = original["model_type"]
    config: dict[str, Any] = {
        "decoder_start_token_id": 0,
        "dropout_rate": model.dropout_rate,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        **(original or {}),
        **{theirs: getattr(model, own) for own, theirs in _NUMBERS.items()},
        "architectures": [ARCHITECTURES[kind]],
        "layer_norm_epsilon": NORM_EPSILON,
        "model_type": kind,
        "tie_word_embeddings": model.tied_embeddings,
        "torch_dtype": "float32",
        OWN_KEY: {name: dataclasses.asdict(model)[name] for name in TRAINING_FIELDS},
    }
    # transformers 4.56 renamed `torch_dtype` to `dtype`. Versions 4 and 5 all read the older name.
    config.pop("dtype", None)
    if kind != "switch_transformers":
        config["feed_forward_proj"] = _FEED_FORWARD[model.activation]
    if kind == "mswitch":
        classes = {"AutoConfig": "MSwitchConfig", "AutoModelForSeq2SeqLM": ARCHITECTURES[kind]}
        config |= {theirs: getattr(model, own) for own, theirs in _OWN_NUMBERS.items()}
        config |= {name: getattr(model, name) for name in _SWITCHES}
        config["auto_map"] = {auto: f"{MODELING.stem}.{name}" for auto, name in classes.items()}
    if kind != "switch_transformers":
        return config
    sparse = {
        "decoder_sparse_step": model.sparse_every,
        "dense_act_fn": "relu",
        "encoder_sparse_step": model.sparse_every,
        "num_experts": model.experts,
        "num_sparse_decoder_layers": model.decoder_layers // model.sparse_every,
        "num_sparse_encoder_layers": model.encoder_layers // model.sparse_every,
        "router_bias": False,
        "router_dtype": "float32",
    }
    usual = {
        # This number is an expert's slots for a sequence. A sequence that is not longer than a
        # group then drops no token.
        "expert_capacity": model.group_size,
        # SwitchTransformers' jitter also changes the experts' input (issue 33969 of transformers).
        "router_jitter_noise": 0.0,
    }
    return {**usual, **config, **sparse}


def needs_modeling_file(model: ModelConfig) -> bool:
    """Return whether a model is sparse and transformers has no class for it.

    SwitchTransformers has learned routers and ReLU experts, and one position bias per stack. With
    another `sparse_every` than 1 or 2, it makes the second layer of each period sparse, not the
    last.
    """
    return model.sparse and (
        model.activation != "relu"
        or model.routing != "learned"
        or not model.shared_position_bias
        or model.sparse_every > 2
    )


def _read_sparse_part(
    config: Mapping[str, Any], where: str, encoder_layers: int, decoder_layers: int
) -> dict[str, Any]:
    if config.get("is_gated_act"):
        raise UserError(f"{where}: is_gated_act is set, but SwitchTransformers has no gated layers")
    _require(config, where, "dense_act_fn", "relu")
    _require(config, where, "router_bias", False)
    _require(config, where, "router_dtype", "float32")
    # Hugging Face's class computes the distance between sparse layers from the number of
    # layers and the number of sparse layers. It ignores *_sparse_step in config.json.
    steps = [
        layers // _read_number(config, where, name)
        for name, layers in (
            ("num_sparse_encoder_layers", encoder_layers),
            ("num_sparse_decoder_layers", decoder_layers),
        )
    ]
    if steps[0] != steps[1] or steps[0] not in (1, 2):
        raise UserError(
            f"{where}: one encoder layer in {steps[0]} and one decoder layer in {steps[1]} is "
            "sparse; mswitch reads models in which every layer or every second layer of both is"
        )
    return {
        "activation": "relu",
        "experts": _read_number(config, where, "num_experts"),
        "sparse_every": steps[0],
    }


def _read_training_part(config: Mapping[str, Any], where: str, kind: str) -> dict[str, Any]:
    usual = {"init_scale": 0.1} if kind == "switch_transformers" else {}
    own = config.get(OWN_KEY, {})
    if not isinstance(own, Mapping):
        raise UserError(f"{where}: {OWN_KEY} is not an object")
    unknown = sorted(set(own) - set(TRAINING_FIELDS))
    if unknown:
        raise UserError(f"{where}: {OWN_KEY} has unknown keys: {', '.join(unknown)}")
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    for name, value in own.items():
        field_type = type(defaults[name])
        kinds = (int, float) if field_type is float else (field_type,)
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = "text" if str in kinds else "number"
            raise UserError(f"{where}: {OWN_KEY}.{name} is {value!r}, and must be a {wanted}")
    return {**usual, **own}


def _read_tied(config: Mapping[str, Any], where: str, kind: str) -> bool:
    tied = bool(config.get("tie_word_embeddings", kind != "mt5"))
    version = str(config.get("transformers_version", "4"))
    if kind == "mt5" and tied and not version.startswith("4."):
        raise UserError(
            f"{where}: transformers {version} marks every mT5 as tied, even if it is not. Set "
            "tie_word_embeddings to false there if the weights have their own lm_head.weight; "
            "else save the model with transformers 4"
        )
    return tied


def _read_switch(config: Mapping[str, Any], where: str, name: str) -> bool:
    value = config.get(name)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {name} is {value!r}; it must be true or false")
    return value


def _require(config: Mapping[str, Any], where: str, name: str, wanted: Any) -> None:
    if config.get(name, wanted) != wanted:
        raise UserError(f"{where}: {name} is {config[name]!r}; mswitch only computes {wanted!r}")


def _read_number(config: Mapping[str, Any], where: str, name: str, usual: int | None = None) -> int:
    value = config.get(name)
    value = usual if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: {name} is {value!r}; it must be a number from 1")
    return value
