"""The flow that compares two evaluated runs."""

from prefect import flow

from flows.operators.parameters import flat
from flows.operators.profile import read_operators
from flows.operators.reports import write_page
from flows.operators.settings import ReportSettings


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
