"""Words of scripts without spaces, and rules that count them."""

import collections
import functools
import json
import random
from collections.abc import Sequence
from typing import Any

import gflanguages
import numpy as np
import pytest
from corpus_builds import build, documents, modern_settings
from corpus_files import read_json
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.fit import (
    fit_limits,
    fit_stop_words,
    write_stop_words,
    write_thresholds,
)
from mswitch.pipelines.corpus.rules import segmenter
from mswitch.pipelines.corpus.rules.quality import LANG_SCORE, GopherQuality, measure_quality
from mswitch.pipelines.corpus.rules.segmenter import LANGUAGES, find_locale
from mswitch.pipelines.corpus.rules.words import cut
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import Page
from mswitch.pipelines.samples.gflanguages import split_paragraphs

IDS = {"en": "en_Latn", "th": "th_Thai", "ja": "ja_Jpan", "km": "km_Khmr", "zh": "zh_Hans"}


def words(text: str, locale: str) -> list[str]:
    units = cut([text], [locale])
    return [text[start:stop] for start, stop in zip(units.starts, units.ends, strict=True)]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("th", "การ หมิ่น ใน คุณค่า ของ"),
        ("ja", "構成 員 の 固有"),
        ("zh", "鉴于 对 人类 家庭 所有 成员 的"),
        ("km", "យល់ឃើញ ថា ការ ទទួលស្គាល់"),
        ("lo", "ດ້ວຍ ເຫດ ວ່າ"),
        ("my", "လူ ခပ်သိမ်း မျိုးရိုး"),
    ],
)
def test_words_are_those_of_dictionaries(locale, text):
    assert words(text.replace(" ", ""), locale) == text.split()


def test_characters_beyond_16_bits_move_nothing():
    assert words("😀การหมิ่น😀 𠀀ใน 2x", "th") == ["การ", "หมิ่น", "𠀀", "ใน", "2x"]


def test_zero_width_spaces_are_no_words():
    """They mark words in Khmer, Lao and Burmese; they are no words without letters either."""
    assert words("ថា\u200bការ\u200b\u200b ទទួល", "km") == ["ថា", "ការ", "ទទួល"]
    marked = ["\u200b".join("យល់ឃើញថាការ" * 3) + " cell query shift rows red key group title"] * 9
    lists = fit_stop_words([("en", ["the and of"] * 9), ("km", marked)])
    assert "km" not in lists


def test_only_these_languages_are_segmented():
    assert [find_locale(lang) for lang in ("th", "zh", "bo-Tibt", "zh-Latn", "ko", "de")] == [
        "th", "zh", "bo", "", "", "",
    ]  # fmt: skip
    assert words("鉴于对", "") == ["鉴", "于", "对"]


@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["", *LANGUAGES])), max_size=5))
def test_each_page_is_cut_as_if_it_were_alone(pages):
    texts, locales = [text.replace("\n", " ") for text, _ in pages], [given for _, given in pages]
    together = cut(texts, locales)
    for number, (text, locale) in enumerate(zip(texts, locales, strict=True)):
        alone = cut([text], [locale])
        own = slice(together.first[number], together.first[number + 1])
        assert np.array_equal(together.hashes[own], alone.hashes)
        assert np.array_equal(together.starts[own] - together.page_starts[number], alone.starts)
        assert np.array_equal(together.ends[own] - together.page_starts[number], alone.ends)
        assert (alone.starts < alone.ends).all()
        assert (alone.starts[1:] >= alone.ends[:-1]).all()
        assert not (locale and alone.unspaced.any())


def test_its_version_identifies_a_corpus(monkeypatch):
    rule = GopherQuality(segmenter="icu")
    assert rule.settings()["segmenter"] == "icu"
    assert rule.settings()["icu_version"] == segmenter.load_icu().icu_version
    assert not {"segmenter", "icu_version"} & GopherQuality().settings().keys()
    pages = [Page("u", "ก".encode(), "", 0, "", "", columns=dict.fromkeys(rule.columns, 0))]
    assert rule.known_reasons(pages, {"segmenter"}) is None
    assert rule.known_reasons(pages, {"icu_version"}) is None
    monkeypatch.setattr(segmenter.importlib, "import_module", _lack)
    with pytest.raises(UserError, match=r"pip install 'mswitch\[segmenter\]'"):
        rule.settings()


@functools.cache
def _load_languages() -> Any:
    return gflanguages.LoadLanguages()


def _lack(name: str) -> None:
    raise ImportError(name)


@functools.cache
def excerpts(lang: str) -> list[str]:
    """Sentences of a language."""
    sample = _load_languages()[IDS[lang]].sample_text
    texts = [value for _, value in sample.ListFields() if isinstance(value, str)]
    return [text for text in split_paragraphs(texts) if len(text.encode()) > 80]


def good(lang: str, count: int) -> list[str]:
    """Documents of real sentences, each once."""
    draws, sentences = random.Random(lang), excerpts(lang)
    return ["\n".join(draws.sample(sentences, min(5, len(sentences)))) for _ in range(count)]


