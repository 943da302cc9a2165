"""`mswitch report`: compare runs, before or after fine-tuning; make an index of reports."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.flows.stages.common import Json, finish
from mswitch.flows.stages.stage import Summary, stage

app = App(name="report")

Runs = Annotated[list[str], Parameter(negative="")]
Split = Literal["validation", "test"]


@stage(app, "report", makes="reports", reads={"baseline": "runs", "candidate": "runs"})
def report(
    *,
    baseline: Runs,
    candidate: Runs,
    out: Path,
    config: ReportConfig = ReportConfig(),
    unfinished: bool = False,
    downstream: Annotated[list[str] | None, Parameter(negative="")] = None,
) -> Summary:
    """Compare evaluated runs: write report.html (self-contained), report.json, per_language.csv.

    The report says, for each language and with intervals, how many fewer steps the candidate
    needed for the baseline's final quality. Both runs must be evaluated on the same examples.

        mswitch report --baseline dense --candidate sparse --out report

    Give --baseline and --candidate once for each seed that a model was trained with. Curves are
    then averaged over seeds, and intervals include the variance between seeds. Runs that differ in
    other settings are several candidates, each of which has its own page.

    Args:
        baseline: the run directory of the dense model or its URL, once for each seed.
        candidate: the run directory of the sparse model, once for each seed and model.
        out: the directory to make.
        unfinished: report on runs that still train, up to the last step at which both are evaluated
            (`mswitch evaluate --watch`). The same command later replaces this report.
        downstream: an output of `mswitch report downstream` on runs fine-tuned from these runs,
            once for each task; the report gets a section for each.
    """
    return write_report(
        baseline, candidate, out, config, unfinished=unfinished, downstream=downstream or ()
    )


@app.command
def index(directory: str, /, *, json: Json = False) -> int:
    """Write DIRECTORY/index.html, a page of all reports below a directory, and index.json.

    For each report the page has date, models, data, median step speed-up with its interval, and a
    link. For each comparison of fine-tuned runs it has the scores. Repeat the command to add new
    reports.

        mswitch report index runs

    Args:
        directory: directory of the reports, at any depth, or its gs:// or s3:// URL.
    """
    from mswitch.flows.reports.index import write_index

    return finish(write_index(directory), json)


@stage(app, "report downstream", makes="reports", reads={"baseline": "runs", "candidate": "runs"})
def downstream(
    *,
    baseline: Runs,
    candidate: Runs,
    out: Path,
    scratch: Annotated[list[str] | None, Parameter(negative="")] = None,
    task: str | None = None,
    split: Split = "test",
) -> Summary:
    """Compare fine-tuned runs on a task: downstream.html, downstream.json and downstream.csv.

    It shows, for each language and with intervals, the scores of both runs' predictions
    (`mswitch predict --split test`). For comparison it adds the score of the most common answer,
    and of runs in --scratch. Both runs must be fine-tuned with the same settings.

        mswitch report downstream --baseline dense-tuned --candidate sparse-tuned --out downstream

    Give --baseline and --candidate once for each seed of fine-tuning; intervals of differences then
    include the variance between seeds.

    Give them once for each of several checkpoints of pretraining (`mswitch finetune --step`), to
    see how many fewer steps of pretraining the candidate needs for the same score. `mswitch report
    --downstream DIR` includes the result in the report of the pretrained runs.

    Args:
        baseline: the fine-tuned run of the dense model, once for each seed, or for each checkpoint
            that it began with.
        candidate: the fine-tuned run of the sparse model, once for each seed, or for each
            checkpoint that it began with.
        out: the directory to make.
        scratch: runs trained only on the task, from random parameters, with `mswitch train`.
        task: the task's name, if the runs predicted several.
        split: the predictions to compare.
    """
    from mswitch.flows.reports.downstream import write_downstream

    return write_downstream(baseline, candidate, out, scratch or (), task=task, split=split)


@stage(
    app,
    "report distillation",
    makes="reports",
    reads={"baseline": "runs", "teacher": "runs", "student": "runs"},
)
def distillation(
    *,
    baseline: Runs,
    teacher: Runs,
    student: Runs,
    out: Path,
    long_baseline: Annotated[list[str] | None, Parameter(negative="")] = None,
    config: ReportConfig = ReportConfig(),
) -> Summary:
    """Report the share of a sparse model's gain that students keep: distillation.html and .json.

    The gain is the difference in loss between the dense baseline and the sparse teacher, at the
    last step and on the same documents. The report shows the share of each language and of all,
    with intervals, and the saved parameters. It shows no share if the gain may be zero.

        mswitch report distillation --baseline dense --teacher sparse --student student --out report

    Args:
        baseline: the run of the dense model, evaluated; once for each seed.
        teacher: the run of the sparse model, evaluated; once for each seed.
        student: a run of `mswitch distill` from the teacher, evaluated; once for each seed.
            Students that differ in more than their seed are compared.
        out: the directory to make.
        long_baseline: a run of the dense model with the steps of teacher and student together,
            evaluated; once for each seed. It shows the gain from more steps without distillation.
    """
    from mswitch.flows.reports.distillation import write_distillation

    return write_distillation(baseline, teacher, student, out, config, long_baseline or ())


@stage(app, "report run", makes="reports", reads={"run": "runs"})
def run(run: str, /, *, out: Path, task: str | None = None, split: Split = "test") -> Summary:
    """Write the page run.html of one fine-tuned run, and its data as run.json.

    It has the curve on validation, and for each language the score with its interval and the worst
    predictions.

        mswitch report run tuned --out page

    Args:
        run: a run that has predicted a task (`mswitch predict`), or its gs:// or s3:// URL.
        out: the directory to make.
        task: the task's name, if the run predicted several.
        split: the predictions to show.
    """
    from mswitch.flows.reports.downstream import write_run_page

    return write_run_page(run, out, task=task, split=split)
