"""Fine-tuning: training that begins with the parameters of another run."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

from mswitch.models.config import JobConfig, TrainConfig, TuningChanges, TuningConfig
from mswitch.models.training.initial_parameters import check_moments, find_origin
from mswitch.models.training.run_directory import check_vocabulary, parse_model, read_run
from mswitch.models.training.run_files import open_files
from mswitch.models.training.run_plan import RunPlan
from mswitch.models.training.train import ALONE, make_plan, train_prepared
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import open_task_mixture
from mswitch.tasks.batches.training import TaskBatches

T5 = TuningConfig()
NO_CHANGES = TuningChanges()


def finetune(
    origin: str | Path,
    tasks: str | Path,
    out: str | Path,
    config: TrainConfig = T5,
    mixture: Mixture | None = None,
    changes: TuningChanges = NO_CHANGES,
    job: JobConfig = ALONE,
    *,
    step: int | None = None,
    keep_moments: bool = False,
) -> dict[str, Any]:
    """Train further from a run's parameters, or continue a killed fine-tuning.

    Args:
        origin: the run directory to begin with, trained or imported, also in a bucket.
        tasks: a finished examples directory of the same vocabulary, here or in a bucket, or a
            TOML file of several (`mswitch.tasks.batches.multitask`).
        out: the new run directory, also in a bucket.
        config: training settings.
        mixture: sampling rate of each language; by default n ** 0.3 over all languages.
        changes: changes to the model; by default dropout, as in T5's recipe.
        job: the processes that train together.
        step: the origin's checkpoint; by default its last.
        keep_moments: continue with the origin's moments and its count of steps, as T5X does.

    Returns:
        Summary: stage, out, reused, preset, step, final_loss, parameters.
    """
    chosen, how = mixture or Mixture(), {"step": step, "keep_moments": keep_moments}
    prepare = functools.partial(
        prepare_tuning, origin, tasks, out, config, chosen, changes, shared=job.shared, **how
    )
    return {**train_prepared(prepare, tasks, out, job), "stage": "finetune"}


def prepare_tuning(
    origin: str | Path,
    tasks: str | Path,
    out: str | Path,
    config: TrainConfig,
    mixture: Mixture,
    changes: TuningChanges,
    *,
    step: int | None = None,
    keep_moments: bool = False,
    shared: bool = False,
) -> tuple[RunPlan, TaskBatches]:
    """Plan a fine-tuning of a run's model and open its data; see `finetune`."""
    if is_same(origin, out):
        raise UserError(f"--out is {origin}, the run to begin with: choose another")
    with open_files(origin, shared=shared) as files:
        files.refresh()
        described = read_run(files.directory)
        start = find_origin(files, step, keep_moments)
    for directory in open_task_mixture(tasks, mixture).directories:
        check_vocabulary(origin, described, directory, read_manifest(directory, "examples"))
    check_moments(start, described, config)
    model = changes.apply_to(parse_model(described))
    plan, batches = make_plan(described["preset"], model, tasks, config, mixture)
    notes = {name: described[name] for name in ("huggingface",) if name in described}
    return dataclasses.replace(plan, origin=start, notes=notes), batches


def is_same(path: str | Path, other: str | Path) -> bool:
    """Return whether two paths or URLs name the same directory."""
    if storage.is_remote(path) or storage.is_remote(other):
        return str(path).rstrip("/") == str(other).rstrip("/")
    return os.path.realpath(path) == os.path.realpath(other)
