"""The flow that builds a corpus."""

from mswitch.flows.prefect.corpora import (
    announce_corpus,
    check_build,
    download_crawl,
    make_build_job,
    show_statistics,
)
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_defaults import CorpusSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.stages.stage import list_options


@settings_flow("corpus", "corpus {name}")
def corpus(settings: CorpusSettings) -> None:
    """Build an mC4-style corpus from crawl files, and a page of its statistics."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    place = operators.directory("corpora", settings.name)
    options = [*list_options(settings.build), f"--runner={settings.runner}"]
    options += [f"--badwords={settings.badwords}"] if settings.badwords else []
    limit = settings.max_cost_usd
    options += [f"--max-cost-usd={limit}"] if limit is not None else []
    inputs = settings.inputs
    if not inputs:
        words = ("sample", settings.sample)
        crawl = download_crawl(words, settings.sample, options, operators, launcher)
        inputs = (f"{crawl}/wet/*.warc.wet.gz", f"{crawl}/warc/*.warc.gz")
    job = make_build_job(inputs, place, options, operators, append=settings.append)
    check_build(job, inputs, launcher)
    follow_job(f"build {place.name}", job, launcher)
    show_statistics(job)
    announce_corpus(settings.name)
