"""Where a fine-tuning begins: a checkpoint of another run, trained or imported."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from mswitch.models.config import TrainConfig
from mswitch.models.training.checkpoint import Checkpoints, find_step, restore_parameters
from mswitch.models.training.optimizer import Optimizer
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    Origin,
    read_run,
    train_config_of,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.state import Parameters, Skeleton, TrainState, unrolled
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER


def find_origin(files: RunFiles, step: int | None, keep_moments: bool) -> Origin:
    """Choose the checkpoint to begin with.

    Args:
        files: a run.
        step: its checkpoint; None takes the newest of a run that is finished.
        keep_moments: whether the optimizer keeps its moments.
    """
    described = read_run(files.directory)
    found = find_step(files, step)
    if step is None and not (files.directory / MARKER).is_file():
        raise UserError(
            f"{files.place} is still in training: let it end, or give --step, such as {found}"
        )
    chain = _chain(described)
    before = (chain["origin"] or {}).get("steps_counted", 0)
    counted = before + found if keep_moments else 0
    return Origin(files.place, found, keep_moments, counted, chain)


def _chain(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was made of, back to its corpus, without paths."""
    kept = ("config_hash", "vocabulary_sha256")
    examples = described["examples"]
    origin = described.get("origin")
    return {
        "preset": described.get("preset"),
        "config_hash": described["config_hash"],
        "examples": examples and {name: examples[name] for name in kept},
        "origin": origin and {name: part for name, part in origin.items() if name != "path"},
    }


def check_moments(origin: Origin, described: Mapping[str, Any], train: TrainConfig) -> None:
    """Check that a run that is trained so can take over the moments of its origin, if it is to.

    Args:
        origin: the origin.
        described: its config.json.
        train: how the run is trained.
    """
    if not origin.keep_moments:
        return
    before = train_config_of(described)
    if before.scan_layers != train.scan_layers:
        option = "--scan-layers" if before.scan_layers else "--no-scan-layers"
        raise UserError(
            f"{origin.path} has moments of layers that are stored otherwise: give {option}, or "
            "leave out --keep-moments"
        )
    if before.optimizer != train.optimizer:
        raise UserError(
            f"{origin.path} was trained with {before.optimizer}: give --optimizer "
            f"{before.optimizer} too, or leave out --keep-moments"
        )
    if before.freeze not in ("none", train.freeze):
        raise UserError(
            f"{origin.path} has no moments of what it had frozen: give --freeze {before.freeze} "
            "too, or leave out --keep-moments"
        )


def state_of_origin(origin: Origin, skeleton: Skeleton, optimizer: Optimizer) -> TrainState:
    """The state of step 0: the origin's parameters, and fresh moments or its own."""
    run = origin.chain["config_hash"]
    with open_files(origin.path, shared=jax.process_count() > 1) as files:
        files.refresh()
        before = train_config_of(read_run(files.directory))
        if origin.keep_moments:
            train = dataclasses.replace(skeleton.train, freeze=before.freeze)
            like = dataclasses.replace(skeleton, train=train).abstract_state(optimizer)
            with files.checkpoint(origin.step, ""):
                checkpoints = Checkpoints(files.directory / CHECKPOINTS, (), run)
                state = checkpoints.restore(origin.step, like)
            return state._replace(moments=skeleton.trained(state.moments), step=state.step * 0)
        train = dataclasses.replace(skeleton.train, scan_layers=before.scan_layers)
        like = Skeleton.of(skeleton.config, train, skeleton.mesh).abstract_parameters()
        parameters = restore_parameters(files, origin.step, like, run)
    shapes = cast(Parameters, skeleton.trained(skeleton.shapes))
    shardings = skeleton.state_shardings(optimizer)
    if train.scan_layers != skeleton.train.scan_layers:
        parameters = jax.jit(
            lambda stored: skeleton.laid_out(unrolled(stored)),
            out_shardings=None if shardings is None else shardings.parameters,
        )(parameters)
    moments, step = jax.jit(
        lambda: (optimizer.init(shapes, skeleton.axes), jnp.zeros((), jnp.int32)),
        out_shardings=None if shardings is None else (shardings.moments, shardings.step),
    )()
    return TrainState(parameters, moments, step)
