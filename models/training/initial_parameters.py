"""The initial parameters of a run: drawn, or taken from another run's checkpoint or a teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mswitch.models.config import TrainConfig
from mswitch.models.training.checkpoint import (
    RESTORE_IT,
    Checkpoints,
    find_step,
    restore_parameters,
)
from mswitch.models.training.distributed import say_once
from mswitch.models.training.optimizer import Optimizer
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    parse_train_config,
    read_run,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.run_plan import Origin, RunPlan, Teacher
from mswitch.models.training.state import Parameters, Skeleton, TrainState, find_dense_name, unroll
from mswitch.models.training.total_loss import Teaching
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER


def find_origin(files: RunFiles, step: int | None, keep_moments: bool) -> Origin:
    """Choose the checkpoint that a run begins with.

    Without a `step` it is the newest one, and the run must be finished. If the optimizer's moments
    are kept, earlier steps count, since its schedule continues.
    """
    described = read_run(files.directory)
    chosen = find_step(files, step)
    if step is None and not (files.directory / MARKER).is_file():
        raise UserError(
            f"{files.place} is still in training: let it end, or give --step, such as {chosen}"
        )
    chain = _trace_chain(described)
    before = (chain["origin"] or {}).get("steps_counted", 0)
    counted = before + chosen if keep_moments else 0
    return Origin(files.place, chosen, keep_moments, counted, chain)


def _trace_chain(described: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the inputs of a run, back to its corpus, by hashes instead of paths."""
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
    """If `origin.keep_moments`, check that the origin's moments fit these training settings.

    `described` is the origin's config.json.
    """
    if not origin.keep_moments:
        return
    before = parse_train_config(described)
    if before.scan_layers != train.scan_layers:
        option = "--scan-layers" if before.scan_layers else "--no-scan-layers"
        raise UserError(
            f"{origin.path} stores the moments of its layers differently: give {option}, or "
            "leave out --keep-moments"
        )
    if before.optimizer != train.optimizer:
        raise UserError(
            f"{origin.path} was trained with {before.optimizer}: give --optimizer "
            f"{before.optimizer} too, or leave out --keep-moments"
        )
    if before.freeze not in ("none", train.freeze):
        raise UserError(
            f"{origin.path} has no moments of its frozen parameters: give --freeze {before.freeze} "
            "too, or leave out --keep-moments"
        )


def prepare_state(
    step: int,
    plan: RunPlan,
    checkpoints: Checkpoints,
    skeleton: Skeleton,
    optimizer: Optimizer,
) -> tuple[TrainState, Parameters | None]:
    """Return the state after `step`, and the teacher's parameters if training needs them."""
    teacher = plan.teacher
    begins = teacher is not None and teacher.init and not step and plan.origin is None
    needed = teacher is not None and teacher.soft_weight > 0 and step < plan.train.steps
    values = None
    if teacher is not None and (begins or needed):
        values = _load_teacher(teacher, skeleton.mesh)
    if step:
        say_once("train", f"continuing after step {step:,}, from {checkpoints.place}/{step}")
        state = checkpoints.restore(step, skeleton.abstract_state(optimizer))
    elif plan.origin is not None:
        state = load_origin_state(plan.origin, skeleton, optimizer)
    elif begins:
        assert values is not None
        state = _make_student_state(plan, skeleton, optimizer, values)
    else:
        state = skeleton.initial_state(optimizer)
    return state, values if needed else None


