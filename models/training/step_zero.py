"""A run that was not trained here: one checkpoint, of step 0, with parameters from elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from models.config import as_json
from models.training.checkpoint import Checkpoints
from models.training.optimizer import optimizer_of
from models.training.run_directory import CHECKPOINTS, CONFIG
from models.training.state import Parameters, Skeleton, TrainState, parameter_counts
from pipelines import storage


def write_step_zero(
    directory: Path,
    run_hash: str,
    skeleton: Skeleton,
    parameters: Parameters,
    *,
    preset: str,
    examples: Mapping[str, Any] | None = None,
    languages: Mapping[str, Any] | None = None,
    **notes: Any,
) -> None:
    """Fill a run directory; it can then be evaluated, exported and trained on like any other.

    Args:
        directory: the directory, with what a killed writer left.
        run_hash: its `config_hash`.
        skeleton: the model; the optimizer has done nothing.
        parameters: its values.
        preset: name of the model.
        examples: the data it belongs to, as in the config.json of a run; None for none known.
        languages: likewise.
        notes: what else config.json is to say.
    """
    counts = parameter_counts(skeleton)
    storage.write_json(
        directory / CONFIG,
        {
            "preset": preset,
            "model": as_json(skeleton.config),
            "train": as_json(skeleton.train),
            "examples": examples,
            "languages": languages or {},
            "eval_steps": [0],
            "config_hash": run_hash,
            "parameters": sum(counts.values()),
            "parameters_by_group": counts,
            **notes,
        },
    )
    moments = optimizer_of(skeleton.train).init(parameters, skeleton.axes)
    checkpoints = Checkpoints(directory / CHECKPOINTS, (0,), run_hash)
    checkpoints.remove_leftovers()
    if checkpoints.latest() is None:
        checkpoints.save(TrainState(parameters, moments, jnp.zeros((), jnp.int32)), 0)
        checkpoints.wait()
