import pytest
from html5lib._tokenizer import HTMLTokenizer
from html5lib.constants import tokenTypes
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.html_names import KNOWN, RAW, UNKNOWN
from pipelines.crawl.html_tokens import (
    COMMENT,
    END,
    SELF_CLOSING,
    START,
    UNFINISHED,
    WITHIN_RAW,
    Markup,
)

KINDS = {START: "", END: "/", COMMENT: "!"}


def tokens_of(html: str) -> list[str]:
    """The tokens of a page, as `<name`, `</name`, `<name /` and `!`; * is within raw text."""
    markup = Markup(html.encode())
    tokens = markup.tokens
    shown = []
    for flag, name, start, stop in zip(
        tokens.flags, tokens.names, tokens.starts, tokens.attributes, strict=True
    ):
        if flag & COMMENT:
            shown.append("!" if not flag & UNFINISHED else "!...")
            continue
        written = bytes(markup.utf8[start:stop]).decode().lower()
        if name < UNKNOWN:
            assert written.strip("</") == KNOWN[name]
        shown.append(
            ("*" if flag & WITHIN_RAW else "")
            + written
            + (" /" if flag & SELF_CLOSING else "")
            + ("..." if flag & UNFINISHED else "")
        )
    return shown


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a < b <3 <p>c</ p><?x y?><!DOCTYPE html></></p >", "<p ! ! ! ! </p"),
        ("<P CLASS='a>b'><x-Y/><br / ><a =''><a b=c/><a b/>", "<p <x-y / <br <a <a <a /"),
        ("<!--><!---><!----><!-- > --!><!-- -- >a--><!--!>-->", "! ! ! ! ! !"),
        ("<![CDATA[a>b]]><!-- a", "! !..."),
        (
            "<title><b></title ><b><!--</b><TITLE></b></titles></title/>",
            "<title *<b </title <b !...",
        ),
        ("<script>a<b>'</scripts>'</script\n>c", "<script *<b </script"),
        ("<script><!--<script></script><p></script><p>", "<script </script <p"),
        ("<script><!--<script>--></script><p>", "<script </script <p"),
        ("<script><!-->'<script>'</script><p>", "<script *<script </script <p"),
        ("<style><!-- </style><p>", "<style </style <p"),
        ("<textarea><p>", "<textarea... *<p"),
        ("<p a='<b>", "<p..."),
        ("<p a=\"<b>' c>", "<p..."),
        ("<p", "<p..."),
        ("</", ""),
        ("<", ""),
        ("", ""),
    ],
)
def test_tokens_of_a_page(html: str, expected: str):
    assert " ".join(tokens_of(html)) == expected


def test_names_are_the_same_in_any_case_and_no_other_is():
    tokens = Markup("<div><DIV><x-y></X-Y><x-z><s><ſ><k>".encode()).tokens
    numbers = tokens.names.tolist()
    assert numbers[0] == numbers[1] == KNOWN.index("div")
    assert numbers[2] == numbers[3]
    assert len({*numbers}) == len(("div", "x-y", "x-z", "s", "k"))
    assert tokens.distinct == UNKNOWN + 1 + len(("x-y", "x-z", "k"))


def standard_tokens(html: str) -> list[str]:
    """The same of html5lib, which follows the standard."""
    shown = []
    for token in HTMLTokenizer(html):
        kind = token["type"]
        if kind in (tokenTypes["StartTag"], tokenTypes["EmptyTag"]):
            shown.append("<" + token["name"])
        elif kind == tokenTypes["EndTag"]:
            shown.append("</" + token["name"])
    return shown


NAMES = st.sampled_from(["p", "DIV", "x-y", "h1", "a\0", "foreignObject", "é"])
TAGS = st.builds(
    "<{}{}{}{}".format,
    st.sampled_from(["", "", "/", "!", "?", " "]),
    NAMES,
    st.text(" \n/=\"'a>b-", max_size=8),
    st.sampled_from([">", ">", "/>", ""]),
)
COMMENTS = st.builds("<!--{}{}".format, st.text("-!> a", max_size=6), st.sampled_from(["-->", ""]))


@given(st.lists(TAGS | COMMENTS | st.text("<>/ab!-", max_size=4), max_size=6).map("".join))
def test_tags_are_those_of_the_standard(html: str):
    assert not any(f"<{name}" in html for name in RAW)
    ours = [one.removesuffix(" /") for one in tokens_of(html) if one[0] == "<"]
    ours = [one for one in ours if not one.endswith("...")]
    assert ours == [one.replace("�", "\0") for one in standard_tokens(html)]


@given(st.integers(0, 20), st.sampled_from([" a", ' b="c > d"', "/e='f'", " g = h"]))
def test_attributes_are_counted(count: int, attribute: str):
    tokens = Markup(f"<p x><q{attribute * count}>".encode()).tokens
    assert tokens.most_attributes == max(1, count)
