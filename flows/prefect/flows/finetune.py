"""The flow that fine-tunes a run on a task, and shows its scores."""

from typing import Any

from mswitch.flows.prefect.approval import work_within_limit
from mswitch.flows.prefect.cost import CostGuard
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_defaults import FinetuneSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.show import TrainingProgress, show_scores
from mswitch.flows.stages.finetune import finetune as finetune_stage
from mswitch.flows.stages.predict import predict as predict_stage
from mswitch.models.config import JobConfig
from mswitch.models.training.run_directory import PREDICTIONS, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest


@settings_flow("finetune", "finetune {name}: {run}")
def finetune_run(settings: FinetuneSettings) -> str:
    """Fine-tune a run on a task, choose its checkpoint on validation, and score it on test."""
    operators = read_operators()
    launcher = operators.find_launcher(settings.launcher)
    origin = operators.locate_run(settings.run)
    tasks = operators.locate_output("examples", settings.tasks)
    place = operators.locate_directory("finetuned", settings.name)
    manifest = read_manifest(tasks, "examples")
    if manifest.get("kind") != "supervised":
        raise UserError(
            f"{tasks} are not examples of a task: name examples of `mswitch examples supervised`"
        )
    splits = {split for of in manifest["languages"].values() for split in of}
    if "validation" not in splits:
        raise UserError(f"{tasks} has no validation examples, which choose a checkpoint: add some")
    out = operators.choose_destination(place)
    with open_files(origin) as files:
        files.refresh()
        preset = read_run(files.directory)["preset"]
    planned = Planned(out, preset, settings.training, settings.mixture, place)
    guard = CostGuard([planned], settings, operators, manifest, PREDICTIONS)
    split = "test" if "test" in splits else "validation"

    def tune() -> None:
        job = finetune_stage.job(
            hosts=settings.hosts,
            record=place,
            from_=origin,
            tasks=tasks,
            out=out,
            mixture=settings.mixture,
            step=settings.step,
            keep_moments=settings.keep_moments,
            config=settings.training,
            job=JobConfig(distributed=settings.hosts > 1),
        )
        progress = TrainingProgress(job, settings.training.steps, guard.note)
        follow_job(f"finetune {settings.name}", job, launcher, guard.refuse, progress)
        predictions: list[dict[str, Any]] = [{"select": True}]
        predictions += [{"split": "test"}] if split == "test" else []
        for options in predictions:
            job = predict_stage.job(record=place, run=out, config=settings.predictions, **options)
            follow_job(f"predict {settings.name}", job, launcher, guard.refuse)

    work_within_limit(guard, tune)
    return show_scores(out, place, split)
