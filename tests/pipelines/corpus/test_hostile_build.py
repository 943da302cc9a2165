"""What a page says of itself never decides where anything is written."""

import json

import crawl_files as crawl
import pyarrow.parquet as pq
from corpus_builds import LENIENT

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.languages import UNDETERMINED, languages

URLS = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://a.org/<script>alert(1)</script>",
    "http://a.org/\x1b[2J\u202e",
    "http://a.org/" + "x" * 10_000,
    "data/de/train-00000-of-00001.parquet",
    "C:\\windows\\system32",
    "%00%2e%2e%2f",
]
LABELS = ["../../x", "/tmp/x", "<b>", "de\0", "xx", "", None, 7, ["de"], "de-../.."]


def test_urls_and_languages_of_the_data_are_no_paths(tmp_path):
    sentences = iter(range(1000))
    records = [crawl.record(crawl.prose(crawl.GERMAN, next(sentences)), url) for url in URLS]
    extra = b"WARC-Identified-Content-Language: ../../x,<script>\r\n"
    records.append(crawl.record(crawl.prose(crawl.GERMAN, 99), "http://z.org", extra=extra))
    crawl.write(tmp_path / "in" / "a.warc.wet.gz", records)
    rows = [
        {
            "url": f"http://b.org/{number}",
            "text": crawl.prose(crawl.ENGLISH, next(sentences)),
            "timestamp": "2024-01-01T00:00:00Z",
            "id": "../../x",
            "lang": label,
            "language": label,
            "metadata": {"language": label},
        }
        for number, label in enumerate(LABELS)
    ]
    (tmp_path / "in" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out" / "corpus"
    summary = build_corpus([str(tmp_path / "in" / "*")], out, LENIENT)
    assert load_stats(out)["stages"][0]["dropped"] == {}
    assert summary["documents"] == len(URLS) + 1 + len(LABELS)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert {path.name for path in out.parent.iterdir()} == {"corpus", ".corpus.lock"}
    assert {path.name for path in (out / "data").iterdir()} <= {*languages(), UNDETERMINED}
    shards = list((out / "data").glob("*/*"))
    found = {row["url"] for path in shards for row in pq.read_table(path).to_pylist()}
    assert found >= set(URLS)
    for path in out.glob("*.*"):
        assert "<script>" not in path.read_text()


def test_what_cannot_be_utf8_is_dropped_and_written_down(tmp_path):
    """A name of a field is part of a message, and messages are published as samples."""
    good = {"url": "http://a.org/", "text": crawl.prose(crawl.GERMAN, 1)}
    lines = [json.dumps(good), '{"\\ud800": 1}', '{"url": "http://b.org/\\ud800", "text": ""}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(min_lines=1, min_long_line_characters=1, language_threshold=0.7)
    assert build_corpus([str(tmp_path / "a.jsonl")], tmp_path / "out", config)["dropped"] == 2
    samples = "".join(path.read_text() for path in (tmp_path / "out").glob("rejected/*.jsonl"))
    assert samples.count("\n") == 2
