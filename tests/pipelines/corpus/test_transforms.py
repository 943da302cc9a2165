"""The rules of a recipe in a pipeline of one's own; what of a page is hashed."""

import apache_beam as beam
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from corpus_builds import SHOUTING, english

from mswitch.pipelines.corpus.apply_rules import apply
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.dedup.lines import LineDedup
from mswitch.pipelines.corpus.job import prepare_job
from mswitch.pipelines.corpus.shard_work import ingest_shard
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.records import Page


def test_rules_are_applied_in_a_pipeline_of_ones_own(recipe):
    source = CorpusConfig(recipe=recipe(SHOUTING)).source()
    assert source
    texts = [english(1), english(2).upper(), "short"]
    pages = [Page(f"http://{n}", text.encode(), "", 0, str(n), "") for n, text in enumerate(texts)]
    with test_pipeline.TestPipeline() as pipeline:
        kept = (
            pipeline
            | beam.Create([pages])
            | beam.FlatMap(lambda some: apply(some, source.load()))
            | "Key" >> beam.Map(lambda page: (page.url, "capitals" in page.columns))
        )
        assert_that(kept, equal_to([("http://0", True), ("http://2", True)]))


def test_only_pages_that_come_to_a_deduplication_get_its_keys(files, tmp_path, recipe, monkeypatch):
    """Hashing lines takes most of an ingest, and most pages are dropped before."""
    between = "[Paragraphs(1, 1), language, Shouting()], [UrlDedup(), "
    assert between in SHOUTING
    text = SHOUTING.replace(between, "[language], [UrlDedup(), Shouting(), ")
    config = CorpusConfig(recipe=recipe(text))
    source = config.source()
    hashed: list[str] = []
    keys = LineDedup.keys

    def observed(step, pages):
        hashed.extend(page.url for page in pages)
        return keys(step, pages)

    monkeypatch.setattr(LineDedup, "keys", observed)
    job = prepare_job(WorkDirectory(str(tmp_path / "w")), config, config.load(source), source)
    ingest_shard((0, find_crawl_files([str(files[1])])[0]), job)
    assert hashed == [f"http://en.example/{page}" for page in range(10, 16)]
