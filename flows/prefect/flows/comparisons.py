"""The flows that compare models: a pair, an experiment, or two evaluated runs."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from mswitch.flows.jobs.job import resolve_output
from mswitch.flows.prefect.form_defaults import ExperimentSettings, PairSettings, ReportSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import Operators, read_operators
from mswitch.flows.prefect.owners import crash_hook
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.preflight import add_origin
from mswitch.flows.prefect.show import Sides, index_reports, write_page
from mswitch.flows.prefect.trainings import compare
from mswitch.flows.stages.stage import list_options
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import config_hash, read_manifest
from mswitch.tasks.batches.mixtures import FILE_SUFFIX, find_mixture


@settings_flow("pretrain-pair", "pretrain {name}: {candidate} against {baseline}")
def pretrain_pair(settings: PairSettings) -> str:
    """Train a dense and a sparse model, evaluate both, and report the comparison."""
    operators = read_operators()
    pair = operators.locate_directory("pairs", settings.name)
    planned = [
        Planned(
            operators.choose_destination(pair / name),
            name,
            settings.training,
            settings.mixture,
            pair / name,
        )
        for name in (settings.baseline, settings.candidate)
    ]
    if settings.begin_with:
        examples = operators.locate_output("examples", settings.examples)
        planned = [
            add_origin(
                run, operators.locate_run(f"pairs/{settings.begin_with}/{run.preset}"), examples
            )
            for run in planned
        ]
    baseline, candidate = (run.out for run in planned)
    out = pair / "report"
    verdicts = compare(settings, planned, {out: ([baseline], [candidate])}, operators)
    return verdicts[out]


@settings_flow("experiment", "experiment {name}")
def experiment(settings: ExperimentSettings) -> str:
    """Train candidates and their baseline with several seeds and mixtures, and report on them.

    Each mixture has a report, which compares every candidate with the baseline. Experiments share
    runs: a run with the same model, settings, seed, mixture and data is reused, or waited for, and
    not trained again.
    """
    operators = read_operators()
    places = plan_reports(settings, operators)
    planned = plan_runs(settings, operators)
    reports = {
        out: split_sides([run for run in planned if run.mixture == mixture], settings.baseline)
        for mixture, out in places.items()
    }
    verdicts = compare(settings, planned, reports, operators, settings.max_parallel)
    lines = [f"{out.name}: {verdict}" for out, verdict in verdicts.items()]
    return "\n".join(lines if len(lines) > 1 else verdicts.values())


@settings_flow(
    "report", "report {name}: {candidate} against {baseline}", {"on_crashed": [crash_hook]}
)
def report(settings: ReportSettings) -> str:
    """Compare two evaluated runs language by language."""
    operators = read_operators()
    baseline, candidate = map(operators.locate_run, (settings.baseline, settings.candidate))
    out = operators.locate_directory("reports", settings.name, "report")
    verdict = write_page(([baseline], [candidate]), out, settings.config)
    index_reports(operators.storage)
    return verdict


def plan_reports(settings: ExperimentSettings, operators: Operators) -> dict[str, Path]:
    """Return the place of each mixture's report."""
    directory = operators.locate_directory("experiments", settings.name)
    reports = {
        mixture: resolve_output(directory, Path(mixture).name.removesuffix(FILE_SUFFIX))
        for mixture in settings.mixtures
    }
    if len(set(reports.values())) < len(reports):
        raise UserError(f"two of the mixtures {', '.join(reports)} have one name: rename a file")
    return reports


def plan_runs(settings: ExperimentSettings, operators: Operators) -> list[Planned]:
    """List the runs of an experiment by seed; their names contain a hash of their settings."""
    examples = read_manifest(operators.locate_output("examples", settings.examples), "examples")
    presets = (settings.baseline, *settings.candidates)
    planned = []
    for seed, mixture, name in itertools.product(settings.seeds, settings.mixtures, presets):
        config = dataclasses.replace(settings.training, seed=seed)
        identity = {
            "preset": name,
            "options": list_options(config),
            "mixture": identifying_settings(find_mixture(mixture)),
            "examples": examples["config_hash"],
        }
        run = f"{name}-seed-{seed}-{config_hash('train', identity)[:8]}"
        place = operators.locate_directory("runs", run)
        planned.append(Planned(operators.choose_destination(place), name, config, mixture, place))
    return planned


def split_sides(planned: Sequence[Planned], baseline: str) -> Sides:
    """Split the runs of a report into the baseline's and the candidates'."""
    return (
        [run.out for run in planned if run.preset == baseline],
        [run.out for run in planned if run.preset != baseline],
    )
