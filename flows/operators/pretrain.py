"""Flows that pretrain a pair of models, evaluate and compare them."""

import contextlib
import time
from pathlib import Path

from prefect import flow
from prefect.futures import wait

from flows.launch.job import Job, Launcher
from flows.launch.run import ask
from flows.operators.artifacts import TrainingProgress, key_of, show_markdown, show_page
from flows.operators.parameters import flat, options_of
from flows.operators.profile import read_operators
from flows.operators.settings import EvaluateSettings, PairSettings, ReportSettings
from flows.operators.steps import SERVER_ERRORS, cancel_hook, follow, jobs_followed, step
from flows.report.build import ReportConfig, write_report
from flows.report.live import live_markdown
from models.config import EvaluateConfig
from models.groups import batch_groups
from models.presets import preset
from models.training.run_directory import CONFIG
from pipelines.errors import UserError
from pipelines.outputs import read_manifest
from pipelines.progress import say
from tasks.mixtures import find_mixture

#: How often a pair's live page is made again.
LIVE_SECS = 60.0
#: How often a pair is looked at for what to start next.
LOOK_SECS = 5.0


@flow(
    name="pretrain-pair",
    flow_run_name="pretrain {name}: {candidate} against {baseline}, seed {seed}",
    on_cancellation=[cancel_hook],
)
@flat
def pretrain_pair(settings: PairSettings) -> None:
    """Train a dense and a sparse model, evaluate both, and report how they compare."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    pair = operators.directory("pairs", settings.name)
    examples = operators.directory("examples", settings.examples)
    baseline, candidate = pair / settings.baseline, pair / settings.candidate

    preflight(settings, examples)
    with jobs_followed():
        train_both(settings, (baseline, candidate), examples, launcher, operators.trainings)
    write_page(baseline, candidate, pair / "report", settings.report)


def train_both(
    settings: PairSettings,
    runs: tuple[Path, Path],
    examples: Path,
    launcher: Launcher,
    at_a_time: int,
) -> None:
    """Train and evaluate both runs, with a live page meanwhile."""
    waiting, trainings, evaluations = list(runs), [], {}
    shown = 0.0
    try:
        while True:
            going_on = wait(trainings, timeout=LOOK_SECS).not_done
            if any(training.state.is_failed() for training in trainings):
                waiting = []
            while waiting and len(going_on) < at_a_time:
                trainings.append(train.submit(settings, waiting.pop(0), examples, launcher))
                going_on.add(trainings[-1])
            if not going_on:
                break
            for run in runs if settings.evaluate_while_training else ():
                if run not in evaluations and (run / CONFIG).exists():
                    evaluations[run] = evaluate.submit(
                        run, examples, settings.evaluate, launcher, watch=True
                    )
            if time.monotonic() - shown > LIVE_SECS:
                shown = time.monotonic()
                show_live(*runs)
        for training in trainings:
            training.result()
    except Exception:
        # It would wait for checkpoints that do not come.
        for run in evaluations:
            ask(evaluation(run, examples, settings.evaluate, watch=True), launcher, "cancel")
        raise
    for run in runs:
        if run in evaluations:
            evaluations[run].result()
        else:
            evaluate(run, examples, settings.evaluate, launcher)
    show_live(*runs)


@flow(name="evaluate", flow_run_name="evaluate {run} of {pair}", on_cancellation=[cancel_hook])
@flat
def evaluate_run(settings: EvaluateSettings) -> None:
    """Evaluate the checkpoints of a run that have not been evaluated."""
    operators = read_operators()
    run = operators.directory("pairs", settings.pair) / settings.run
    examples = operators.directory("examples", settings.examples)
    evaluate(run, examples, settings.config, operators.launcher(settings.launcher))


@flow(name="report", flow_run_name="report {name} of {pair}")
@flat
def report(settings: ReportSettings) -> None:
    """Compare two evaluated runs language by language."""
    pair = read_operators().directory("pairs", settings.pair)
    write_page(
        pair / settings.baseline, pair / settings.candidate, pair / settings.name, settings.config
    )


@step("preflight")
def preflight(settings: PairSettings, examples: Path) -> None:
    """Check what no single field shows: models, mesh, mixture, examples. Nothing is built before.

    Raises:
        UserError: they do not go together.
    """
    from models.partitioning import check_divisible

    manifest = read_manifest(examples, "examples")
    find_mixture(settings.mixture)
    if settings.baseline == settings.candidate:
        raise UserError(f"baseline and candidate are both {settings.baseline}: choose two presets")
    config = settings.config
    for name in (settings.baseline, settings.candidate):
        model = preset(name).model
        lengths = [config.pack * manifest[key] for key in ("inputs_length", "targets_length")]
        check_divisible(model, config, batch_groups(model, config.rows, *lengths))
    say("preflight", f"{settings.candidate} against {settings.baseline}: {config.steps:,} steps")


@step("train {run.name}")
def train(settings: PairSettings, run: Path, examples: Path, launcher: Launcher) -> None:
    """Pretrain one model, as a job."""
    options = [*options_of(settings.config), f"--mixture={settings.mixture}"]
    options += ["--distributed"] if settings.hosts > 1 else []
    argv = ("train", f"--preset={run.name}", f"--examples={examples}", f"--out={run}", *options)
    progress = TrainingProgress(run, settings.config.steps)
    follow(Job(argv, run, hosts=settings.hosts), launcher, progress.update)
    with contextlib.suppress(*SERVER_ERRORS):
        progress.update()


@step("evaluate {run.name}")
def evaluate(
    run: Path, examples: Path, config: EvaluateConfig, launcher: Launcher, watch: bool = False
) -> None:
    """Evaluate one model's checkpoints, as a job."""
    follow(evaluation(run, examples, config, watch=watch), launcher)


def evaluation(run: Path, examples: Path, config: EvaluateConfig, *, watch: bool) -> Job:
    """The job that evaluates a run; it watches the run until its training ends."""
    argv = ("evaluate", f"--run={run}", f"--examples={examples}", *options_of(config))
    argv += ("--watch",) if watch else ()
    return Job(argv, run / "eval", marked=False)


@step("report {out.name}")
def write_page(baseline: Path, candidate: Path, out: Path, config: ReportConfig) -> None:
    """Write the report, and show its verdict."""
    summary = write_report(baseline, candidate, out, config)
    name = out.parent.name
    show_markdown(key_of("verdict", name, out.name), summary["verdict"])
    show_page(key_of("report", name, out.name), out / "report.html", f"Report of {name}")


def show_live(baseline: Path, candidate: Path) -> None:
    """Show losses and languages of two runs that train."""
    try:
        show_markdown(key_of("live", baseline.parent.name), live_markdown(baseline, candidate))
    except UserError as error:  # the trainings themselves say what is wrong
        say("live", str(error))
