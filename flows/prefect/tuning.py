"""Steps of a fine-tuning: the training, its predictions, and the page of both."""

from pathlib import Path
from typing import Any

from mswitch.flows.prefect.artifacts import key_of, show_page, show_table
from mswitch.flows.prefect.cost import CostGuard
from mswitch.flows.prefect.follow import follow
from mswitch.flows.prefect.form_defaults import FinetuneSettings
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.steps import step
from mswitch.flows.prefect.training_progress import TrainingProgress
from mswitch.flows.reports.downstream import RUN_DATA, RUN_PAGE, write_run_page
from mswitch.flows.reports.downstream_sentences import with_interval
from mswitch.flows.stages.finetune import finetune as finetune_stage
from mswitch.flows.stages.predict import predict as predict_stage
from mswitch.models.config import JobConfig, PredictConfig
from mswitch.models.training.run_directory import read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.outputs import read_json_object


def preset_of(run: Path | str) -> str:
    """The preset of a run, which may lie in a bucket."""
    with open_files(run) as files:
        files.refresh()
        return read_run(files.directory)["preset"]


@step("finetune {planned.place.name}")
def finetune(
    settings: FinetuneSettings,
    origin: Path | str,
    tasks: Path | str,
    planned: Planned,
    guard: CostGuard,
) -> None:
    """Train on with the parameters of a run, as a job."""
    job = finetune_stage.job(
        hosts=settings.hosts,
        record=planned.record,
        from_=origin,
        tasks=tasks,
        out=planned.out,
        mixture=planned.mixture,
        step=settings.step,
        keep_moments=settings.keep_moments,
        config=planned.config,
        job=JobConfig(distributed=settings.hosts > 1),
    )
    progress = TrainingProgress(job, planned.config.steps, guard.note)
    follow(job, guard.launcher, progress.update, guard.refuse)
    progress.finish()


@step("predict {planned.place.name}")
def predict(planned: Planned, config: PredictConfig, guard: CostGuard, **what: Any) -> None:
    """Predict a split of the task, as a job."""
    job = predict_stage.job(record=planned.place, run=planned.out, config=config, **what)
    follow(job, guard.launcher, refuse=guard.refuse)


@step("page of {place.name}")
def show_scores(run: Path | str, place: Path, split: str) -> str:
    """Write the run's page, show its table, and return its first figure."""
    page = place.with_name(f"{place.name}-{split}")
    write_run_page(run, page, split=split, replace=True)
    data = read_json_object(page / RUN_DATA)
    lead = data["results"][0]
    rows = []
    for language in data["languages"]:
        scores = language["results"][0]
        [score] = scores["models"]
        low, high = score["ci"] or (None, None)
        rows.append(
            {
                "lang": language["lang"],
                "rows": language["rows"],
                "groups": language["groups"],
                lead["metric"]: score["value"],
                "low": low,
                "high": high,
                "majority": scores["majority"],
            }
        )
    found = (
        f"{lead['metric']} on {split} of {data['task']['name']}: "
        f"{with_interval(lead['average']['models'][0])}, {data['runs'][0]['reads']}"
    )
    show_table(key_of("scores", place.name, split), rows, found)
    show_page(key_of("page", place.name, split), page / RUN_PAGE, f"Page of {place.name}")
    return found
