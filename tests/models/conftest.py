"""Shrunken real presets and batches in memory, for all tests of models."""

import dataclasses

import pytest

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.presets import preset


@pytest.fixture(scope="session")
def dense() -> ModelConfig:
    return shrink("mt5-tiny")


@pytest.fixture(scope="session")
def sparse() -> ModelConfig:
    return shrink("mswitch-tiny")


@pytest.fixture(scope="session")
def train_config() -> TrainConfig:
    return TrainConfig(steps=8, batch_size=8, warmup_steps=100, dtype="float32")


def shrink(name: str) -> ModelConfig:
    """The preset, small enough to compile in a second or two."""
    model = preset(name).model
    return dataclasses.replace(
        model,
        vocabulary_size=128,
        d_model=32,
        d_ff=48,
        heads=2,
        d_kv=16,
        encoder_layers=1,
        decoder_layers=1,
        sparse_every=1 if model.sparse else model.sparse_every,
        experts=4 if model.sparse else 0,
        group_size=4 * 12,
    )
