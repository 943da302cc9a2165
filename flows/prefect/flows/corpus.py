"""The flow that builds a corpus."""

from prefect import flow

from mswitch.flows.prefect.corpora import (
    build_job,
    check_build,
    corpus_is_ready,
    crawl_of,
    show_statistics,
)
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_defaults import CorpusSettings
from mswitch.flows.prefect.form_fields import with_settings
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.owners import HOOKS
from mswitch.flows.prefect.run_names import named
from mswitch.flows.stages.stage import options_of


@flow(name="corpus", flow_run_name=named("corpus {name}"), **HOOKS)
@with_settings
def corpus(settings: CorpusSettings) -> None:
    """Build an mC4-style corpus from crawl files, and a page of its statistics."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    place = operators.directory("corpora", settings.name)
    options = [*options_of(settings.build), f"--runner={settings.runner}"]
    options += [f"--badwords={settings.badwords}"] if settings.badwords else []
    limit = settings.max_cost_usd
    options += [f"--max-cost-usd={limit}"] if limit is not None else []
    inputs = settings.inputs
    if not inputs:
        what = ("sample", settings.sample)
        crawl = crawl_of(what, settings.sample, options, operators, launcher)
        inputs = (f"{crawl}/wet/*.warc.wet.gz", f"{crawl}/warc/*.warc.gz")
    job = build_job(inputs, place, options, operators, append=settings.append)
    check_build(job, inputs, launcher)
    follow_job(f"build {place.name}", job, launcher)
    show_statistics(job)
    corpus_is_ready(settings.name)
