"""The flow that builds a corpus."""

from prefect import flow

from flows.operators.corpora import build, check_build, corpus_is_ready, fetch, show_statistics
from flows.operators.parameters import flat, options_of
from flows.operators.profile import read_operators
from flows.operators.settings import CorpusSettings
from flows.operators.steps import cancel_hook


@flow(name="corpus", flow_run_name="corpus {name}", on_cancellation=[cancel_hook])
@flat
def corpus(settings: CorpusSettings) -> None:
    """Build an mC4-style corpus from crawl files, and a page of its statistics."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    out = operators.directory("corpora", settings.name)
    inputs = settings.inputs
    if not inputs:
        crawl = operators.directory("crawls", settings.sample)
        fetch(("sample", settings.sample), crawl, launcher)
        inputs = (f"{crawl}/wet/*.warc.wet.gz", f"{crawl}/warc/*.warc.gz")
    check_build(inputs, out, settings.runner, launcher)
    options = [*options_of(settings.config), f"--runner={settings.runner}"]
    options += [f"--badwords={settings.badwords}"] if settings.badwords else []
    build(inputs, out, options, launcher, append=settings.append)
    show_statistics(out)
    corpus_is_ready(out)
