"""Runs of small sparse models that transformers has no class for."""

import dataclasses
from pathlib import Path

import numpy as np

from mswitch.models.config import ModelConfig
from mswitch.models.huggingface.convert import _TRAIN
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.models.training.step_zero import stage_run, write_step_zero

BASE = ModelConfig(
    vocabulary_size=192,
    d_model=16,
    d_ff=20,
    heads=2,
    d_kv=6,
    encoder_layers=2,
    decoder_layers=2,
    experts=4,
    sparse_every=1,
    balance_weight=0.3,
    router_jitter=0.0,
)
MODELS = {
    "learned-geglu": BASE,
    "token-geglu": dataclasses.replace(BASE, routing="token", sparse_every=2),
    "hash-geglu": dataclasses.replace(BASE, routing="hash", tied_embeddings=True),
    "token-relu-tied": dataclasses.replace(
        BASE, routing="token", activation="relu", tied_embeddings=True
    ),
    "hash-relu": dataclasses.replace(BASE, routing="hash", activation="relu", sparse_every=2),
    "learned-relu-biases": dataclasses.replace(
        BASE, activation="relu", shared_position_bias=False, router_z_weight=0.1
    ),
    "learned-relu-third": dataclasses.replace(
        BASE, activation="relu", sparse_every=3, encoder_layers=6, decoder_layers=3
    ),
    "token-geglu-biases-third": dataclasses.replace(
        BASE,
        routing="token",
        shared_position_bias=False,
        sparse_every=3,
        encoder_layers=3,
        decoder_layers=3,
    ),
}


def draw_parameters(model: ModelConfig) -> Parameters:
    """Random values, also of tables and norms that training begins with constants."""
    rng = np.random.default_rng(3)
    shapes = Skeleton.build(model, _TRAIN).shapes

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("scale"):
            return np.float32(rng.normal(1, 0.2, shape))
        if name == "embedding.table":  # small, or tied logits only repeat the token that is read
            return np.float32(rng.normal(0, 0.1, shape))
        wide = name.endswith("table")
        return np.float32(rng.normal(0, 1 if wide else shape[-2] ** -0.5, shape))

    return {name: draw(name, value.shape) for name, value in shapes.items()}


def write_run(model: ModelConfig, out: Path) -> Parameters:
    """Write a run with one checkpoint, at step 0."""
    parameters = draw_parameters(model)
    with stage_run(out, stage="import-hf", config={"name": str(model)}) as output:
        skeleton = Skeleton.build(model, _TRAIN)
        write_step_zero(
            output.directory, output.hash, skeleton, parameters, preset="own", huggingface=None
        )
        output.publish({})
    return parameters