def spam(lang: str, count: int) -> list[str]:
    """Documents of a few words that repeat: keywords in changing order, and one phrase."""
    draws, pages = random.Random(f"{lang} spam"), []
    known = sorted({word for word in words("".join(excerpts(lang)), lang) if len(word) > 1})
    for number in range(count):
        keys = draws.sample(known, 4)
        lines = [draws.sample(keys, 4) if number % 2 else keys for _ in range(40)]
        pages.append("\n".join("".join(line) for line in lines))
    return pages


def keywords(lang: str, count: int) -> list[str]:
    """Documents of rare words, each once: a long line of keywords, which repeats nothing."""
    draws = random.Random(f"{lang} keywords")
    counts = collections.Counter(words(" ".join(excerpts(lang)), lang))
    rare = [word for word, times in counts.items() if times == 1 and len(word) > 1]
    return [f"{' '.join(draws.sample(rare, min(90, len(rare))))}。" for _ in range(count)]


def reasons(rule: GopherQuality, texts: Sequence[str], lang: str) -> list[str | None]:
    """Why a rule drops documents."""
    return rule.reasons([Page("u", text.encode(), "", 0, "", "", lang, 1.0) for text in texts])


def kept(rule: GopherQuality, texts: Sequence[str], lang: str) -> float:
    """The share of documents that a rule keeps."""
    return reasons(rule, texts, lang).count(None) / len(texts)


def fit(tmp_path, chosen: str) -> GopherQuality:
    """A rule with limits and stop words that were fitted, as `mswitch corpus fit` does."""
    policy = GopherQuality(segmenter=chosen, min_words=20)
    texts = {lang: (good(lang, 150), spam(lang, 50) if lang != "en" else []) for lang in IDS}
    measured = {}
    for name, parts in {"crawl": (0, 1), "reference": (0,)}.items():
        measured[name] = {
            lang: _measure([text for part in parts for text in both[part]], lang, policy)
            for lang, both in texts.items()
        }
    limits = fit_limits(policy, measured["crawl"], measured["reference"], 100)
    write_thresholds(tmp_path / f"{chosen}.csv", limits)
    lists = fit_stop_words(
        [(lang, both[0]) for lang, both in texts.items()], segmented=bool(chosen)
    )
    write_stop_words(tmp_path / f"{chosen}-words.csv", lists)
    assert {"th", "ja", "km"} <= lists.keys() if chosen else not {"th", "ja", "km"} & lists.keys()
    return GopherQuality(
        segmenter=chosen,
        min_words=20,
        thresholds=str(tmp_path / f"{chosen}.csv"),
        stop_words=str(tmp_path / f"{chosen}-words.csv"),
    )


def _measure(texts: Sequence[str], lang: str, policy: GopherQuality) -> dict[str, np.ndarray]:
    locales = policy.find_locales([lang] * len(texts))
    columns = measure_quality(cut(texts, locales), [lang] * len(texts), locales=locales)
    return {**columns, LANG_SCORE: np.ones(len(texts), np.float32)}


def test_a_corpus_has_words_of_thai(tmp_path):
    """And near-duplicates are those that a build without a segmenter finds."""
    texts = [*good("th", 5), *good("en", 3)]
    rows = [{"text": text, "url": f"http://a.example/{n}"} for n, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = {}
    for chosen in ("", "icu"):
        out, changes = tmp_path / f"corpus{chosen}", ["quality.drop=false"]
        changes += [f"quality.segmenter={chosen}"] if chosen else []
        build([tmp_path / "a.jsonl"], out, modern_settings(*changes))
        stored = documents(out)
        lengths[chosen] = {url: row["q_mean_word_length"] for url, row in stored.items()}
        config = read_json(out / "manifest.json")["config"]
        assert ("icu_version" in config["steps"]["quality"]) == bool(chosen)
    thai = {row["url"] for row in rows[:5]} & lengths[""].keys()
    assert lengths[""].keys() == lengths["icu"].keys()
    assert thai
    assert {lengths[""][url] for url in thai} == {0}
    assert all(2 < lengths["icu"][url] < 7 for url in thai)
    english = lengths[""].keys() - thai
    assert {lengths[""][url] for url in english} == {lengths["icu"][url] for url in english}


def test_fitted_rules_keep_text_and_drop_spam(tmp_path):
    """With ICU's words and with letters; what was fitted did not see these documents."""
    fitted = {name: fit(tmp_path, name) for name in ("", "icu")}
    for lang in ("th", "ja", "km"):
        texts = {
            "good": good(lang, 200)[150:],
            "spam": spam(lang, 90)[50:],
            "keywords": keywords(lang, 50),
        }
        shares = {
            name: {kind: kept(rule, documents, lang) for kind, documents in texts.items()}
            for name, rule in fitted.items()
        }
        print(lang, shares, f"{collections.Counter(reasons(fitted[''], texts['keywords'], lang))}")
        assert shares["icu"]["good"] >= 0.5
        assert shares["icu"]["spam"] == 0
        assert shares["icu"]["keywords"] <= min(0.1, shares[""]["keywords"])
