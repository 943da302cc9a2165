"""Flows that pretrain a pair of models, evaluate and compare them."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture, wait

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
    trained = Pair(settings, (baseline, candidate), examples, launcher)
    with jobs_followed():
        trained.train(operators.trainings)
        trained.evaluate()
    write_page(baseline, candidate, pair / "report", settings.report)


class Pair:
    """Trainings that run beside the flow's thread, with the evaluations of their checkpoints."""

    def __init__(
        self, settings: PairSettings, runs: Sequence[Path], examples: Path, launcher: Launcher
    ):
        self.settings, self.runs = settings, runs
        self.examples, self.launcher = examples, launcher
        self.trainings: dict[Path, PrefectFuture[Any]] = {}
        self.evaluations: dict[Path, PrefectFuture[Any]] = {}
        self._shown = 0.0

    def train(self, at_a_time: int) -> None:
        """Train both runs, the baseline first, and evaluate what they save, if asked for.

        Raises:
            UserError: a training was refused or failed.
        """
        try:
            while (next_run := self._next_run()) or self._going_on():
                if next_run and len(self._going_on()) < at_a_time:
                    self.trainings[next_run] = train.submit(
                        self.settings, next_run, self.examples, self.launcher
                    )
                if self.settings.evaluate_while_training:
                    self._evaluate_what_is_there()
                if time.monotonic() - self._shown > LIVE_SECS:
                    self._shown = time.monotonic()
                    show_live(*self.runs)
                wait(list(self.trainings.values()), timeout=LOOK_SECS)
            for training in self.trainings.values():
                training.result()
        except Exception:
            # They would wait for checkpoints that do not come.
            for run in self.evaluations:
                job = evaluation(run, self.examples, self.settings.evaluate, watch=True)
                ask(job, self.launcher, "cancel")
            raise

    def evaluate(self) -> None:
        """Evaluate what is not evaluated yet, to the end.

        Raises:
            UserError: an evaluation was refused or failed.
        """
        for run in self.runs:
            if run in self.evaluations:
                self.evaluations[run].result()
            else:
                evaluate(run, self.examples, self.settings.evaluate, self.launcher)
        show_live(*self.runs)

    def _going_on(self) -> list[PrefectFuture[Any]]:
        return [one for one in self.trainings.values() if not one.state.is_final()]

    def _next_run(self) -> Path | None:
        """The run to train next; none where one failed, since there is no pair without it."""
        if any(one.state.is_failed() for one in self.trainings.values()):
            return None
        return next((run for run in self.runs if run not in self.trainings), None)

    def _evaluate_what_is_there(self) -> None:
        for run in self.runs:
            if run not in self.evaluations and (run / CONFIG).exists():
                self.evaluations[run] = evaluate.submit(
                    run, self.examples, self.settings.evaluate, self.launcher, watch=True
                )


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
