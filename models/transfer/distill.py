"""Distillation: a dense student learns from text and from a sparse teacher's predictions.

As in Switch Transformers, section 4.2, the student begins with the teacher's parameters except the
experts. Its loss is 0.75 of the cross-entropy with the targets and 0.25 of the cross-entropy with
the teacher's predictions (`mswitch.models.nn.losses.compute_distilled_losses`).
"""

import dataclasses
from pathlib import Path
from typing import Any

from mswitch.models.capacity import Groups
from mswitch.models.config import (
    OF_EXPERTS,
    TUNABLE,
    JobConfig,
    ModelChanges,
    ModelConfig,
    TrainConfig,
    TuningChanges,
)
from mswitch.models.partitioning import check_divisible
from mswitch.models.training.finetune import is_same, prepare_tuning
from mswitch.models.training.initial_parameters import find_origin
from mswitch.models.training.run_directory import (
    check_vocabulary,
    parse_model,
    parse_train_config,
    read_run,
)
from mswitch.models.training.run_files import open_files
from mswitch.models.training.run_plan import RunPlan, Teacher
from mswitch.models.training.train import ALONE, NO_CHANGES, prepare, train_prepared
from mswitch.models.transfer.config import DistillConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import open_task_mixture
from mswitch.tasks.batches.training import TaskBatches

PAPER = DistillConfig()
#: Settings of student and teacher that may differ even if the student begins with the teacher's
#: parameters.
_FREE = {"vocabulary_size", "experts", "sparse_every", "init_scale", "dropout_rate", *OF_EXPERTS}


def distill(
    teacher: str | Path,
    preset: str | None,
    examples: str | Path,
    out: str | Path,
    config: TrainConfig,
    distillation: DistillConfig = PAPER,
    mixture: Mixture | None = None,
    changes: ModelChanges = NO_CHANGES,
    job: JobConfig = ALONE,
    *,
    step: int | None = None,
    origin: str | Path | None = None,
) -> dict[str, Any]:
    """Train a dense preset as `train` does, with a sparse run as its teacher.

    With an `origin`, train a dense run further as `finetune` does: for example, with a fine-tuned
    teacher on its tasks (Switch Transformers, table 8).

    Args:
        teacher: the sparse run directory, also in a bucket.
        preset: name of the student (`mswitch.models.presets`); None if there is an `origin`.
        examples: like the `tasks` of `finetune`, in the teacher's vocabulary.
        out: the new run directory, also in a bucket.
        config: training settings.
        distillation: the student's loss and initial parameters.
        mixture: as in `finetune`.
        changes: changes to the preset.
        job: the processes that train together.
        step: the teacher's checkpoint; by default its last.
        origin: the dense run whose last parameters the student begins with.

    Returns:
        The summary, as in `finetune`.
    """

    def prepare_student() -> tuple[RunPlan, TaskBatches]:
        if is_same(teacher, out):
            raise UserError(f"--out is {teacher}, the teacher: choose another")
        if origin is not None and (distillation.gather != "none" or not distillation.init):
            raise UserError(
                "--gather and --no-init are for a student that begins with --teacher, not with "
                f"--from {origin}: leave them out"
            )
        start = _find_teacher(
            teacher, examples, config, distillation, mixture, step=step, shared=job.shared
        )
        if origin is not None:
            start = dataclasses.replace(start, init=False)
            tuning = _tuning_changes(changes, origin)
            plan, batches = prepare_tuning(
                origin, examples, out, config, mixture or Mixture(), tuning, shared=job.shared
            )
        else:
            assert preset is not None
            plan, batches = prepare(preset, examples, config, mixture or Mixture(), changes)
        _check_student(f"--teacher {teacher}", start, plan)
        return dataclasses.replace(plan, teacher=start), batches

    return {**train_prepared(prepare_student, examples, out, job), "stage": "distill"}


def _find_teacher(
    teacher: str | Path,
    examples: str | Path,
    config: TrainConfig,
    distillation: DistillConfig,
    mixture: Mixture | None,
    *,
    step: int | None = None,
    shared: bool = False,
) -> Teacher:
    with open_files(teacher, shared=shared) as files:
        files.refresh()
        described = read_run(files.directory)
        model = parse_model(described)
        if not model.sparse:
            raise UserError(f"--teacher {teacher} has no experts: give a sparse run")
        origin = find_origin(files, step, keep_moments=False)
    for directory in open_task_mixture(examples, mixture or Mixture()).directories:
        check_vocabulary(teacher, described, directory, read_manifest(directory, "examples"))
    # The mesh need not divide the number of the teacher's experts, because each device gathers all
    # experts of one layer at a time.
    dense_model = dataclasses.replace(model, experts=0)
    check_divisible(dense_model, config, Groups(config.rows, config.rows))
    settings = dataclasses.asdict(distillation)
    return Teacher(origin, model, parse_train_config(described), **settings)


def _tuning_changes(changes: ModelChanges, origin: str | Path) -> TuningChanges:
    """Return the changed settings of a student; refuse settings that change its parameters."""
    given = {
        name: value for name, value in dataclasses.asdict(changes).items() if value is not None
    }
    for name in given.keys() - set(TUNABLE):
        raise UserError(
            f"--{name.replace('_', '-')} changes the parameters, which come from --from {origin}: "
            "leave it out"
        )
    return TuningChanges(**given)


def _check_student(who_teaches: str, taught_by: Teacher, plan: RunPlan) -> None:
    teacher, student = taught_by.model, plan.model
    who = f"--preset {plan.preset}" if plan.origin is None else f"--from {plan.origin.path}"
    if student.sparse:
        raise UserError(f"{who} has experts: give a dense student")
    ours, theirs = student.vocabulary_size, teacher.vocabulary_size
    if ours != theirs:
        raise UserError(
            f"{who_teaches} has {theirs:,} rows for its vocabulary and {who} has {ours:,}: give "
            "the examples that the teacher was trained on"
        )
    if not taught_by.init:
        return
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(student, field.name), getattr(teacher, field.name)
        if field.name not in _FREE and ours != theirs:
            raise UserError(
                f"{who_teaches} has {field.name} {theirs} and {who} has {ours}: give a preset that "
                "differs only in experts, or --no-init"
            )