def load_origin_state(origin: Origin, skeleton: Skeleton, optimizer: Optimizer) -> TrainState:
    """Return the state at step 0 of a run that begins from another run, its origin.

    Parameters come from the origin, and so do the optimizer's moments if `origin.keep_moments`;
    else the moments are new.
    """
    run = origin.chain["config_hash"]
    with open_files(origin.path, shared=jax.process_count() > 1) as files:
        files.refresh()
        before = parse_train_config(read_run(files.directory))
        if origin.keep_moments:
            train = dataclasses.replace(skeleton.train, freeze=before.freeze)
            like = dataclasses.replace(skeleton, train=train).abstract_state(optimizer)
            with files.checkpoint(origin.step, ""):
                checkpoints = Checkpoints(files.directory / CHECKPOINTS, (), run)
                state = checkpoints.restore(origin.step, like, RESTORE_IT)
            return state._replace(
                moments=skeleton.select_trained(state.moments), step=state.step * 0
            )
        train = dataclasses.replace(skeleton.train, scan_layers=before.scan_layers)
        like = Skeleton.build(skeleton.config, train, skeleton.mesh).abstract_parameters()
        parameters = restore_parameters(files, origin.step, like, run)
    shapes = cast(Parameters, skeleton.select_trained(skeleton.shapes))
    shardings = skeleton.state_shardings(optimizer)
    if train.scan_layers != skeleton.train.scan_layers:
        parameters = jax.jit(
            lambda stored: skeleton.lay_out(unroll(stored)),
            out_shardings=None if shardings is None else shardings.parameters,
        )(parameters)
    moments, step = jax.jit(
        lambda: (optimizer.init(shapes, skeleton.axes), jnp.zeros((), jnp.int32)),
        out_shardings=None if shardings is None else (shardings.moments, shardings.step),
    )()
    return TrainState(parameters, moments, step)


def make_teaching(plan: RunPlan, mesh: Mesh | None) -> Teaching | None:
    """Return the teacher as the training step needs it, or None if its predictions are not used."""
    teacher = plan.teacher
    if teacher is None or not teacher.soft_weight:
        return None
    skeleton = _make_teacher_skeleton(teacher, plan.train, mesh)
    return Teaching(skeleton, teacher.soft_weight, teacher.temperature)


def _make_teacher_skeleton(teacher: Teacher, train: TrainConfig, mesh: Mesh | None) -> Skeleton:
    """Return the teacher's model: parameters as in its run, dtype and attention as in `train`."""
    settings = {"dtype": train.dtype, "attention": train.attention}
    settings |= {"remat": "none", "freeze": "none"}
    return Skeleton.build(teacher.model, dataclasses.replace(teacher.train, **settings), mesh)


def _load_teacher(teacher: Teacher, mesh: Mesh | None) -> Parameters:
    origin = teacher.origin
    like = _make_teacher_skeleton(teacher, teacher.train, mesh).abstract_parameters()
    with open_files(origin.path, shared=jax.process_count() > 1) as files:
        files.refresh()
        return restore_parameters(files, origin.step, like, origin.chain["config_hash"])


def _make_student_state(
    plan: RunPlan, skeleton: Skeleton, optimizer: Optimizer, values: Parameters
) -> TrainState:
    teacher = plan.teacher
    assert teacher is not None
    period, mean = teacher.model.period, teacher.gather == "mean"

    def create(values: Parameters) -> TrainState:
        drawn = unroll(skeleton.initial_parameters())
        taken = rename_to_dense(unroll(values), period, mean=mean)
        parameters = skeleton.lay_out({**drawn, **taken})
        moments = optimizer.init(skeleton.select_trained(parameters), skeleton.axes)
        return TrainState(parameters, moments, jnp.zeros((), jnp.int32))

    made = jax.jit(create, out_shardings=skeleton.state_shardings(optimizer))
    return made(values)


def rename_to_dense(sparse: Mapping[str, Any], period: int, *, mean: bool) -> dict[str, Any]:
    """Return parameters of a sparse model under the names that they have in a dense model.

    Parameters have the layout without `scan_layers`. A sparse layer becomes the mean of its experts
    if `mean`, else it is left out. `period` is the sparse model's (`ModelConfig.period`).
    """
    dense = {}
    for name, value in sparse.items():
        if ".switch." not in name:
            dense[find_dense_name(name, period)] = value
        elif mean and ".router." not in name:
            dense[find_dense_name(name, period)] = value.mean(axis=0)
    return dense
