"""Against tfds's own code of mC4 (tensorflow_datasets.text.c4_utils, 3.1.0 logic)."""

import random

import crawl_files as crawl

from mswitch.pipelines.corpus.rules.length_and_paragraphs import Paragraphs
from mswitch.pipelines.corpus.url_normalization import normalize_url
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.records import Page


def test_urls(c4_utils):
    draws = random.Random(1)
    parts = ["http://", "https://", "www.", "a.org", "/", "?", "utm_x=1", "ref", "feed", "&b", "//"]
    for _ in range(3000):
        url = "".join(draws.choices(parts, k=draws.randrange(9)))
        assert normalize_url(url) == c4_utils.normalize_url(url)


def test_paragraphs(c4_utils):
    draws = random.Random(2)
    for _ in range(2000):
        lines = ["x" * draws.choice([5, 199, 200, 201, 900]) for _ in range(draws.randrange(1, 7))]
        page = c4_utils.PageFeatures(text="\n".join(lines))
        mine = Page("", page.text.encode(), "", 0, "", "")
        assert (Paragraphs().reason(mine) is None) == c4_utils.paragraph_filter(page)


def test_pages_of_a_wet_file(c4_utils, tmp_path):
    bodies = ["  one\n\n two \rthree", "WARC-x\nContent-y\nCONTENT-z\nlast", "a\u2028b\x1cc\n\x85d"]
    records = [crawl.record(body, f"http://a.org/{i}") for i, body in enumerate(bodies)]
    path = crawl.write(tmp_path / "a.wet.gz", records)
    theirs = [page.text for page in c4_utils.split_wet_file(str(path), lambda *_: None)]
    assert [normalize_lines(body.encode()).decode() for body in bodies] == theirs
