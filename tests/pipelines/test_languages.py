import re
import unicodedata

import pytest

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import any_code, find_language, languages, mc4_codes, parse_codes


def test_mc4_has_107_codes_for_101_languages():
    codes = mc4_codes()
    assert len(codes) == 107
    assert len({languages()[code].base for code in codes}) == 101
    romanised = [code for code in codes if "-" in code]
    assert romanised == ["bg-Latn", "el-Latn", "hi-Latn", "ja-Latn", "ru-Latn", "zh-Latn"]


def test_page_counts_sum_to_those_of_mc4():
    table = languages().values()
    assert sum(language.mc4_train_pages for language in table) == 6_656_295_826
    assert sum(language.mc4_validation_pages for language in table) == 6_663_888


def test_directions_follow_scripts():
    for language in languages().values():
        right_to_left = language.script in {"Arab", "Hebr"}
        assert (language.direction == "rtl") == right_to_left, language.code
        assert re.fullmatch(r"[A-Z][a-z]{3}", language.script)


@pytest.mark.parametrize("code", list(languages()))
def test_autonyms_are_written_in_the_language_s_own_script(code):
    language = languages()[code]
    blocks = {"Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Hebr": "HEBREW",
              "Deva": "DEVANAGARI", "Grek": "GREEK", "Hani": "CJK", "Jpan": "CJK",
              "Kore": "HANGUL"}  # fmt: skip
    letters = [c for c in language.autonym if c.isalpha() and "MODIFIER" not in unicodedata.name(c)]
    assert letters
    expected = blocks.get(language.script)
    if expected:
        assert all(unicodedata.name(c).startswith(expected) for c in letters), language.autonym


def test_codes_and_aliases_are_parsed_and_others_refused():
    assert parse_codes(["he", "de", "de"]) == ("de", "iw")
    assert languages()["bg-Latn"].registry_name == "bg_Latn"
    with pytest.raises(UserError, match="unknown language 'xx': choose among af, am"):
        parse_codes(["de", "xx"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("he", "iw"),
        ("EN", "en"),
        ("SR_latn", "sr-Latn"),
        ("ast", "ast"),
        ("zh_min_nan", "zh-min-nan"),
        ("ber_LATN_dz", "ber-Latn-dz"),
        *(
            (text, None)
            for text in ("", "x", "a b", "../..", "en/..", "de\n", "ärz", "a-" * 9, "a" * 9)
        ),
    ],
)
def test_any_language_has_a_code(text, code):
    assert any_code(text) == code


def test_of_a_language_that_the_table_lacks_the_code_is_known():
    language = find_language("zh-min-nan")
    assert (language.name, language.registry_name) == ("zh-min-nan", "zh_min_nan")
    assert (language.tier, language.mc4) == ("", False)
    assert find_language("sw") is languages()["sw"]
