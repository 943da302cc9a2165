"""The flow that compares two evaluated runs."""

from mswitch.flows.prefect.form_defaults import ReportSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import crash_hook
from mswitch.flows.prefect.show import index_reports, write_page


@settings_flow(
    "report", "report {name}: {candidate} against {baseline}", {"on_crashed": [crash_hook]}
)
def report(settings: ReportSettings) -> str:
    """Compare two evaluated runs language by language."""
    operators = read_operators()
    baseline, candidate = map(operators.run, (settings.baseline, settings.candidate))
    out = operators.directory("reports", settings.name, "report")
    verdict = write_page([baseline], [candidate], out, settings.config)
    index_reports(operators.storage)
    return verdict
