"""Flows that pretrain models, evaluate and compare them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.operators.artifacts import key_of, show_markdown, show_page
from flows.operators.parameters import flat, options_of
from flows.operators.preflight import check_trainings
from flows.operators.profile import Operators, read_operators
from flows.operators.settings import (
    EvaluateSettings,
    ExperimentSettings,
    PairSettings,
    ReportSettings,
)
from flows.operators.steps import cancel_hook, jobs_followed, step
from flows.operators.trainings import Planned, Trainings, evaluate
from flows.report.build import ReportConfig, write_report
from flows.report.index import write_index
from pipelines.outputs import config_hash, read_manifest


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

    planned = [Planned(run, run.name, settings.config) for run in (baseline, candidate)]
    check_trainings(settings, planned, examples, launcher)
    live = {settings.name: (baseline, candidate)}
    with jobs_followed():
        trainings = Trainings(planned, settings, examples, launcher, live)
        trainings.train(operators.trainings)
        trainings.evaluate()
    write_page([baseline], [candidate], pair / "report", settings.report)
    index_reports(operators.storage)


@flow(name="experiment", flow_run_name="experiment {name}", on_cancellation=[cancel_hook])
@flat
def experiment(settings: ExperimentSettings) -> None:
    """Train candidates and their baseline with several seeds, and report on all of them.

    Runs are shared: one of another experiment with the same model, settings, seed and data is
    found, or waited for, and not trained again.
    """
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    examples = operators.directory("examples", settings.examples)
    planned = plan_runs(settings, operators)
    check_trainings(settings, planned, examples, launcher)
    baselines = [one.out for one in planned if one.preset == settings.baseline]
    candidates = [one.out for one in planned if one.preset != settings.baseline]
    live = {f"{settings.name}-{run.name}": (baselines[0], run) for run in candidates}
    with jobs_followed():
        trainings = Trainings(planned, settings, examples, launcher, live)
        trainings.train(operators.trainings)
        trainings.evaluate()
    out = operators.directory("experiments", settings.name) / "report"
    write_page(baselines, candidates, out, settings.report)
    index_reports(operators.storage)


def plan_runs(settings: ExperimentSettings, operators: Operators) -> list[Planned]:
    """The runs of an experiment, seed by seed; a name has the hash of what the run is."""
    examples = read_manifest(operators.directory("examples", settings.examples), "examples")
    planned = []
    for seed in settings.seeds:
        config = dataclasses.replace(settings.config, seed=seed)
        for name in (settings.baseline, *settings.candidates):
            identity = {
                "preset": name,
                "options": options_of(config),
                "mixture": settings.mixture,
                "examples": examples["config_hash"],
            }
            run = f"{name}-seed-{seed}-{config_hash('train', identity)[:8]}"
            planned.append(Planned(operators.directory("runs", run), name, config))
    return planned


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
        [pair / settings.baseline],
        [pair / settings.candidate],
        pair / settings.name,
        settings.config,
    )


@step("report {out.parent.name}")
def write_page(
    baselines: Sequence[Path], candidates: Sequence[Path], out: Path, config: ReportConfig
) -> None:
    """Write the report, and show its verdict."""
    summary = write_report(baselines, candidates, out, config)
    name = out.parent.name
    show_markdown(key_of("verdict", name, out.name), summary["verdict"])
    show_page(key_of("report", name, out.name), out / "report.html", f"Report of {name}")


@step("index of reports")
def index_reports(storage: Path) -> None:
    """Bring the page of all reports up to date, and show it."""
    write_index(storage)
    show_page("reports", storage / "index.html", "All reports")
