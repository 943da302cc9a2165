"""`mswitch report`: compare two runs, before and after fine-tuning; list the reports of a place."""

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
    """Write report.html (one self-contained file), report.json and per_language.csv.

    It says, language by language and with intervals, how many fewer steps the candidate needed to
    reach the baseline's final quality. Both runs must be evaluated on the same examples.

        mswitch report --baseline dense --candidate sparse --out report

    Give --baseline and --candidate once for each seed that a model was trained with: curves are
    then averaged over seeds, and intervals include what other seeds would change. Runs that differ
    in other settings are several candidates. Each is compared with the baseline on its own page.

    Args:
        baseline: the run directory of the dense model or its URL, once for each seed.
        candidate: the run directory of the sparse model, once for each seed and model.
        out: the directory to make.
        unfinished: report on runs that still train, up to the last step at which both are evaluated
            (`mswitch evaluate --watch`). The same command replaces that report by a later one.
        downstream: a directory that `mswitch report downstream` made of runs fine-tuned from the
            runs of this report, once for each task; the report gets a section of each.
    """
    return write_report(
        baseline, candidate, out, config, unfinished=unfinished, downstream=downstream or ()
    )


@app.command
def index(directory: str, /, *, json: Json = False) -> int:
    """Write DIR/index.html over all reports below a directory or bucket, and DIR/index.json.

    The page has the date, the pair, the data, the median step speed-up with its interval and a
    link of each report, and the scores of each comparison of fine-tuned runs. A finished report
    gets into it when the command is given again.

        mswitch report index runs

    Args:
        directory: directory of the reports, at any depth; a gs:// or s3:// URL too.
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

    It says, language by language and with intervals, how the predictions of both score
    (`mswitch predict --split test`). The commonest answer and runs that were trained on the task
    alone stand beside. Both runs must be fine-tuned alike.

        mswitch report downstream --baseline dense-tuned --candidate sparse-tuned --out downstream

    Give --baseline and --candidate once for each seed of fine-tuning: differences then have the
    variance between seeds in their intervals.

    Give them once for each of several checkpoints of pretraining (`mswitch finetune --step`), to
    see how many fewer steps of pretraining the candidate needs for the same score. `mswitch report
    --downstream DIR` takes the result into the report of the pair.

    Args:
        baseline: the fine-tuned run of the dense model, once for each seed, or for each checkpoint
            that it began with.
        candidate: the fine-tuned run of the sparse model, once for each seed, or for each
            checkpoint that it began with.
        out: the directory to make.
        scratch: runs that `mswitch train` made on the task, from random parameters.
        task: the task's name, where the runs predicted several.
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
    """Say which share of a sparse model's gain its students keep: distillation.html and .json.

    The gain is what the teacher is better than its dense twin by, at the last step and on the same
    documents. Shares are by language and over all, with intervals, and the parameters saved stand
    beside. Where the gain itself may be zero, no share is shown.

        mswitch report distillation --baseline dense --teacher sparse --student student --out report

    Args:
        baseline: the run of the dense model, evaluated; once for each seed.
        teacher: the run of the sparse model, evaluated; once for each seed.
        student: what `mswitch distill` made of the teacher, evaluated; once for each seed. Students
            that differ in more than their seed are compared.
        out: the directory to make.
        long_baseline: a run of the dense model for as many steps as teacher and student together,
            evaluated; once for each seed. What those steps alone gain stands beside the students.
    """
    from mswitch.flows.reports.distillation import write_distillation

    return write_distillation(baseline, teacher, student, out, config, long_baseline or ())


@stage(app, "report run", makes="reports", reads={"run": "runs"})
def run(run: str, /, *, out: Path, task: str | None = None, split: Split = "test") -> Summary:
    """Write a page of one fine-tuned run, run.html, and run.json.

    It has the curve on validation, the score of each language with its interval, and the worst
    predictions of each.

        mswitch report run tuned --out page

    Args:
        run: a run that has predicted a task (`mswitch predict`), or its gs:// or s3:// URL.
        out: the directory to make.
        task: the task's name, where the run predicted several.
        split: the predictions to show.
    """
    from mswitch.flows.reports.downstream import write_run_page

    return write_run_page(run, out, task=task, split=split)
