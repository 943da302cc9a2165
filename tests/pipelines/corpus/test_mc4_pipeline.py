"""A whole build beside tfds's own functions of mC4, on FnApiRunner, over the same WET files."""

import functools
import hashlib
import random
from pathlib import Path
from types import ModuleType

import apache_beam as beam
import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.recipes import MC4, BadWords, Paragraphs
from mswitch.pipelines.corpus.rules.badwords import load_badwords
from mswitch.pipelines.languages import mc4_codes
from mswitch.pipelines.samples.gflanguages import write_sample

#: url, lang, text, whether it is validation.
Documents = set[tuple[str, str, str, bool]]
WORDS = {"de": "greta ging\n(a+)+\n", "en": "hugo walked\nines sat\n", "ja": "人\n", "zh": "自由\n"}


@pytest.fixture(scope="module")
def badwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("words")
    for lang, words in WORDS.items():
        (directory / lang).write_text(words)
    return directory


@pytest.fixture(scope="module")
def gflanguages_wet(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("sample") / "crawl"
    write_sample(out)
    return sorted(out.glob("wet/*"))


@pytest.fixture(scope="module")
def odd_wet(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pages that meet every rule from both sides; no two of one URL have the same date."""
    draws = random.Random(5)
    records = [crawl.warcinfo()]
    for number in range(300):
        sentences = draws.choice([crawl.GERMAN, crawl.ENGLISH])
        lines = crawl.prose(sentences, draws.randrange(60), draws.randrange(1, 6)).split("\n")
        extra = [
            "WARC-x",
            "CONTENT-y",
            "Content-Type: z",
            "  ",
            "a\u2028b\x85c\x1cd\x0ce",
            "K: \rv",
        ]
        for _ in range(draws.randrange(3)):
            lines.insert(draws.randrange(len(lines) + 1), draws.choice(extra))
        lines = [draws.choice([line, line, line.upper(), f" {line}\t"]) for line in lines]
        host = draws.choice(["http://a.org/", "https://www.a.org/", "http://b/http://www.a.org/"])
        query = draws.choice(["", "/", "?utm_source=1", "?x=1&utm_y=2", "?refer=3", "?feed"])
        date = f"2024-01-01T{number // 60:02}:{number % 60:02}:00Z"
        url = f"{host}{draws.randrange(60)}{query}"
        records.append(crawl.record("\n".join(lines), url, date=date))
    long = crawl.prose(crawl.GERMAN, 70, 3000)
    records += [
        crawl.record("text without address", None),
        crawl.record("text without date", "http://undated.org", date=None),
        crawl.record("\n \n", "http://empty.org"),
        crawl.record("x" * 190_000, "http://just.org"),
        crawl.record("x" * 190_001, "http://over.org"),
        crawl.record(long[:190_000].strip(), "http://long.org"),
        crawl.record("ü" * 189_990 + "\n" + "\U0001f600" * 9, "http://wide.org"),
    ]
    directory = tmp_path_factory.mktemp("odd")
    return [crawl.write(directory / f"{i}.warc.wet.gz", records[i::3]) for i in range(3)]


def build(paths: list[Path], out: Path, config: CorpusConfig, badwords: Path) -> Documents:
    build_corpus([str(path) for path in paths], out, config, badwords=badwords)
    return {
        (row["url"], row["lang"], row["text"], path.name.startswith("validation"))
        for path in out.glob("data/*/*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


def run_tfds(
    c4_utils: ModuleType,
    paths: list[Path],
    config: CorpusConfig,
    badwords: Path,
    expected: Documents,
) -> None:
    """Apply mC4's functions in the order of tfds's builder; compare inside the pipeline."""
    lists = {
        lang: [word for word in words if (lang, word) != ("zh", "性")]
        for lang, words in load_badwords(badwords)
    }
    rule = config.load().find_first(Paragraphs)
    paragraphs = functools.partial(
        c4_utils.paragraph_filter,
        min_paragraphs=rule.min_lines,
        min_paragraph_len=rule.min_long_line_characters,
    )
    fraction = config.load().find_first(BadWords).badwords_filter_fraction

    def document(page):
        number = int(hashlib.md5(page.normalized_url.encode()).hexdigest(), 16)
        return page.url, page.language, page.text, number % 1000 < config.validation_per_mille

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pages = (
            pipeline
            | beam.Create([str(path) for path in paths])
            | beam.FlatMap(c4_utils.split_wet_file)
            | beam.Filter(c4_utils.is_valid_length)
            | beam.Map(lambda page: (page.normalized_url, page))
            | beam.CombinePerKey(c4_utils.select_newest_page)
            | beam.Values()
            | beam.Filter(paragraphs)
        )
        pages = c4_utils.remove_duplicate_text(pages, min_num_sentences=0)
        pages = c4_utils.detect_languages(pages, valid_languages=mc4_codes())
        pages |= "BadWords" >> beam.Filter(c4_utils.get_badwords_filter_fn(lists, fraction))
        assert_that(pages | "Document" >> beam.Map(document), equal_to(sorted(expected)))


@pytest.mark.parametrize("fraction", [0.5, None])
def test_odd_pages(tmp_path, odd_wet, c4_utils, badwords, fraction):
    config = CorpusConfig(
        min_lines=2,
        min_long_line_characters=70,
        validation_per_mille=100,
        badwords_filter_fraction=fraction,
    )
    mine = build(odd_wet, tmp_path / "corpus", config, badwords)
    assert {lang for _, lang, _, _ in mine} >= {"de", "en"}
    assert {validation for *_, validation in mine} == {True, False}
    run_tfds(c4_utils, odd_wet, config, badwords, mine)


def test_real_text_in_a_hundred_languages(tmp_path, gflanguages_wet, c4_utils, badwords):
    config = CorpusConfig(min_lines=1, min_long_line_characters=1)
    mine = build(gflanguages_wet, tmp_path / "corpus", config, badwords)
    assert len({lang for _, lang, _, _ in mine}) > 60
    assert config.load().finish == MC4.finish
    run_tfds(c4_utils, gflanguages_wet, config, badwords, mine)


def test_the_thresholds_of_mc4(tmp_path, odd_wet, c4_utils, badwords):
    """With nothing relaxed: lines are joined until some pages pass and some do not."""
    draws = random.Random(6)
    records = []
    for number in range(60):
        lines = crawl.prose(crawl.ENGLISH, number, 12).split("\n")
        size = draws.randrange(1, 4)
        joined = [" ".join(lines[i : i + size]) for i in range(0, 12, size)]
        records.append(crawl.record("\n".join(joined), f"http://c.org/{number}"))
    path = crawl.write(tmp_path / "c.warc.wet.gz", records)
    config = CorpusConfig()
    mine = build([*odd_wet, path], tmp_path / "corpus", config, badwords)
    assert 5 < len(mine) < 60
    run_tfds(c4_utils, [*odd_wet, path], config, badwords, mine)
