"""The run that a student learns from."""

import dataclasses
from pathlib import Path

from mswitch.models.capacity import Groups
from mswitch.models.config import TrainConfig
from mswitch.models.partitioning import check_divisible
from mswitch.models.training.origin import find_origin
from mswitch.models.training.run_directory import (
    Teacher,
    check_vocabulary,
    model_of,
    read_run,
    train_config_of,
)
from mswitch.models.training.run_files import open_files
from mswitch.models.transfer.config import DistillConfig
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.mixtures import Mixture
from mswitch.tasks.multitask import task_mixture


def find_teacher(
    teacher: str | Path,
    examples: str | Path,
    config: TrainConfig,
    distillation: DistillConfig,
    mixture: Mixture | None,
    *,
    step: int | None = None,
    shared: bool = False,
) -> Teacher:
    """A checkpoint of a sparse run that can predict these examples on the mesh of `config`."""
    with open_files(teacher, shared=shared) as files:
        files.refresh()
        described = read_run(files.directory)
        model = model_of(described)
        if not model.sparse:
            raise UserError(f"--teacher {teacher} has no experts: give a sparse run")
        origin = find_origin(files, step, keep_moments=False)
    for directory in task_mixture(examples, mixture or Mixture()).directories:
        check_vocabulary(teacher, described, directory, read_manifest(directory, "examples"))
    # Its experts need not be divided: each device gathers those of one layer at a time.
    of_widths = dataclasses.replace(model, experts=0)
    check_divisible(of_widths, config, Groups(config.rows, config.rows))
    settings = dataclasses.asdict(distillation)
    return Teacher(origin, model, train_config_of(described), **settings)
