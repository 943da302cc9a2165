"""Whether what is to be written fits the disk."""

import dataclasses
import os
import shutil
from pathlib import Path

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.hardware import GIB
from mswitch.pipelines.errors import UserError


def state_bytes(model: ModelConfig, config: TrainConfig) -> int:
    """Size of parameters and moments over all devices."""
    import jax

    from mswitch.models.planning.memory import count_state_memory
    from mswitch.models.training.state import Skeleton

    # A training may need the whole accelerator.
    jax.config.update("jax_platforms", "cpu")
    alone = dataclasses.replace(config, data_parallel=1, expert_parallel=1, model_parallel=1)
    return count_state_memory(Skeleton.build(model, alone), alone).total


def check_disk(place: Path, need: int, what: str, fix: str) -> None:
    """Compare what is to be written with the free space of a file system."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need > free:
        raise UserError(
            f"{what} need {need / GIB:,.1f} GiB, and {os.path.abspath(place)} has "
            f"{free / GIB:,.1f} free: make room, or give {fix}"
        )
