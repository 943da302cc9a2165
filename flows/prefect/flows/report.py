"""The flow that compares two evaluated runs."""

from prefect import State, flow
from prefect.states import Completed

from mswitch.flows.prefect.form_defaults import ReportSettings
from mswitch.flows.prefect.form_fields import with_settings
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import crash_hook
from mswitch.flows.prefect.run_names import make_namer
from mswitch.flows.prefect.show import index_reports, write_page


@flow(
    name="report",
    flow_run_name=make_namer("report {name}: {candidate} against {baseline}"),
    on_crashed=[crash_hook],
)
@with_settings
def report(settings: ReportSettings) -> State:
    """Compare two evaluated runs language by language."""
    operators = read_operators()
    baseline, candidate = map(operators.run, (settings.baseline, settings.candidate))
    out = operators.directory("reports", settings.name, "report")
    verdict = write_page([baseline], [candidate], out, settings.config)
    index_reports(operators.storage)
    return Completed(message=verdict)
