"""The flow that evaluates a run."""

from prefect import flow

from flows.operators.parameters import flat
from flows.operators.planned import evaluation
from flows.operators.profile import read_operators
from flows.operators.run_names import named
from flows.operators.settings import EvaluateSettings
from flows.operators.steps import cancel_hook
from flows.operators.trainings import evaluate


@flow(
    name="evaluate", flow_run_name=named("evaluate {run} of {pair}"), on_cancellation=[cancel_hook]
)
@flat
def evaluate_run(settings: EvaluateSettings) -> None:
    """Evaluate the checkpoints of a run that have not been evaluated."""
    operators = read_operators()
    names = ("pairs", settings.pair, settings.run)
    run, examples = operators.output(*names), operators.output("examples", settings.examples)
    place = operators.directory(*names)
    job = evaluation(run, examples, settings.config, watch=False, record=place)
    evaluate(job, operators.launcher(settings.launcher))
