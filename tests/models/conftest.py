"""Shrunken real presets and batches in memory, for all tests of models."""

import pytest
import train_child as child

from mswitch.models.config import ModelConfig, TrainConfig


@pytest.fixture(scope="session")
def dense() -> ModelConfig:
    return child.plan("mt5-tiny", 8).model


@pytest.fixture(scope="session")
def sparse() -> ModelConfig:
    return child.plan("mswitch-tiny", 8).model


@pytest.fixture(scope="session")
def train_config() -> TrainConfig:
    return TrainConfig(steps=8, batch_size=8, warmup_steps=100, dtype="float32")
