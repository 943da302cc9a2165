"""The flow that evaluates a run."""

from prefect import flow

from mswitch.flows.prefect.form_defaults import EvaluateSettings
from mswitch.flows.prefect.form_fields import flat
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import cancel_hook
from mswitch.flows.prefect.planned import evaluation
from mswitch.flows.prefect.run_names import named
from mswitch.flows.prefect.trainings import evaluate


@flow(name="evaluate", flow_run_name=named("evaluate {run}"), on_cancellation=[cancel_hook])
@flat
def evaluate_run(settings: EvaluateSettings) -> None:
    """Evaluate the checkpoints of a run that have not been evaluated."""
    operators = read_operators()
    run, examples = operators.run(settings.run), operators.output("examples", settings.examples)
    place = operators.directory(*settings.run.split("/"))
    job = evaluation(run, examples, settings.config, watch=False, record=place)
    evaluate(job, operators.launcher(settings.launcher))
