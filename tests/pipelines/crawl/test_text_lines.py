"""Lines of text: compiled loops against Python's own string methods."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.crawl.text_lines import normalize_lines, third_longest_line

SPACES = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))
#: Like white space in their first bytes of UTF-8, or their last.
LIKE_SPACES = "\u00a1\u1681\u2010\u2027\u202a\u2060\u3001\u00e0\u0420\u0920\U00010320"
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=f"\n\r{SPACES}{LIKE_SPACES}ab\0"),
    st.lists(st.sampled_from(["WARC", "Content-", "CONTENT-", "Conten", "\n", " ", "x"])).map(
        "".join
    ),
)
PREFIXES = ("WARC", "CONTENT-", "Content-")


@given(TEXTS)
def test_lines_are_those_of_string_methods(text):
    lines = map(str.strip, text.replace("\r", "\n").split("\n"))
    kept = list(filter(None, lines))
    assert normalize_lines(text.encode(), drop_metadata_lines=False) == "\n".join(kept).encode()
    kept = [line for line in kept if not line.startswith(PREFIXES)]
    assert normalize_lines(text.encode()) == "\n".join(kept).encode()


def test_every_character_that_is_white_space_is_stripped_and_no_other():
    codes = (code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    characters = [character for character in map(chr, codes) if character not in "\r\n"]
    for pattern in ("{}a", "a{}", "a{}b"):
        lines = [pattern.format(character) for character in characters]
        stripped = "\n".join(map(str.strip, lines)).encode()
        assert normalize_lines("\n".join(lines).encode()) == stripped


def test_lines_that_look_like_headers_are_dropped_as_in_mc4():
    text = b"WARC/1.0\nContent-Type: x\nCONTENT-Y\nkept content-type"
    assert normalize_lines(text) == b"kept content-type"
    assert normalize_lines(text, drop_metadata_lines=False) == text


@given(st.lists(st.text(alphabet="aäह𐍈", max_size=12), min_size=1, max_size=8))
def test_the_third_longest_line_is_that_of_sorted_lengths(lines):
    text, expected = "\n".join(lines).encode(), sorted(map(len, lines))[-3:][0]
    assert third_longest_line(text, 13) == expected
    for enough in range(13):
        found = third_longest_line(text, enough)
        assert found == expected or min(found, expected) >= enough
