"""The flow that trains a dense and a sparse model and compares them."""

from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.preflight import add_origin
from mswitch.flows.prefect.trainings import compare


@settings_flow("pretrain-pair", "pretrain {name}: {candidate} against {baseline}")
def pretrain_pair(settings: PairSettings) -> str:
    """Train a dense and a sparse model, evaluate both, and report the comparison."""
    operators = read_operators()
    pair = operators.directory("pairs", settings.name)
    planned = [
        Planned(
            operators.destination(pair / name),
            name,
            settings.training,
            settings.mixture,
            pair / name,
        )
        for name in (settings.baseline, settings.candidate)
    ]
    if settings.begin_with:
        examples = operators.output("examples", settings.examples)
        planned = [
            add_origin(run, operators.run(f"pairs/{settings.begin_with}/{run.preset}"), examples)
            for run in planned
        ]
    baseline, candidate = (run.out for run in planned)
    out = pair / "report"
    verdicts = compare(settings, planned, {out: ([baseline], [candidate])}, operators)
    return verdicts[out]
