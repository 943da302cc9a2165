"""The flow that trains a dense and a sparse model and compares them."""

from prefect import State, flow
from prefect.states import Completed

from mswitch.flows.prefect.begin_with import going_on
from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.prefect.form_fields import flat
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import cancel_hook
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.preflight import check_trainings
from mswitch.flows.prefect.reports import index_reports, write_page
from mswitch.flows.prefect.run_names import named
from mswitch.flows.prefect.trainings import train_within_limit


@flow(
    name="pretrain-pair",
    flow_run_name=named("pretrain {name}: {candidate} against {baseline}, seed {seed}"),
    on_cancellation=[cancel_hook],
)
@flat
def pretrain_pair(settings: PairSettings) -> State:
    """Train a dense and a sparse model, evaluate both, and report how they compare."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    pair = operators.directory("pairs", settings.name)
    examples = operators.output("examples", settings.examples)
    planned = [
        Planned(
            operators.destination(pair / name), name, settings.config, settings.mixture, pair / name
        )
        for name in (settings.baseline, settings.candidate)
    ]
    if settings.begin_with:
        planned = [
            going_on(one, operators.run(f"pairs/{settings.begin_with}/{one.preset}"), examples)
            for one in planned
        ]
    check_trainings(settings, planned, examples, operators)
    baseline, candidate = (one.out for one in planned)
    out, sides = pair / "report", ([baseline], [candidate])
    at_a_time = operators.trainings_at_a_time(launcher)
    train_within_limit(settings, planned, examples, operators, {out: sides}, at_a_time)
    verdict = write_page(*sides, out, settings.report)
    index_reports(operators.storage)
    return Completed(message=verdict)
