"""Check that outputs fit the disk before they are written."""

import dataclasses
import os
import shutil
from pathlib import Path

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.hardware import GIB
from mswitch.pipelines.errors import UserError


def count_state_bytes(model: ModelConfig, config: TrainConfig) -> int:
    """Return the size of parameters and moments over all devices."""
    import jax

    from mswitch.models.planning.memory import count_state_memory
    from mswitch.models.training.state import Skeleton

    # Shapes need no accelerator, and a training may need all of it.
    jax.config.update("jax_platforms", "cpu")
    alone = dataclasses.replace(config, data_parallel=1, expert_parallel=1, model_parallel=1)
    return count_state_memory(Skeleton.build(model, alone), alone).total


def check_disk(place: Path, need: int, what: str, fix: str) -> None:
    """Refuse files that need more than the free space of their file system."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need > free:
        raise UserError(
            f"{what} need {need / GIB:,.1f} GiB, but {os.path.abspath(place)} has "
            f"{free / GIB:,.1f} free: free some space, or give {fix}"
        )
