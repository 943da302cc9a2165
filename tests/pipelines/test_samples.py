import gzip
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.languages import mc4_codes
from mswitch.pipelines.outputs import file_sha256, read_manifest
from mswitch.pipelines.samples.crawl_writer import render_html_page
from mswitch.pipelines.samples.gflanguages import (
    MAX_PAGES,
    group_evenly,
    split_longest,
    split_paragraphs,
    write_sample,
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(out)
    return out


def records(sample: Path, form: str):
    """Records whose digests are right, with their contents; FastWARC leaves out any other."""
    for path in sorted((sample / form).iterdir()):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, parse_http=True, verify_digests=True):
                yield record, record.reader.read()


def test_every_language_of_mc4_has_pages(sample):
    pages = read_manifest(sample, "sample")["pages_by_source_language"]
    assert sorted(pages) == [code for code in mc4_codes() if "-" not in code]
    assert min(pages.values()) >= 2
    # Five that validate, and some to train on.
    assert sum(count > 6 for count in pages.values()) >= 90
    assert max(pages.values()) <= MAX_PAGES


def test_records_are_common_crawls(sample):
    manifest = read_manifest(sample, "sample")
    urls: Counter[str] = Counter()
    identities: Counter[str] = Counter()
    for form, kind in (("wet", "conversion"), ("warc", "response")):
        found = Counter()
        for record, body in records(sample, form):
            name = record.headers["WARC-Type"]
            found[name] += 1
            identities[record.record_id] += 1
            if name == kind:
                urls[record.headers["WARC-Target-URI"]] += 1
                assert re.fullmatch(r"2024-01-01T00:00:00Z", record.headers["WARC-Date"])
                assert body.decode().strip()
        assert found == {"warcinfo": 3, kind: manifest["records"][form]}
    assert set(urls.values()) == {1}
    assert set(identities.values()) == {1}
    assert len(urls) == sum(manifest["pages_by_source_language"].values())
    assert manifest["records"]["wet"] > 300
    assert manifest["records"]["warc"] > 300


def test_one_gzip_member_a_record_without_a_time(sample):
    path = next((sample / "wet").iterdir())
    with open(path, "rb") as file:
        offsets = [record.stream_pos for record in ArchiveIterator(file)]
    data = path.read_bytes()
    assert len(offsets) > 100
    for begin, end in zip(offsets, [*offsets[1:], len(data)], strict=True):
        assert data[begin : begin + 10] == gzip.compress(b"", 6, mtime=0)[:10]
        assert gzip.decompress(data[begin:end]).startswith(b"WARC/1.0\r\n")


def test_html_pages_are_whole_documents_with_boilerplate(sample):
    for record, body in records(sample, "warc"):
        if record.headers["WARC-Type"] == "response":
            assert record.http_content_type == "text/html"
            text = body.decode()
            assert text.startswith("<!DOCTYPE html>")
            for part in ("<title>", "<nav>", "<footer>", "<article>", "<p>", "</html>"):
                assert text.count(part) >= 1


def test_same_bytes_again_and_nothing_to_do_twice(sample, tmp_path):
    summary = write_sample(tmp_path / "again")
    assert not summary["reused"]
    assert write_sample(tmp_path / "again") == {**summary, "reused": True}
    for shard in read_manifest(sample, "sample")["files"]:
        assert file_sha256(tmp_path / "again" / shard["path"]) == shard["sha256"]
    names = ("manifest.json", "_COMPLETED")
    assert all((sample / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_text_in_html_is_escaped():
    page = render_html_page(
        "<b>", 'x"><script>', "ltr", ["<i>"], ["a < b & c", "<script>alert(1)</script>"]
    )
    assert "<b>" not in page
    assert "<i>" not in page
    assert "alert(1)</script>" not in page
    assert "a &lt; b &amp; c" in page


def test_paragraphs_are_distinct_and_not_contained():
    long = "All human beings are born free and equal in dignity."
    texts = [f"{long}\nShort", long[:30], f"  {long} ", "Another paragraph, long enough."]
    assert split_paragraphs(texts) == [long, "Another paragraph, long enough."]


def test_long_paragraphs_are_cut_at_sentence_ends():
    german = (
        "Alle Menschen sind frei und gleich geboren. Sie sind mit Vernunft und Gewissen begabt."
    )
    assert split_longest([german], 8) == [german[:43], german[44:]]
    chinese = "人人生而自由在尊严和权利上一律平等他们赋有理性。"
    chinese += "和良心并应以兄弟关系的精神相对待人人有资格。"
    assert split_longest([chinese], 8) == [chinese[:24], chinese[24:]]
    assert split_longest(["One. Two. Three."], 8) == ["One. Two. Three."]


def test_sentences_are_cut_at_clauses_only_where_there_are_too_few():
    clauses = ["Everyone has the right to rest,", "and to holidays with pay."]
    other = "Nobody has fewer rights."
    long = " ".join([*clauses, other])
    assert split_longest([long], 2) == [" ".join(clauses), other]
    assert split_longest([long], 3) == [*clauses, other]


@given(st.lists(st.text(min_size=1), min_size=1), st.integers(1, 20))
def test_groups_keep_order_and_lose_nothing(paragraphs, most):
    groups = group_evenly(paragraphs, most)
    assert list(itertools.chain.from_iterable(groups)) == paragraphs
    assert len(groups) == min(most, len(paragraphs))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
