"""Limits on quality that are fitted to each language."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import crawl_files as crawl
import numpy as np
import pytest
from corpus_builds import build, documents, english, modern_settings
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus import fit
from mswitch.pipelines.corpus.fit import (
    fit_limits,
    fit_stop_words,
    fit_thresholds,
    write_thresholds,
)
from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.corpus.rules.quality import (
    COLUMNS,
    LANG_SCORE,
    GopherQuality,
    read_thresholds,
)
from mswitch.pipelines.corpus.rules.stop_words import read_stop_words
from mswitch.pipelines.errors import UserError


def columns(seed: int, documents: int = 200, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Of documents in a language whose words are so many times as long, and that repeats so."""
    draws = np.random.default_rng(seed)
    found = {name: draws.uniform(0, 0.3, documents) for name in COLUMNS}
    found["words"] = np.full(documents, 100)
    found["third_longest_line"] = draws.uniform(10, 300, documents)
    found["mean_word_length"] = draws.normal(5, 1.5, documents).clip(1) * scale
    found["alphabetic_word_share"] = draws.uniform(0.7, 1, documents)
    for name in COLUMNS:
        if "duplicate" in name or name.startswith("top_"):
            found[name] = draws.uniform(0, 0.3, documents) * scale
    return {name: values.astype(COLUMNS[name]) for name, values in found.items()}


@given(st.lists(st.fractions(0, 1, max_denominator=40).filter(bool), min_size=3, max_size=60))
def test_written_limits_cut_no_more_than_fitted_ones(tmp_path_factory, shares):
    values = np.array(shares, np.float32)
    path, name = tmp_path_factory.mktemp("limits") / "own.csv", "terminal_line_share"
    low, high = (float(np.quantile(values, q)) for q in (0.1, 0.9))
    write_thresholds(path, {"de": {name: (low, high)}})
    least, most = np.float32(read_thresholds(str(path))["de"][name])
    assert np.sum(values < least) <= np.sum(values < low)
    assert np.sum(values > most) <= np.sum(values > high)
    assert least == pytest.approx(low, rel=1e-3)
    assert most == pytest.approx(high, rel=1e-3)


@given(st.floats(0.25, 2.5))
def test_limits_grow_with_what_they_limit(scale):
    """Of a language that is English but for the scale of its columns."""
    found = {"en": columns(0), "xx": columns(0, scale=scale)}
    fitted = fit_limits(GopherQuality(), found, found, 100)["xx"]
    policy = {name: (low, high) for _, name, low, high in GopherQuality().each_limit()}
    for name in ("duplicate_line_share", "top_2gram_share", "duplicate_10gram_share"):
        _, high = fitted[name]
        wanted = policy[name][1] * max(1, scale)  # never stricter
        assert high == pytest.approx(wanted, rel=1e-3) if wanted < 0.99 else high > 0.98
    own, known = found["xx"], found["en"]
    for name in ("mean_word_length", "alphabetic_word_share"):
        low, high = fitted[name]
        cuts = np.mean((own[name] < low) | (own[name] > high))
        least, most = policy[name]
        assert cuts == pytest.approx(
            np.mean((known[name] < least) | (known[name] > most)), abs=0.01
        )
    for name in ("terminal_line_share", "third_longest_line"):
        low, _ = fitted[name]
        assert np.mean(own[name] < low) == pytest.approx(0.1, abs=0.015)


def test_what_could_drop_nothing_is_off(tmp_path):
    found = {"en": columns(0), "xx": columns(1, scale=4), "yy": columns(2), "zz": columns(3, 20)}
    found["yy"] |= {"mean_word_length": np.zeros(200, np.float32)}
    found["yy"]["third_longest_line"] += 500
    fitted = fit_limits(GopherQuality(), found, found, 100)
    assert sorted(fitted) == ["xx", "yy"]  # of zz there is too little
    assert "mean_word_length" not in fitted["yy"]  # a script without spaces
    assert fitted["xx"]["duplicate_line_share"] == (0, np.inf)
    assert fitted["yy"]["third_longest_line"] == (200, np.inf)  # mC4's, never stricter
    write_thresholds(tmp_path / "fitted.csv", fitted)
    text = (tmp_path / "fitted.csv").read_text()
    assert "\nxx,duplicate_line_share,,\n" in text
    read = read_thresholds(str(tmp_path / "fitted.csv"))
    assert read["yy"]["top_2gram_share"][1] == pytest.approx(
        fitted["yy"]["top_2gram_share"][1], 1e-3
    )


