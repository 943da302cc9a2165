"""Convert between the `config.json` of a Hugging Face model and a `ModelConfig`.

Only settings that the logits depend on are read from there. Settings that matter only in training
(capacity, balance loss, jitter, dropout) mean something else in Hugging Face's classes. So they
have their own key, `mswitch`, which these classes keep and ignore.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mswitch.models.config import OF_EXPERTS, ModelConfig
from mswitch.models.nn.layers import NORM_EPSILON
from mswitch.pipelines.errors import UserError

ARCHITECTURES = {
    "mt5": "MT5ForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
    "switch_transformers": "SwitchTransformersForConditionalGeneration",
}
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
    architecture["tied_embeddings"] = _read_tied(config, where, kind)
    if kind == "switch_transformers":
        layers = (architecture["encoder_layers"], architecture["decoder_layers"])
        architecture |= _read_sparse_part(config, where, *layers)
    else:
        architecture["shared_position_bias"] = kind != "umt5"
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
        _check_exportable(model)
        kind = "switch_transformers"
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
    if not model.sparse:
        config["feed_forward_proj"] = _FEED_FORWARD[model.activation]
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


def _check_exportable(model: ModelConfig) -> None:
    if model.activation != "relu":
        raise UserError(
            "this model's experts are GEGLU, and Hugging Face's SwitchTransformers has no gated "
            "experts (one input projection each, ReLU): it cannot compute this model. Presets "
            "with ReLU experts, such as mswitch-base-relu and switch-base-128, can be exported"
        )
    if model.routing != "learned":
        raise UserError(
            f"this model routes by --routing {model.routing}, and Hugging Face's "
            "SwitchTransformers only has learned routers of hidden states: it cannot compute this "
            "model"
        )
    if not model.shared_position_bias:
        raise UserError(
            "this model has a position bias in every layer, and Hugging Face's SwitchTransformers "
            "has one per stack: it cannot compute this model"
        )
    if model.sparse_every not in (1, 2):
        raise UserError(
            f"sparse_every={model.sparse_every}: Hugging Face's SwitchTransformers would put the "
            "experts into other layers (the second of each period, not the last); only 1 and 2 "
            "can be exported"
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


def _require(config: Mapping[str, Any], where: str, name: str, wanted: Any) -> None:
    if config.get(name, wanted) != wanted:
        raise UserError(f"{where}: {name} is {config[name]!r}; mswitch only computes {wanted!r}")


def _read_number(config: Mapping[str, Any], where: str, name: str, usual: int | None = None) -> int:
    value = config.get(name)
    value = usual if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: {name} is {value!r}; it must be a number from 1")
    return value
