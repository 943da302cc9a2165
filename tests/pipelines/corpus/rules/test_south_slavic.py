import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.south_slavic import LANGUAGES, cues, probabilities

TEXTS = {
    "hr": "Tko želi sudjelovati, neka tijekom idućeg tjedna pošalje izvješće; ovisno o tome bit će"
    " obaviještena sveučilišta i tvrtke u cijeloj Europi. Točan popis objavit ćemo u siječnju.",
    "bs": "Ko želi učestvovati, neka naredne sedmice pošalje izvještaj; zavisno od toga bit će"
    " obaviještene općine i preduzeća u cijeloj Evropi. Tačan spisak objavit ćemo u januaru.",
    "sr-Latn": "Ko želi da učestvuje, neka sledeće nedelje pošalje izveštaj; zavisno od toga biće"
    " obaveštene opštine i preduzeća u celoj Evropi. Tačan spisak objavićemo u januaru.",
}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_message_in_three_languages(lang):
    found = probabilities(TEXTS[lang])
    assert found[lang] > 0.95


def test_without_a_cue_all_are_equally_likely():
    assert probabilities("") == dict.fromkeys(LANGUAGES, pytest.approx(1 / 3))


def test_the_reflex_of_yat_separates_serbian_from_the_others():
    ekavian = probabilities("Uvek je lepo vreme na ovom mestu.")
    ijekavian = probabilities("Uvijek je lijepo vrijeme na ovom mjestu.")
    assert ekavian["sr-Latn"] > 0.95
    assert ijekavian["hr"] == ijekavian["bs"] > 0.48


def test_the_table_names_known_languages_and_no_cue_fits_all():
    assert {lang for cue in cues() for lang in cue.languages} == set(LANGUAGES)
    for cue in cues():
        assert 0 < len(cue.languages) < len(LANGUAGES)
        assert cue.weight > 0


def test_cues_are_words_of_their_own():
    # Cut out of a longer word, or in another language's spelling, they must not count.
    assert probabilities("subject project objective") == probabilities("")
    for cue in cues():
        assert not cue.pattern.search("")


@given(st.text())
def test_probabilities_sum_to_one(text):
    found = probabilities(text)
    assert set(found) == set(LANGUAGES)
    assert sum(found.values()) == pytest.approx(1)


@given(st.sampled_from(sorted(TEXTS)), st.integers(1, 40))
def test_repeating_a_text_changes_the_winner_never(lang, times):
    once, often = probabilities(TEXTS[lang]), probabilities(" ".join([TEXTS[lang]] * times))
    assert max(once, key=once.__getitem__) == max(often, key=often.__getitem__)


def test_a_long_hostile_word_is_read_in_linear_time():
    # Patterns of the form \w*x\w* are quadratic on one endless word if nothing stops them.
    assert re.fullmatch(r"\w+", word := "a" * 10_000)
    assert probabilities(word) == probabilities("")
