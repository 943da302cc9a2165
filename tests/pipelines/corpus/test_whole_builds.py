"""Properties of whole builds: nothing lost, nothing doubled, idempotent, independent of order."""

import collections
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.corpus.build import CorpusConfig, build_corpus
from pipelines.corpus.dedup.fingerprints import normalize_url
from pipelines.corpus.ledger import check_accounts
from pipelines.corpus.stats import load_stats

URLS = ["http://a.org/{}", "https://www.a.org/{}/", "http://a.org/{}?utm_x=1", "http://b.org/{}"]
Pages = list[tuple[str, str, str]]
#: Of each page: its URL's pattern and number, its date, and which lines it has.
PAGES = st.lists(
    st.tuples(
        st.sampled_from(URLS),
        st.integers(0, 5),
        st.lists(st.integers(0, 12), max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=16,
)


def build(files: Sequence[Pages], crawl: ModuleType, config: CorpusConfig) -> tuple[dict, dict]:
    """Return the documents by URL, and the statistics, of a build over WET files."""
    with tempfile.TemporaryDirectory() as root:
        paths = [
            crawl.write(
                Path(root) / "in" / f"{number}.warc.wet.gz",
                [crawl.record(text, url, date=date) for url, date, text in pages],
            )
            for number, pages in enumerate(files)
        ]
        out = Path(root) / "corpus"
        build_corpus([str(path) for path in paths], out, config)
        rows = [
            row for path in out.glob("data/*/*.parquet") for row in pq.read_table(path).to_pylist()
        ]
        stats = load_stats(out)
    found = {row["url"]: (row["id"], row["lang"], row["text"], row["timestamp"]) for row in rows}
    assert len(found) == len(rows)
    check_accounts(stats["stages"], len(rows))
    return found, stats


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(drawn=PAGES, draws=st.randoms(use_true_random=False))
def test_whole_builds(drawn, draws):
    # No two pages have the same date, and one page at least survives.
    pages = [("http://last.org", crawl.LATER, crawl.prose(crawl.GERMAN, 99))]
    for number, (pattern, path, lines, upper) in enumerate(drawn):
        text = "\n".join(crawl.prose(crawl.ENGLISH, line, 1) for line in lines)
        date = f"2024-03-01T12:00:{number:02}Z"
        pages.append((pattern.format(path), date, text.upper() if upper else text))
    found, stats = build([pages], crawl, LENIENT)

    # Nothing lost: every record is written or dropped for a reason, every URL's newest page with
    # text has either kept a line or lost all of them to others.
    assert stats["stages"][0]["in"] == len(pages)
    dropped = sum(sum(stage["dropped"].values()) for stage in stats["stages"])
    assert len(found) + dropped == len(pages)
    newest = {normalize_url(url): (url, text) for url, _, text in pages if text}
    assert set(found) <= {url for url, _ in newest.values()}
    lines = collections.Counter(
        line.lower() for _, _, text, _ in found.values() for line in text.split("\n")
    )
    assert set(lines) == {line.lower() for _, text in newest.values() for line in text.split("\n")}
    # Nothing doubled.
    assert set(lines.values()) == {1}
    assert len({identity for identity, *_ in found.values()}) == len(found)

    # Independent of the order of records, of how they are cut into files, and of buckets.
    files: list[Pages] = [[] for _ in range(draws.randrange(1, 4))]
    for page in draws.sample(pages, len(pages)):
        draws.choice(files).append(page)
    again, stats_again = build(files, crawl, dataclasses.replace(LENIENT, bucket_bytes=64))
    assert again == found
    assert stats_again["languages"] == stats["languages"]
    assert stats_again["lines"] == stats["lines"]

    # Idempotent: a corpus of a corpus is the same corpus.
    corpus = [(url, date, text) for url, (_, _, text, date) in found.items()]
    assert build([corpus], crawl, LENIENT)[0] == found
