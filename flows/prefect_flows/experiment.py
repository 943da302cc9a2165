"""The flow that compares several candidates and seeds with one baseline."""

import dataclasses

from prefect import flow

from flows.operators.parameters import flat, options_of
from flows.operators.preflight import check_trainings
from flows.operators.profile import Operators, read_operators
from flows.operators.reports import index_reports, write_page
from flows.operators.settings import ExperimentSettings
from flows.operators.steps import cancel_hook, jobs_followed
from flows.operators.trainings import Planned, Trainings
from pipelines.outputs import config_hash, read_manifest


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
