"""Profile `modern` against CLD3 on labelled excerpts; `make bench-langid` measures on more."""

import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules import langid as langid_module
from mswitch.pipelines.corpus.rules.langid import (
    IdentifyLanguageAndScript,
    TwoIdentifiers,
    read_language_policies,
    sample,
)
from mswitch.pipelines.corpus.rules.langid_mc4 import IdentifyLanguage
from mswitch.pipelines.languages import languages
from mswitch.pipelines.records import Page

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

CROATIAN = (
    "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima. Nitko ne smije biti"
    " držan u ropstvu; tko želi, može slobodno izraziti svoje mišljenje o općem dobru."
)
ENGLISH = "All human beings are born free and equal in dignity and rights, and have reason. " * 3


@pytest.fixture(scope="module")
def identifier() -> TwoIdentifiers:
    return TwoIdentifiers()


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's scores of the three systems on gflanguages' excerpts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import langid
        import langid_texts

        samples = langid_texts.samples(langid_texts.read_gflanguages())
        labels = langid.predictions(samples)
        gold = [sample.lang for sample in samples]
        tables = {name: langid.scores(gold, given) for name, given in labels.items()}
        yield langid, samples, labels, tables


def test_modern_is_better_in_macro_f1(benchmark):
    langid, _, _, tables = benchmark
    macro = {name: langid.macro_f1(table) for name, table in tables.items()}
    assert len(tables["modern"]) >= 100
    assert macro["modern"] > 0.9
    assert macro["modern"] > macro["CLD3 at 0.95"] + 0.15
    mc4 = [code for code, language in languages().items() if language.mc4]
    assert langid.macro_f1(tables["modern"], mc4) > langid.macro_f1(tables["CLD3 at 0.95"], mc4)


@pytest.mark.parametrize("lang", ["hr", "bs", "sr-Latn"])
def test_lost_languages_are_recovered(benchmark, lang):
    _, _, _, tables = benchmark
    assert tables["CLD3 at 0.7"][lang].recall == 0
    assert tables["modern"][lang].recall >= 0.75
    assert tables["modern"][lang].precision >= 0.6


def test_text_in_other_languages_is_left_undetermined(benchmark):
    _, samples, labels, _ = benchmark
    other = [i for i, sample in enumerate(samples) if sample.lang == "und"]
    assert len(other) > 1000
    given = {
        name: sum(label[i] != "und" for i in other) / len(other) for name, label in labels.items()
    }
    assert given["modern"] < 0.1
    assert given["CLD3 at 0.95"] > 0.2


def test_scores_are_those_of_the_definition(benchmark):
    langid, *_ = benchmark
    table = langid.scores(["de", "de", "nl", "und"], ["de", "nl", "nl", "de"])
    assert table["de"] == (0.5, 0.5, 0.5)
    assert table["nl"] == (0.5, 1.0, pytest.approx(2 / 3))
    assert langid.macro_f1(table) == pytest.approx((0.5 + 2 / 3) / 2)
    assert langid.scores(["de"], ["und"]) == {"de": (0.0, 0.0, 0.0)}


def test_croatian_has_its_own_label_and_a_runner_up(identifier):
    found = identifier.identify(CROATIAN)
    assert (found.lang, found.script, found.reason) == ("hr", "Latn", "")
    assert found.score > 0.9
    assert found.second in ("", "bs", "sr-Latn")
    # Control characters change nothing.
    assert identifier.identify(CROATIAN.replace(" se ", "\x00se\x1f")).lang == "hr"


def test_serbian_is_told_by_its_script(identifier):
    cyrillic = (
        "Сва људска бића рађају се слободна и једнака у достојанству и правима. Она су обдарена"
        " разумом и свешћу и треба једни према другима да поступају у духу братства."
    )
    latin = (
        "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima. Ona su obdarena"
        " razumom i svešću i treba jedni prema drugima da postupaju u duhu bratstva; svako ima"
        " pravo da uvek i na svakom mestu bude priznat kao pravni subjekat."
    )
    assert identifier.identify(cyrillic).lang == "sr"
    assert identifier.identify(latin).lang == "sr-Latn"


