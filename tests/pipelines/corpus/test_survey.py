"""What a survey finds in the shards: sites, scripts, scores."""

import collections
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpus_builds import documents
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus import survey as survey_module
from mswitch.pipelines.corpus.survey import (
    NO_SITE,
    HeavyHitters,
    count_sites,
    read_rejected_samples,
    survey,
)
from mswitch.pipelines.errors import UserError


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("http://www.A.example/x?y#z", "a.example"),
        ("https://de.example", "de.example"),
        ("https://good.example@evil.example:80/", "evil.example"),
        ("https://a@b@evil.example/@good.example", "evil.example"),
        ("http:\\\\evil.example\\@good.example", "evil.example"),
        ("http://пример.рф./", "пример.рф"),
        ("http://[::1]:8080/", "[::1]"),
        ("http://10.0.0.1:80", "10.0.0.1"),
        ("javascript:alert(1)", NO_SITE),
        ("/etc/passwd", NO_SITE),
        ("http:///x/y", "x"),  # as browsers have it
        ("http://<script>/", NO_SITE),
        ("http://a b/", NO_SITE),
        ("http://\u202egro.elpmaxe/", NO_SITE),
        ("http://a\x00.example/", NO_SITE),
        ("http://..//", NO_SITE),
        ("http://" + "a." * 200 + "b/", NO_SITE),
        ("", NO_SITE),
        (None, NO_SITE),
    ],
)
def test_site(url, site):
    assert count_sites(pa.array([url], pa.string())) == {site: 1}


@given(st.lists(st.text()))
def test_any_url_counts_once(urls):
    counted = count_sites(pa.array(urls, pa.string()))
    assert sum(counted.values()) == len(urls)
    for site in set(counted) - {NO_SITE}:
        assert site.isprintable()
        assert not set(site) & set("<>&\"'/\\ ")


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 50)), max_size=12),
    st.integers(1, 12),
    st.integers(0, 12),
)
def test_heavy_hitters_are_within_their_error(parts, capacity, cut):
    first, second = HeavyHitters(capacity), HeavyHitters(capacity)
    truth: collections.Counter[str] = collections.Counter()
    for number, part in enumerate(parts):
        truth.update(part)
        (first if number < cut else second).add(part)
    first.merge(second)
    assert len(first) <= capacity
    counted = dict(first.top(capacity))
    for name, count in truth.items():
        assert count - first.error <= counted.get(name, 0) <= count
    if len(truth) <= capacity:
        assert first.error == 0
    # Merging loses no more than counting in one go would be allowed to.
    assert first.error <= truth.total() // (capacity + 1)
    counts = [count for _, count in first.top(capacity)]
    assert counts == sorted(counts, reverse=True)


@pytest.fixture
def corpus(hostile_corpus: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(hostile_corpus, tmp_path / "corpus"))


def test_a_survey_counts_every_document(hostile_corpus, capsys):
    found = survey(hostile_corpus)
    assert sorted(found["languages"]) == ["de", "en", "und"]
    for lang, seen in found["languages"].items():
        rows = [row for row in documents(hostile_corpus).values() if row["lang"] == lang]
        assert seen["documents"] == seen["sampled_documents"] == len(rows)
        scores = [row["lang_score"] for row in rows]
        assert seen["scores"] == np.histogram(scores, 100, (0, 1))[0].tolist()
        assert sum(count for _, count in seen["sites"]) == len(rows)
    german, english = found["languages"]["de"], found["languages"]["en"]
    assert german["sites"] == [("de.example", 12), ("copy.example", 1)]
    assert german["scripts"].keys() == {"Latn"}
    rows = [row for row in documents(hostile_corpus).values() if row["lang"] == "de"]
    assert german["scripts"]["Latn"] == sum(c.isalpha() for row in rows for c in row["text"])
    assert dict(english["sites"]) == {"en.example": 12, "html.example": 6}
    assert english["distinct_sites"] == 2
    assert found["sites_error"] == 0
    total = sum(seen["documents"] for seen in found["languages"].values())
    assert sum(count for _, count in found["sites"]) == total
    assert f"survey: {total}/{total} documents" in capsys.readouterr().err


def test_scripts_come_from_a_bounded_sample(hostile_corpus, monkeypatch):
    monkeypatch.setattr(survey_module, "SCRIPT_SAMPLE_BYTES", 1)
    monkeypatch.setattr(survey_module, "SITE_CAPACITY", 1)
    found = survey(hostile_corpus)
    for seen in found["languages"].values():
        assert seen["sampled_documents"] == 1
    # With room for one site, the smaller of two is what may be missing.
    english = found["languages"]["en"]
    assert english["sites"] == [("en.example", 6)]
    assert english["sites_error"] == 6


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_missing_or_damaged_shard_is_one_line(corpus, damage):
    path = next(corpus.glob("data/de/train-*"))
    damage(path)
    with pytest.raises(UserError, match=f"{path.name} .*build the corpus again"):
        survey(corpus)


def test_samples_are_read_by_reason(corpus):
    samples = read_rejected_samples(
        corpus, ["damaged", "not_a_page", "../../secret", "too_long"], 1
    )
    assert {reason: len(rows) for reason, rows in samples.items()} == {"damaged": 1, "too_long": 1}
    assert samples["too_long"][0]["url"] == "http://bad.example/long"
