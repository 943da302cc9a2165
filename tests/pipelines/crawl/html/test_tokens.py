import numpy as np
import pytest
from html5lib._tokenizer import HTMLTokenizer
from html5lib.constants import tokenTypes
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.crawl.html.elements import look_up_name
from mswitch.pipelines.crawl.html.tokens import (
    ENDS_NAME,
    IS_LETTER,
    find_comment_end,
    find_raw_end,
    find_tag_end,
)


def tags_of(html: str) -> list[tuple[str, int]]:
    """The tags of a page as `<name` and `</name`, and how many attributes each has.

    With a letter after it, so that no tag that has an end ends where the page does.
    """
    utf8 = np.frombuffer(f"{html}x".encode(), np.uint8)
    place, found = 0, []
    while place + 1 < len(utf8):
        start = place + 2 if utf8[place + 1] == ord("/") else place + 1
        if utf8[place] != ord("<"):
            place += 1
        elif start < len(utf8) and IS_LETTER[utf8[start]]:
            stop = start
            while stop < len(utf8) and not ENDS_NAME[utf8[stop]]:
                stop += 1
            name = bytes(utf8[place:stop]).decode().lower()
            place, attributes, _ = find_tag_end(utf8, stop)
            if place < len(utf8):
                found.append((name, attributes))
        elif utf8[place + 1] in b"!?" or (start < len(utf8) and start == place + 2):
            place = find_comment_end(utf8, place)
        else:
            place += 1
    return found


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a < b <3 <p>c</ p><?x y?><!DOCTYPE html></></p >", "<p </p"),
        ("<P CLASS='a>b'><x-Y/><br / ><a =''><a b=c/><a b/>", "<p <x-y <br <a <a <a"),
        ("<!--><!---><!----><!-- > --!><!-- -- >a--><!--!>--><p>", "<p"),
        ("<![CDATA[a>b]]><!-- a", ""),
        ("<p", ""),
        ("</", ""),
    ],
)
def test_tags_of_a_page(html, expected):
    assert " ".join(name for name, _ in tags_of(html)) == expected


@pytest.mark.parametrize(
    ("html", "end"),
    [
        ("a<b>'</scripts>'</SCRIPT\n>c", 16),
        ("<!--<script></script><p></script>", 24),
        ("<!--<script>--></script>", 15),
        ("<!-->'<script>'</script>", 15),
        ("<!-- </script>", 5),
        ("</script", 8),
    ],
)
def test_a_script_ends_where_the_standard_says(html, end):
    utf8 = np.frombuffer(b"<script>" + html.encode(), np.uint8)
    assert find_raw_end(utf8, 8, 1, 7, True) - 8 == end


def test_names_have_no_case_and_are_told_apart():
    def number(name: str) -> int:
        utf8 = np.frombuffer(f"{name}>".encode(), np.uint8)
        return int(look_up_name(utf8, 0, len(name.encode())))

    assert number("BlockQuote") == number("blockquote") != number("blockquota")
    assert number("x-y") == number("blockquota") == number("ſ") == number("divdivdivdivdivdiv")


def standard_tags(html: str) -> list[str]:
    """The same of html5lib, which follows the standard."""
    shown = []
    for token in HTMLTokenizer(html):
        if token["type"] in (tokenTypes["StartTag"], tokenTypes["EmptyTag"]):
            shown.append("<" + token["name"])
        elif token["type"] == tokenTypes["EndTag"]:
            shown.append("</" + token["name"])
    return shown


TAG_NAMES = st.sampled_from(["p", "DIV", "x-y", "h1", "a\0", "foreignObject", "é"])
TAGS = st.builds(
    "<{}{}{}{}".format,
    st.sampled_from(["", "", "/", "!", "?", " "]),
    TAG_NAMES,
    st.text(" \n/=\"'a>b-", max_size=8),
    st.sampled_from([">", ">", "/>", ""]),
)
COMMENTS = st.builds("<!--{}{}".format, st.text("-!> a", max_size=6), st.sampled_from(["-->", ""]))


@given(st.lists(TAGS | COMMENTS | st.text("<>/ab!-", max_size=4), max_size=6).map("".join))
def test_tags_are_those_of_the_standard(html):
    assert [name for name, _ in tags_of(html)] == [
        name.replace("�", "\0") for name in standard_tags(f"{html}x")
    ]


@given(
    st.integers(0, 20),
    st.sampled_from(
        [" a", ' b="c > d"', "/e='f'", " g = h", ' a="\'>"', " a = '\">'", "/a=\n'>>'"]
    ),
)
def test_attributes_are_counted(count, attribute):
    assert tags_of(f"<p x><q{attribute * count}>") == [("<p", 1), ("<q", count)]
