import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.text_script import (
    SCRIPTS,
    count_scripts,
    find_main_script,
    find_writing_system,
    measure_script_share,
)
from mswitch.pipelines.languages import languages

#: How Unicode's character names begin, for scripts that have a table entry.
NAMES = {
    "LATIN": "Latn", "FULLWIDTH LATIN": "Latn", "GREEK": "Grek", "COPTIC": "Copt",
    "CYRILLIC": "Cyrl", "ARMENIAN": "Armn", "HEBREW": "Hebr", "ARABIC": "Arab", "SYRIAC": "Syrc",
    "THAANA": "Thaa", "NKO": "Nkoo", "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru",
    "GUJARATI": "Gujr", "ORIYA": "Orya", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda",
    "MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai", "LAO": "Laoo", "TIBETAN": "Tibt",
    "MYANMAR": "Mymr", "GEORGIAN": "Geor", "HANGUL": "Hang", "HALFWIDTH HANGUL": "Hang",
    "ETHIOPIC": "Ethi", "CHEROKEE": "Cher", "CANADIAN": "Cans", "KHMER": "Khmr",
    "MONGOLIAN": "Mong", "TIFINAGH": "Tfng", "JAVANESE": "Java", "BALINESE": "Bali",
    "SUNDANESE": "Sund", "HIRAGANA": "Hira", "KATAKANA": "Kana", "HALFWIDTH KATAKANA": "Kana",
    "BOPOMOFO": "Bopo", "CJK UNIFIED": "Hani",
}  # fmt: skip
#: Letters to Unicode, signs or ornaments in use.
EXEMPT = ("SOUND MARK", "SUBSCRIPT", "SUPERSCRIPT", "SMALL CAPITAL", "TATWEEL", "NUMERAL")


def script_by_name(character: str) -> str | None:
    words = unicodedata.name(character, "").split()
    return NAMES.get(" ".join(words[:2])) or (NAMES.get(words[0]) if words else None)


@pytest.mark.parametrize("script", sorted(set(NAMES.values())))
def test_letters_are_of_the_script_that_unicode_names_them_by(script):
    letters = [
        character
        for character in map(chr, range(0x10000))
        if character.isalpha()
        and script_by_name(character) == script
        and not any(word in unicodedata.name(character) for word in EXEMPT)
    ]
    wrong = [letter for letter in letters if count_scripts(letter) != {script: 1}]
    assert len(letters) > 20
    assert wrong == []


def test_what_is_no_letter_counts_nowhere():
    neutral = "0123456789 ,.!?;:-–—()[]{}«»“”„…/\\@#%&*+=<>|~^`'\"€£$°×÷"
    neutral += "\t\n😀→∑１２３、。！？٠١٢۰۱२३"
    assert count_scripts(neutral) == {}
    assert find_main_script({}) == "Zyyy"


def test_letters_of_unlisted_scripts_are_of_another():
    assert count_scripts("ꕉꕜꕮ ꔔꘋ 𐌰𐌱𐌲 ꆈꌠ") == {"Zzzz": 10}


def test_the_commonest_script():
    counts = count_scripts("Привет, world!")
    assert counts == {"Cyrl": 6, "Latn": 5}
    assert find_main_script(counts) == "Cyrl"
    assert find_main_script(count_scripts("аbвd")) == "Cyrl"  # by name


def test_japanese_and_korean_are_written_in_several_scripts():
    japanese = count_scripts("日本語のテキスト")
    assert measure_script_share(japanese, languages()["ja"]) == 1
    assert measure_script_share(japanese, languages()["zh"]) == 3 / 8
    assert measure_script_share(count_scripts("한국어 漢字"), languages()["ko"]) == 1
    assert measure_script_share({}, languages()["de"]) == 0


@pytest.mark.parametrize("code", list(languages()))
def test_every_language_names_a_script_that_is_known(code):
    language = languages()[code]
    counts = count_scripts(language.autonym)
    modifiers = sum(unicodedata.category(c) == "Lm" for c in language.autonym)
    assert sum(counts.values()) > modifiers
    assert measure_script_share(counts, language) >= 1 - modifiers / sum(counts.values())


@given(st.text(), st.text())
def test_counts_add_up(one, other):
    counts = count_scripts(one + other)
    assert set(counts) <= set(SCRIPTS)
    assert sum(counts.values()) <= len(one) + len(other)
    parts = count_scripts(one), count_scripts(other)
    assert counts == {s: parts[0].get(s, 0) + parts[1].get(s, 0) for s in counts}
    assert counts == count_scripts((one + other)[::-1])


def test_a_lone_surrogate_is_no_letter():
    assert count_scripts("a\ud800b") == {"Latn": 2}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("山の上に小さな家があります。", "Jpan"),
        ("山上有一座小房子。", "Hani"),
        ("这家店叫カフェ，开在山上的小村子里，店主是一位退休的老师，" * 2, "Hani"),
        ("산 위에 작은 집이 있습니다.", "Hang"),
        ("A house カ", "Latn"),
        ("12.5 %", "Zyyy"),
    ],
)
def test_the_writing_system_of_a_text(text, script):
    assert find_writing_system(text) == script
