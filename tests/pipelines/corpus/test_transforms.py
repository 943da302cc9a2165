"""The phases as transforms in a pipeline of one's own."""

from collections.abc import Callable

import crawl_files as crawl
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from corpus_builds import SHOUTING, build_with, english

from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.job import open_job
from mswitch.pipelines.corpus.pipeline import (
    ClusterNearDuplicates,
    DeduplicateUrls,
    FindFiles,
    FinishPages,
    IngestCrawl,
    OwnLines,
    ReadDocuments,
)
from mswitch.pipelines.corpus.recipes import (
    BadWords,
    IdentifyLanguage,
    IdentifyLanguageAndScript,
    LineDedup,
    NearDedup,
    Page,
    Paragraphs,
    Recipe,
    Rule,
    UrlDedup,
)
from mswitch.pipelines.corpus.shard_work import ingest_shard
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.errors import UserError


def _map(function: Callable) -> object:
    import apache_beam as beam

    return beam.Map(function)


class Capitals(Rule):
    name = "shouting"
    columns = {"capitals": "float32"}  # noqa: RUF012

    def reason(self, page: Page) -> str | None:
        page.columns["capitals"] = sum(map(str.isupper, page.text)) / len(page.text)
        return "shouting" if page.columns["capitals"] > 0.3 else None


def test_transforms_work_in_a_pipeline_of_ones_own(files, tmp_path, recipe):
    source = CorpusConfig(recipe=recipe(SHOUTING)).source()
    assert source
    expected = [
        (row["url"], row["capitals"]) for row in build_with(files, tmp_path / "c", recipe(SHOUTING))
    ]
    job = open_job(str(tmp_path / "work"), Recipe(
        "mine",
        [Paragraphs(1, 1), IdentifyLanguage(language_threshold=0.7), Capitals()],
        [UrlDedup(), LineDedup("language")],
        [BadWords()],
    ))  # fmt: skip
    with test_pipeline.TestPipeline() as pipeline:
        documents = (
            pipeline
            | FindFiles([str(path) for path in files])
            | IngestCrawl(job)
            | DeduplicateUrls(job)
            | OwnLines(job)
            | FinishPages(job)
            | ReadDocuments(job)
        )
        found = documents | "Key" >> _map(lambda row: (row["url"], row["capitals"]))
        assert_that(found, equal_to(expected))


def test_only_pages_that_come_to_a_deduplication_get_its_keys(files, tmp_path, monkeypatch):
    """Hashing lines takes most of an ingest, and most pages are dropped before."""
    rules = [UrlDedup(), Capitals(), LineDedup()]
    recipe = Recipe("mine", [IdentifyLanguage(language_threshold=0.7)], rules)
    hashed: list[str] = []
    keys = LineDedup.keys

    def observed(step, pages):
        hashed.extend(page.url for page in pages)
        return keys(step, pages)

    monkeypatch.setattr(LineDedup, "keys", observed)
    ingest_shard(0, find_crawl_files([str(files[1])])[0], open_job(str(tmp_path / "w"), recipe))
    assert hashed == [f"http://en.example/{page}" for page in range(10, 16)]


def test_near_duplicates_in_a_pipeline_of_ones_own(tmp_path):
    text = english(1, 40)
    pages = [(f"{text} Again.", "http://a.example/"), (text, "http://b.example/"),
             (english(2, 40), "http://c.example/")]  # fmt: skip
    for number, page in enumerate(pages):
        crawl.write(tmp_path / "in" / f"{number}.warc.wet.gz", [crawl.record(*page)])
    job = open_job(
        str(tmp_path / "work"),
        Recipe("modern", [IdentifyLanguageAndScript()], [UrlDedup(), NearDedup()]),
    )
    with test_pipeline.TestPipeline() as pipeline:
        documents = (
            pipeline
            | FindFiles([str(tmp_path / "in" / "*")])
            | IngestCrawl(job)
            | DeduplicateUrls(job)
            | ClusterNearDuplicates(job)
            | FinishPages(job)
            | ReadDocuments(job)
        )
        sizes = documents | "Key" >> _map(lambda row: (row["url"], row["cluster_size"]))
        assert_that(sizes, equal_to([("http://a.example/", 2), ("http://c.example/", 1)]))


def test_a_rule_that_cannot_be_pickled_is_named(tmp_path):
    rule = Capitals()
    rule.opened = (tmp_path / "file").open("w")
    with pytest.raises(UserError, match="recipe mine: shouting cannot be pickled"):
        open_job(str(tmp_path / "work"), Recipe("mine", [rule, IdentifyLanguage()]))
    with pytest.raises(UserError, match="recipe mine has no LineDedup"):
        OwnLines(open_job(str(tmp_path / "work"), Recipe("mine", [IdentifyLanguage()])))
