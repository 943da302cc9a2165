"""The teacher of a distillation: its values, and what a student takes over of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mswitch.models.config import Precision
from mswitch.models.training.checkpoint import restore_parameters
from mswitch.models.training.optimizer import Optimizer
from mswitch.models.training.run_directory import RunPlan, Teacher
from mswitch.models.training.run_files import open_files
from mswitch.models.training.state import Parameters, Skeleton, TrainState, dense_name, unrolled
from mswitch.models.training.step import Teaching


def teaching_of(plan: RunPlan, mesh: Mesh | None) -> Teaching | None:
    """What the training step has to know of the teacher; None if nothing is learned from it."""
    teacher = plan.teacher
    if teacher is None or not teacher.soft_weight:
        return None
    skeleton = skeleton_of(teacher, plan.train.dtype, mesh)
    return Teaching(skeleton, teacher.soft_weight, teacher.temperature)


def skeleton_of(teacher: Teacher, dtype: Precision, mesh: Mesh | None) -> Skeleton:
    """The teacher's model, its layers stored as they are, computed in the student's precision."""
    settings = {"dtype": dtype, "remat": "none", "freeze": "none"}
    return Skeleton.of(teacher.model, dataclasses.replace(teacher.train, **settings), mesh)


def teacher_parameters(teacher: Teacher, mesh: Mesh | None) -> Parameters:
    """The teacher's values, on the mesh."""
    origin = teacher.origin
    like = skeleton_of(teacher, teacher.train.dtype, mesh).abstract_parameters()
    with open_files(origin.path, shared=jax.process_count() > 1) as files:
        files.refresh()
        return restore_parameters(files, origin.step, like, origin.chain["config_hash"])


def state_of_student(
    plan: RunPlan, skeleton: Skeleton, optimizer: Optimizer, values: Parameters
) -> TrainState:
    """The state of step 0 of a student that begins with its teacher's `values`."""
    teacher = plan.teacher
    assert teacher is not None
    period, mean = teacher.model.period, teacher.gather == "mean"

    def create(values: Parameters) -> TrainState:
        drawn = unrolled(skeleton.initial_parameters())
        taken = in_dense_places(unrolled(values), period, mean=mean)
        parameters = skeleton.laid_out({**drawn, **taken})
        moments = optimizer.init(skeleton.trained(parameters), skeleton.axes)
        return TrainState(parameters, moments, jnp.zeros((), jnp.int32))

    made = jax.jit(create, out_shardings=skeleton.state_shardings(optimizer))
    return made(values)


def in_dense_places(sparse: Mapping[str, Any], period: int, *, mean: bool) -> dict[str, Any]:
    """Unscanned parameters of a sparse model by the names that a dense one has for them.

    Args:
        sparse: the parameters.
        period: blocks after which the model's pattern repeats.
        mean: whether a sparse layer gives the mean of its experts, or nothing.
    """
    found = {}
    for name, value in sparse.items():
        if ".switch." not in name:
            found[dense_name(name, period)] = value
        elif mean and ".router." not in name:
            found[dense_name(name, period)] = value.mean(axis=0)
    return found
