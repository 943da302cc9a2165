"""Steps of a fine-tuning: the training, its predictions, and the page of both."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from flows.downstream.build import RUN_DATA, RUN_PAGE, write_run_page
from flows.downstream.text import with_interval
from flows.launch.job import Job, Launcher
from flows.operators.artifacts import TrainingProgress, key_of, show_page, show_table
from flows.operators.parameters import options_of
from flows.operators.settings import FinetuneSettings
from flows.operators.steps import SERVER_ERRORS, follow, step
from models.config import PredictConfig
from models.training.run_directory import PREDICTIONS
from pipelines.outputs import read_json_object


@step("finetune {out.name}")
def finetune(
    settings: FinetuneSettings, origin: Path, tasks: Path, out: Path, launcher: Launcher
) -> None:
    """Train on with the parameters of a run, as a job."""
    words = [
        f"--from={origin}",
        f"--tasks={tasks}",
        f"--out={out}",
        f"--mixture={settings.mixture}",
    ]
    words += [f"--step={settings.step}"] if settings.step is not None else []
    words += ["--keep-moments"] if settings.keep_moments else []
    words += ["--distributed"] if settings.hosts > 1 else []
    job = Job(("finetune", *words, *options_of(settings.config)), out, hosts=settings.hosts)
    progress = TrainingProgress(out, settings.config.steps)
    follow(job, launcher, progress.update)
    with contextlib.suppress(*SERVER_ERRORS):
        progress.update()


@step("predict {run.name}")
def predict(run: Path, config: PredictConfig, launcher: Launcher, what: Sequence[str]) -> None:
    """Predict a split of the task, as a job."""
    argv = ("predict", f"--run={run}", *what, *options_of(config))
    follow(Job(argv, run / PREDICTIONS, marked=False), launcher)


@step("page of {run.name}")
def show_scores(run: Path, split: str) -> str:
    """Write the run's page, show its table, and return its first figure."""
    page = run.parent / f"{run.name}-{split}"
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
    show_table(key_of("scores", run.name, split), rows, found)
    show_page(key_of("page", run.name, split), page / RUN_PAGE, f"Page of {run.name}")
    return found
