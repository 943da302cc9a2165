"""Distillation: a dense student learns from text and from what a sparse teacher predicts.

Switch Transformers, section 4.2: the student begins with the teacher's parameters that are not of
experts, and its loss is 0.75 of the cross-entropy with the targets and 0.25 of that with the
teacher's predictions.
"""

import dataclasses
from pathlib import Path
from typing import Any

from models.config import JobConfig, ModelChanges, ModelConfig, TrainConfig
from models.training.finetune import is_same
from models.training.run_directory import RunPlan
from models.training.train import prepare, train_prepared
from models.transfer.cache import check_cache
from models.transfer.config import DistillConfig
from models.transfer.teacher import find_teacher
from pipelines.errors import UserError
from tasks.batches import TaskBatches
from tasks.mixtures import Mixture

PAPER = DistillConfig()
NO_CHANGES = ModelChanges()
ALONE = JobConfig()
#: What teacher and student share where the student begins with the teacher's parameters.
_SHAPES = (
    "encoder_layers",
    "decoder_layers",
    "d_model",
    "d_ff",
    "heads",
    "d_kv",
    "activation",
    "tied_embeddings",
    "relative_buckets",
    "shared_position_bias",
)


def distill(
    teacher: str | Path,
    preset: str,
    examples: str | Path,
    out: str | Path,
    config: TrainConfig,
    distillation: DistillConfig = PAPER,
    mixture: Mixture | None = None,
    changes: ModelChanges = NO_CHANGES,
    job: JobConfig = ALONE,
    *,
    step: int | None = None,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """Train a dense preset as `train` does, with a sparse run as its teacher.

    Args:
        teacher: the sparse run directory, also in a bucket.
        preset: name of the student (`models.presets`).
        examples: a finished examples directory in the teacher's vocabulary, or a TOML file of
            several (`tasks.multitask`).
        out: the new run directory, also in a bucket.
        config: how to train.
        distillation: what the student takes from the teacher.
        mixture: how often each language comes; by default n ** 0.3 over all there are.
        changes: what to change of the preset.
        job: the processes that train together.
        step: the teacher's checkpoint; by default its last.
        cache: its predictions for these batches (`models.transfer.cache`); by default they are
            computed in each step.

    Returns:
        Summary: stage, out, reused, preset, step, final_loss, parameters.

    Raises:
        UserError: the teacher has no experts or is not finished, the two models do not fit each
            other, the cache is not of this teacher and these batches, and all that `train` raises.
        SystemExit: with code 75, after SIGTERM or Ctrl-C; everything is saved.
    """

    def prepare_student() -> tuple[RunPlan, TaskBatches]:
        if is_same(teacher, out):
            raise UserError(f"--out is {teacher}, the teacher: choose another")
        found = find_teacher(
            teacher, examples, config, distillation, mixture, step=step, shared=job.shared
        )
        plan, batches = prepare(preset, examples, config, mixture or Mixture(), changes)
        _check_student(f"--teacher {teacher}", found.model, plan, distillation)
        if cache is not None:
            samples = check_cache(cache, found, batches, config)
            found = dataclasses.replace(found, cache=str(cache), samples=samples)
        return dataclasses.replace(plan, teacher=found), batches

    return {**train_prepared(prepare_student, examples, out, job), "stage": "distill"}


def _check_student(
    who_teaches: str, teacher: ModelConfig, plan: RunPlan, distillation: DistillConfig
) -> None:
    """Check that the student can learn from this teacher, and begin as it is to.

    Raises:
        UserError: it cannot.
    """
    who, student = f"--preset {plan.preset}", plan.model
    if student.sparse:
        raise UserError(f"{who} has experts: give a dense student")
    ours, theirs = student.vocabulary_size, teacher.vocabulary_size
    if ours != theirs:
        raise UserError(
            f"{who_teaches} has {theirs:,} rows for its vocabulary and {who} has {ours:,}: give "
            "the examples that the teacher was trained on"
        )
    if not distillation.init:
        return
    for name in _SHAPES:
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise UserError(
                f"{who_teaches} has {name} {theirs} and {who} has {ours}: give a preset that "
                "differs in experts alone, or --no-init"
            )