@pytest.mark.parametrize(
    ("text", "reason", "second"),
    [
        ("", "no_guess", ""),
        ("12345 67890 -- !!! 2024-01-01", "no_guess", ""),
        # Tswana, which CLD2 knows and mC4 lacks.
        (
            "Batho botlhe ba tshotswe ba gololosegile le gone ba lekana ka seriti le ditshwanelo."
            " Ba abetswe go akanya le maikutlo, mme ba tshwanetse go direlana ka mowa wa"
            " bokaulengwe.",
            "other_language",
            "tn",
        ),
        # Sorani Kurdish: mC4's Kurdish is Kurmanji, in Latin letters.
        (
            "هەموو مرۆڤێک ئازاد و یەکسان لە کەرامەت و مافەکان لەدایک دەبێت. ئەوان ئەقڵ و ویژدانیان"
            " پێدراوە و دەبێت بە گیانی برایەتی لەگەڵ یەکتر هەڵسوکەوت بکەن.",
            "script_mismatch",
            "ku",
        ),
    ],
)
def test_what_is_undetermined_says_why(identifier, text, reason, second):
    found = identifier.identify(text)
    assert (found.lang, found.reason, found.second) == ("und", reason, second)


def test_noise_that_resembles_a_language_has_too_few_points(identifier):
    # Scots: both identifiers say English, CLD2 with points that English text exceeds.
    scots = "Ilka bodie haes the richt tae freedom o thocht, conscience an releegion; " * 4
    assert identifier.identify(ENGLISH).lang == "en"
    assert identifier.identify(scots).lang == "und"


def test_a_page_mostly_in_another_script_is_no_page_of_the_language(identifier, monkeypatch):
    russian = "Все люди рождаются свободными и равными в своем достоинстве и правах. "
    assert identifier.identify(russian * 4).lang == "ru"
    monkeypatch.setattr(langid_module, "MIN_SCRIPT_SHARE", 0.99)
    found = identifier.identify(russian * 20 + "A title in Latin letters")
    assert (found.lang, found.reason, found.second) == ("und", "script_mismatch", "ru")
    assert found.script == "Cyrl"


def test_beginning_middle_and_end_of_a_long_text_are_looked_at(monkeypatch):
    assert sample("0123456789", 10) == "0123456789"
    assert sample("0123456789", 6) == "01\n45\n89"
    assert sample("0123456789", 5) == "0\n4\n9"
    monkeypatch.setattr(langid_module, "MAX_CHARACTERS", 900)
    identifier = TwoIdentifiers()
    german = "Alle Menschen sind frei und gleich an Würde und Rechten geboren. " * 6
    long = f"{german}{ENGLISH * 1000}{german}{ENGLISH * 1000}{german}"
    assert identifier.identify(long).lang == "de"


@given(st.text(max_size=60), st.integers(3, 40))
def test_a_sample_is_of_bounded_length_and_of_the_text(text, characters):
    pieces = sample(text.replace("\n", " "), characters).split("\n")
    assert sum(map(len, pieces)) <= characters
    assert all(piece in text.replace("\n", " ") for piece in pieces)


@given(st.text(max_size=300))
@example("\ud800" * 40 + CROATIAN)
@example("a\x00b\x1f\x7f\ufffe\U0010ffff" + CROATIAN)
def test_any_text_has_an_answer(text):
    identifier = TwoIdentifiers()
    found = identifier.identify(text)
    assert found == identifier.identify(text)
    assert found.lang in languages() or found.lang == "und"
    assert (found.lang == "und") == bool(found.reason)
    assert 0 <= found.score <= 1
    assert 0 <= found.second_score <= 1
    assert found.second != found.lang


@pytest.mark.parametrize("rule", [IdentifyLanguageAndScript(), IdentifyLanguage()])
def test_a_rule_that_was_used_travels_to_workers(rule):
    """What it loaded cannot be pickled; it is loaded again there."""
    page = Page("u", CROATIAN.encode(), "", 0, "s@0", "")
    label = rule.identify(page)
    assert pickle.loads(pickle.dumps(rule)).identify(page) == label


def test_every_language_has_a_policy():
    policies = read_language_policies()
    assert list(policies) == list(languages())
    by_cues = {code for code, policy in policies.items() if policy.decided_by == "cues"}
    assert by_cues == {"hr", "bs", "sr-Latn"}
    for code, policy in policies.items():
        assert policy.decided_by in ("cld2", "cld3", "cues")
        assert 0 <= policy.cld3_probability <= 1
        assert (policy.cld2_points > 0) == (policy.decided_by != "cld3"), code