def test_each_page_is_judged_by_its_language(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("lang,column,least,most\nfi,mean_word_length,7,20\nfi,words,,\nth,words,,10\n")
    rule = GopherQuality(thresholds=str(path), min_words=0, min_stop_words=0)
    of_pages = {name: np.zeros(4, kind) for name, kind in COLUMNS.items()}
    of_pages["words"] += 20
    of_pages["mean_word_length"] += np.float32([16, 16, 6, 6])
    of_pages["alphabetic_word_share"] += 1
    langs = ["fi", "en", "fi", "th"]
    assert rule.judge(of_pages, langs) == [None, "word_length", "word_length", "too_many_words"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "line 1: .*no header with column, lang, least, most"),
        ("", "line 0: .*no header with column, lang, least, most"),
        ("fi,words,60,\n", "line 1: .*no header with column, lang, least, most"),
        ("lang,column,least,most\n", "line 1: .*no row after the header"),
        ("lang,column,least,most\nfi,letters,1,2\n", "line 2: .*letters.*columns among words"),
        ("lang,column,least,most\nfi,words,x,\n", "line 2: .*could not convert"),
        ("lang,column,least,most\nfi,words,3,2\n", "line 2: .*from 3.0 to 2.0"),
        ("lang,column,least,most\nFinnish!,words,1,2\n", "line 2: .*unknown language 'Finnish!'"),
        ("lang,column,least,most\nfi\n", "line 2: "),
        ("lang,column,least,most\n*,words,1,2\n", r"line 2: .*unknown language '\*'"),
        ("lang,column,least,most\n\udcff,words,1,2\n", "UnicodeDecodeError"),
    ],
)
def test_files_of_limits_that_are_refused(tmp_path, text, message):
    (tmp_path / "own.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        read_thresholds(str(tmp_path / "own.csv"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English that differs, and German that repeats itself more than it."""
    work = tmp_path_factory.mktemp("crawl")
    records = [
        crawl.record(english(seed, 8 + seed % 9), f"http://en.example/{seed}") for seed in range(80)
    ]
    for seed in range(60):
        lines = crawl.prose(crawl.GERMAN, seed, 6).split("\n")
        lines += [lines[0]] * (seed % 4)
        records.append(crawl.record("\n".join(lines), f"http://de.example/{seed}"))
    return crawl.write(work / "a.warc.wet.gz", records)


def measuring(*changes: str) -> Any:
    config = modern_settings(*changes)
    return dataclasses.replace(config, min_long_line_characters=1)


def test_from_a_measured_corpus_to_a_filtered_one(tmp_path, pages, capsys):
    measured, fitted = tmp_path / "measured", tmp_path / "fitted.csv"
    build([pages], measured, measuring("quality.drop=false"))
    command = ["corpus", "fit", str(measured), "--out", str(fitted), "--min-documents", "40"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["languages"]
    assert set(found) == {"de", "en"}
    assert found["en"]["before"] == found["en"]["after"]
    assert found["de"]["before"]["dropped"] != found["de"]["after"]["dropped"]
    assert main([*command, "--html", str(tmp_path / "fit.html")]) == 0
    page = (tmp_path / "fit.html").read_text()
    assert all(reason in page for reason in found["de"]["after"]["by_reason"])
    said = capsys.readouterr()
    assert "warning: the limits for all apply to en, the yardstick, and keep " in said.err
    assert "build with them: --set quality.thresholds=" in said.out
    limits = read_thresholds(str(fitted))
    assert set(limits) == {"de"}
    # The page shows what the limits newly drop and keep, as many as there are.
    fitted_now = fit_thresholds(measured, fitted, min_documents=40, samples=2)["languages"]["de"]
    texts = {url: row["text"] for url, row in documents(measured).items()}
    counts = {}
    for news in ("newly_dropped", "newly_kept"):
        counts[news] = sum(row["documents"] for row in fitted_now[news].values())
        for row in fitted_now[news].values():
            assert len(row["pages"]) == min(2, row["documents"])
            for shown in row["pages"]:
                assert shown["text"]
                assert texts[shown["url"]].startswith(shown["text"])
                assert shown["url"] in page
    difference = found["de"]["after"]["dropped"] - found["de"]["before"]["dropped"]
    assert counts["newly_dropped"] - counts["newly_kept"] == round(60 * difference) != 0
    # What is dropped then is what was foretold, with the limits for all that the file leaves.
    filtered = tmp_path / "filtered"
    build([pages], filtered, measuring(f"quality.thresholds={fitted}"))
    german = [row for row in documents(filtered).values() if row["lang"] == "de"]
    assert german
    assert len(german) < found["de"]["documents"]
    for row in german:
        for column, (low, high) in limits["de"].items():
            value = row[column if column == LANG_SCORE else f"q_{column}"]
            assert np.float32(low) <= value <= np.float32(high)
    # Inspection shows the page's own limits.
    inspect = ["corpus", "inspect", f"{pages}@0", "--profile", "modern", "--json", "--set"]
    assert main([*inspect, f"quality.thresholds={fitted}"]) == 0
    # A corpus that was filtered has no tails to fit.
    with pytest.raises(UserError, match=r"build it with .*quality\.drop=false"):
        fit_thresholds(filtered, tmp_path / "again.csv")
    with pytest.raises(UserError, match="fewer than 500 documents in English"):
        fit_thresholds(measured, tmp_path / "again.csv", min_documents=500)


@pytest.mark.parametrize("option", ["--out", "--stop-words", "--weights", "--html"])
def test_files_are_refused_before_the_corpus_is_read(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    given = [] if option == "--out" else ["--out", "new/fitted.csv"]
    assert main(["corpus", "fit", "no-corpus", *given, option, "."]) == 2
    assert f". is a directory: choose another {option}" in capsys.readouterr().err


def test_a_least_score_is_a_deviation_below_the_median(tmp_path):
    scores = np.random.default_rng(0).normal(0.8, 0.1, 4000).clip(0, 1).astype(np.float32)
    of_other = np.full(200, 0.1, np.float32)
    found = {"en": columns(0), "xx": columns(1, 4000) | {LANG_SCORE: scores}}
    found["yy"] = columns(2) | {LANG_SCORE: of_other}
    fitted = fit_limits(GopherQuality(), found, found, 100)
    assert fitted["xx"][LANG_SCORE][0] == pytest.approx(0.7, abs=0.01)
    assert fitted["yy"][LANG_SCORE][0] == pytest.approx(0.3)
    write_thresholds(tmp_path / "own.csv", fitted)
    rule = GopherQuality(thresholds=str(tmp_path / "own.csv"))
    good = {name: np.zeros(4000, kind) for name, kind in COLUMNS.items()}
    good |= {name: np.full(4000, 300) for name in ("words", "third_longest_line")}
    good["stop_words"] = np.full(4000, -1)
    good |= {"alphabetic_word_share": np.ones(4000), "terminal_line_share": np.ones(4000)}
    judged = rule.judge(good | {LANG_SCORE: scores}, ["xx"] * 4000)
    low = np.flatnonzero(scores < np.float32(fitted["xx"][LANG_SCORE][0]) - 1e-3)
    assert 0 < len(low) < 1000
    assert {judged[page] for page in low} == {"low_language_score"}
    assert rule.judge(good, ["xx"] * 4000) == [None] * 4000


def test_stop_words_are_the_most_frequent_of_a_language():
    """Neither numbers, nor what one document repeats, nor the English among others' words."""
    english = [f"the cat{n} and the dog{n} of the house or {n} end at it now" for n in range(100)]
    german = [
        f"die Katze{n} und der Hund{n} und die Maus{n} und der Elch am See im Wald the of"
        for n in range(100)
    ]
    german[0] += " Donau" * 500
    hindi = ["घर में है और में यह का की के को"] * 100
    lists = fit_stop_words({"en": english, "de": german, "hi": hindi}.items())
    assert lists["en"].split() == ["the", "and", "at", "end", "house", "it", "now", "of", "or"]
    assert lists["de"].split()[:4] == ["und", "der", "die", "am"]
    assert lists["hi"].split()[0] == "में"


def test_stop_words_of_ones_own(tmp_path, pages, capsys):
    """A list replaces ours, or is the first of a language; the rule measures again."""
    unmasked = "personal_data.mask_personal_data=false"
    measured, lists = tmp_path / "measured", tmp_path / "words.csv"
    build([pages], measured, measuring("quality.drop=false", unmasked))
    options = ["--out", str(tmp_path / "fitted.csv"), "--min-documents", "40"]
    assert main(["corpus", "fit", str(measured), *options, "--stop-words", str(lists)]) == 0
    assert f"--set quality.stop_words={lists}" in capsys.readouterr().out
    assert {"the", "and"} <= {*read_stop_words(str(lists))["en"].split()}
    lists.write_text("lang,words\nen,nowhere nobody\nde,-\n")
    config = measuring(f"quality.stop_words={lists}", "quality.min_stop_words=1", unmasked)
    again, built = tmp_path / "again", tmp_path / "built"
    build([], again, config, source_corpus=measured)
    build([pages], built, config)
    assert documents(again) == documents(built)
    found = {(row["lang"], row["q_stop_words"]) for row in documents(again).values()}
    assert found == {("de", -1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lang,word\nen,the\n", "line 1: .*no header with words.*give lang and words"),
        ("en,the and of\n", "line 1: .*no header with lang, words"),
        ("", "line 0: .*no header"),
        ("lang,words\nde\n", "line 2: .*not 2 cells"),
        ("lang,words\nde,der,die,und\n", "line 2: .*not 2 cells"),
        ("lang,words\nde,der\n", r"de has fewer words than a page needs \(.*is 2\)"),
    ],
)
def test_stop_words_that_are_refused(tmp_path, text, message):
    (tmp_path / "words.csv").write_text(text)
    with pytest.raises(UserError, match=rf"words.csv.*{message}"):
        GopherQuality(stop_words=str(tmp_path / "words.csv")).load()


def test_two_files_of_one_name_stay_two(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Two(Rule):
        name = "two"
        files = ("one", "other")
        one: str
        other: str

    paths = {"one": tmp_path / "a" / "v.csv", "other": tmp_path / "b" / "v.csv"}
    for name, path in paths.items():
        path.parent.mkdir()
        path.write_text(name)
    for name, path in (
        Two(**{name: str(path) for name, path in paths.items()}).prepare(str(tmp_path)).items()
    ):
        assert Path(path).read_text() == name


def test_neither_letters_of_unspaced_scripts_nor_hidden_characters_are_stop_words():
    thai = [
        "\u200bการ\u200bเดินทางท่องเที่ยวในประเทศ brand shop cheap best sale offer deal now\u200b"
    ] * 9
    persian = [f"\u200b \ufeffاو می\u200cشود و در به از که این را با {n} 12" for n in range(9)]
    lists = fit_stop_words([("en", ["the and of"] * 9), ("th", thai), ("fa", persian)])
    assert sorted(lists) == ["fa"]
    assert "می\u200cشود" in lists["fa"].split()
    assert not any("\u200b" in word or "\ufeff" in word for word in lists["fa"].split())


def test_languages_with_the_limits_for_all_are_named(tmp_path, monkeypatch, capsys):
    found = {lang: columns(n, count) for n, (lang, count) in enumerate(
        [("en", 200), ("de", 100), ("zh", 99), ("th", 7)])}  # fmt: skip
    for of_lang in found.values():
        of_lang["words"] = np.arange(len(of_lang["words"]))
    monkeypatch.setattr(fit, "read_columns", lambda *_: (GopherQuality(), found))
    languages = fit_thresholds("measured", tmp_path / "own.csv")["languages"]
    assert [lang for lang, row in languages.items() if row["own_limits"]] == ["de"]
    kept = {lang: f"{1 - row['after']['dropped']:.0%}" for lang, row in languages.items()}
    said = capsys.readouterr().err
    assert f"apply to en, the yardstick, and keep {kept['en']} of 200 documents: " in said
    assert "warning: 2 languages have fewer than 100 documents, in the corpus or the ref" in said
    assert f"apply to them, and keep zh {kept['zh']} of 99, th {kept['th']} of 7: more text" in said
    fit_thresholds("measured", tmp_path / "none.csv", min_documents=101)
    text = fit.format_fit(fit_thresholds("measured", tmp_path / "none.csv", min_documents=101))
    assert text.endswith("nothing is fitted")
    assert "\nde *" in text


def test_a_language_of_few_words_gets_no_list():
    assert "xx" not in fit_stop_words([("en", ["the and of"]), ("xx", ["the and of zz"] * 3)])
