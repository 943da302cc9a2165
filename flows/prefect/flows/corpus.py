"""The flow that builds a corpus."""

from mswitch.flows.prefect.corpora import build_corpus, download_crawl
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
    build_corpus(inputs, place, options, operators, launcher, append=settings.append)
