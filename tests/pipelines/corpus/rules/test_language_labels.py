"""Labels of published corpora as codes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.language_labels import read_label
from mswitch.pipelines.languages import UNDETERMINED, any_code, languages, mc4_codes

CYRILLIC = "Сви људи се рађају слободни"


@pytest.mark.parametrize(
    ("label", "code"),
    [
        *[("de", "de"), ("deu", "de"), ("deu_Latn", "de"), ("DE-de", "de"), ("de_Latn", "de")],
        *[("pt-BR", "pt"), ("es-419", "es"), ("en-US-x-new", "en"), ("nn-NO", "no"), ("nb", "no")],
        *[("zh-Hant-TW", "zh"), ("cmn_Hani", "zh"), ("zho", "zh"), ("zh-Latn", "zh-Latn")],
        *[
            ("ru-Latn", "ru-Latn"),
            ("rus_Latn", "ru-Latn"),
            ("rus", "ru"),
            ("hi-Latn-IN", "hi-Latn"),
        ],
        *[("he", "iw"), ("heb", "iw"), ("tl", "fil"), ("swh_Latn", "sw"), ("kor_Hang", "ko")],
        *[("ko-Kore", "ko"), ("ja-Jpan", "ja"), ("jpn", "ja"), ("arz_Arab", "ar"), ("arb", "ar")],
        *[("sr-Latn", "sr-Latn"), ("srp_Cyrl", "sr"), ("sr", "sr"), ("hbs", "sr"), ("sh", "sr")],
        # In another script, or of a language that the table lacks.
        *[
            ("uk-Latn", "uk-Latn"),
            ("ast", "ast"),
            ("ast_Latn", "ast-Latn"),
            ("ckb_Arab", "ckb-Arab"),
        ],
        # HPLT has a list, which is kept as JSON.
        *[('["deu_Latn", "eng_Latn"]', "de"), ('["pt-BR"]', "pt"), ("[]", UNDETERMINED)],
        *[
            ("", UNDETERMINED),
            ("und", UNDETERMINED),
            ("zxx_Latn", UNDETERMINED),
            ("x", UNDETERMINED),
        ],
        *[("German", UNDETERMINED), ("mul", UNDETERMINED), ("7", UNDETERMINED)],
    ],
)
def test_labels(label, code):
    assert read_label(label, CYRILLIC) == code


def test_serbian_without_a_script_is_told_by_its_text():
    assert read_label("srp", "Svi ljudi se ra\u0111aju slobodni") == "sr-Latn"


def test_codes_of_the_table_are_labels():
    assert [read_label(code, CYRILLIC) for code in mc4_codes()] == [*mc4_codes()]


@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z]{2,3}([-_][A-Za-z0-9]{2,4}){0,3}"))
def test_any_text_gives_a_code_that_names_a_directory(label):
    code = read_label(label, CYRILLIC)
    assert code == UNDETERMINED or code in languages() or any_code(code) == code
    assert re.fullmatch("[A-Za-z-]{2,12}", code)
