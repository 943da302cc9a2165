import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.html_blocks import Blocks, find_blocks
from pipelines.crawl.html_text import html_to_text
from pipelines.crawl.html_tokens import Markup
from pipelines.crawl.text_lines import normalize_lines


def blocks_of(page: str) -> Blocks | None:
    return find_blocks(Markup(page.encode()))


def lengths(page: str) -> list[int]:
    """The lengths of the blocks that hold anything."""
    blocks = blocks_of(page)
    assert blocks is not None
    return [length for length in blocks.lengths.tolist() if length]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("", []),
        ("plain", [5]),
        ("<p>one<p>three</p>", [3, 5]),
        ("<P CLASS=a>one</P\n><DIV\n>three<br/>12", [3, 5, 2]),
        ("a<b>b</b><span>c</span><i>d</i>", [4]),
        ("one<nav>two</nav><aside>three</aside>", [11]),
        ("<p>a  \n\t b</p>", [3]),
        ("<p>жизнь 汉语</p>", [8]),
        ("<p>1 < 2 and 3 <4</p>", [14]),
        ("<paragraph>a<p-x>b<pre2>c<h7>d", [4]),
        ("<p>a<script>if (a<b) '<p>long long'</script>b<style>p>a{}</style>c", [3]),
        ("<script>1</style>2</SCRIPT >ab", [2]),
        ("<p>a<!-- <p>x</p> --><!-->b<!-- > -->c", [3]),
        ("<!-- <script> -->text<!-- </script> -->", [4]),
        ("<script><!--</script>text", [4]),
        ("ab<a alt='<p>'>c</a><a alt='<script>'>d</a>", [4]),
        ("<b title='>'>a<b title=\"<i>a</i><p>\">b", [2]),
        ("<script>'<script></script>'</script>", [1]),
        ("<script><!--<script></script><p>a</script>b", [1]),
        ("<tr><td>ab<td>cd", [8]),
        ("<script>if (a <b) c</script>text", [4]),
        ("a<blockquote>b</blockquote>c", [1, 2]),
        ("<p>a<!-- --!>b</!-- c>d<p>", [3]),
        ("<tr>a<tr>b<table><tr>cc<tr>d</table><tr>e", [2, 2, 2]),
        ("a<noscript><p>b</noscript>c<button><p>d</button>", [4]),
        ("<title><script></title>text<svg><p>a</svg>b", [14]),
        ("ab<a href='never closed", [2]),
        ("ab<", [3]),
        ("&amp;&lt;b&gt;&nbsp;&#8211; &#160;&#39;", [9]),
        ("<xmp>&amp;</xmp>&amp;", [6]),
        ("&AMP; &amp &foo; &; &#; &#x2d; &amplt;", [38]),
    ],
)
def test_blocks_of_a_page(html: str, expected: list[int]):
    assert lengths(html) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a<pre>bcd\nef</pre>\ng<p>h", [1, 3, 5, 1]),
        ("<pre>a  b\r\n<b>c\n\n</b>dd<span\nid=a>\n</span></pre>", [5, 2, 1, 3, 1]),
        ("<pre>a<!--\n-->b<!-- --!>\nc</pre>", [2, 2]),
        ("<pre>a<script></pre>\n</script><b>b</b></pre>c", [3]),
        ("<pre>a<br>b<br\n>c<pre>d\ne</pre>", [1, 1, 1, 1, 2]),
        ("<p>a<pre>bbb</pre>c\nd</p>e\nf<pre>g\nh</pre>", [1, 9, 1, 2]),
    ],
)
def test_lines_of_a_pre_are_blocks(html: str, expected: list[int]):
    assert lengths(html) == expected


LINES = "abcde fghij\n" * 3
ODD_IN_PRE = (
    *("<hr>", "<img src=a>", "<p>", "</p>", "</div>", "<table>", "<td>", "<x@y.z>", "<?php ?>"),
    *("<label>a</label>", "<script>1</script>", "<button>\n</button>", "<noscript>\n</noscript>"),
    *("<nav>", "<pre>b</pre>", "<object></pre></object>", "<a </pre>", "</ \n>", "</*\n*/>"),
)


def long_lines(page: str, limit: int) -> tuple[int, int]:
    """How many lines of a page have `limit` characters, and how many could, by its blocks."""
    text = html_to_text(page, main_content=False)
    lines = normalize_lines(text.encode(), False).decode().split("\n")
    blocks = blocks_of(page)
    found = len(lines) if blocks is None else blocks.long_lines([limit])[0]
    return sum(len(line) >= limit for line in lines), found


@pytest.mark.parametrize("limit", [5, 11, 20])
@pytest.mark.parametrize("odd", ODD_IN_PRE)
def test_no_line_of_a_pre_is_missed_whatever_is_in_it(odd: str, limit: int):
    for page in (
        f"<div><pre>{odd}{LINES}</pre>",
        f"<pre>{LINES}{odd}{LINES}</pre>\n{LINES}<p>",
        "".join(f"<pre>{line}{odd}{line}</pre>" for line in LINES.split("\n")),
    ):
        there, found = long_lines(page, limit)
        assert found >= there


@pytest.mark.parametrize("end", ["\r", "&#10;", "</br>", "<br/>"])
def test_lines_of_a_pre_that_end_otherwise_are_counted(end: str):
    there, found = long_lines(f"<pre>{LINES.replace(chr(10), end)}</pre>", 11)
    assert found >= there == 3


@pytest.mark.parametrize(
    "html",
    [
        "<!-- <p>text",
        "<style>p{}",
        "<title>",
        "<svg><p>",
        "<pre></pre>",
        "<PRE\n>\r\n</p></PRE>",
        "<svg><svg></svg>a</svg>",
        "<svg><style/></svg>",
        "<script><!--<script></script>",
    ],
)
def test_what_may_not_end_where_it_seems_to_makes_its_page_doubtful(html: str):
    sound = "<p title='ab' lang=\"de\">text</p><!-- it's --><script>'\"</script>"
    assert blocks_of(sound) is not None
    assert blocks_of(sound + html) is None


@pytest.mark.parametrize(
    "html",
    [
        '<a title="l\'altre" href=x>b</a>',
        "<a title='12\"'>b</a>",
        "<a it's>b</a>",
        "<a b=c'd>e</a>",
        "<svg><title>a</title></svg>",
        "<noscript><!-- a --></noscript>",
        "<!-- <script></script> -->",
    ],
)
def test_what_ends_where_it_seems_to_leaves_no_doubt(html: str):
    assert blocks_of(html) is not None


@pytest.mark.timeout(60)  # in quadratic time, hours
@pytest.mark.parametrize(
    "piece", ['<a ="" =">', '<a<a<a ">', "<a b='>", "<svg><svg></svg>", "<!--"]
)
def test_hostile_pages_take_time_that_grows_as_they_do(piece: str):
    blocks_of((piece * (1 << 20))[: 1 << 20])


INLINE = ("a", "b", "em", "span", "code", "x-y")
FLOW = ("div", "section", "article", "header", "main", "form", "blockquote", "center", "details")
LEAVES = ("p", "h1", "h6", "pre", "address")
ATTRIBUTES = ("", "", " class=c", ' title="a > b"', " alt='<p>'", "\n")


WORDS = st.sampled_from((*"ab жи汉語 \n\t'=/!-", "&amp;", "&lt", "&#65;", "&#;", "&nbsp;", "&a;"))


@st.composite
def html(draw: st.DrawFn, depth: int = 0, in_list: bool = False) -> str:
    """Well-formed flow content of elements that are shown.

    Without tables in lists: extraction indents each of their cells.
    """
    parts: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        text = draw(st.lists(WORDS, max_size=20).map("".join))
        kind = draw(st.integers(0, 7 if depth < 4 else 4))
        tag = {3: INLINE, 4: LEAVES}.get(kind, FLOW)
        name = draw(st.sampled_from(tag))
        opening = f"<{name}{draw(st.sampled_from(ATTRIBUTES))}>"
        if kind < 2:
            parts.append(text)
        elif kind == 2:
            parts.append(
                draw(st.sampled_from(("<br>", "<hr>", "&amp;", "<!-- <p>a -->", "</p>", "&#65;")))
            )
            parts.append(draw(st.sampled_from(("<script>a<p>b</script>", "</div>", "<wbr>"))))
        elif kind < 5:
            parts.append(f"{opening}{text}</{name}>")
        elif kind == 5:
            parts.append(
                f"<ol>{''.join(f'<li>{draw(html(depth + 1, True))}' for _ in range(2))}</ol>"
            )
        elif kind == 6 and not in_list:
            cells = "".join(f"<td>{draw(html(depth + 1))}</td>" for _ in range(2))
            parts.append(f"<table><tr>{cells}<tr>{cells}</table>")
        else:
            parts.append(f"{opening}{draw(html(depth + 1, in_list))}</{name}>")
    return "".join(parts)


@given(html(), st.integers(2, 20))
def test_a_page_has_no_more_long_lines_than_its_blocks_say(page: str, limit: int):
    there, found = long_lines(page, limit)
    assert there <= found


@pytest.mark.parametrize(
    "piece", ["<a", "<!--", "<!---->", "<script>", "<p>", "<", ">", "<pre>\n", "\n"]
)
def test_hostile_pages_take_no_more_memory_than_said(piece: str):
    page = ("<pre>" + piece * (1 << 18))[: 1 << 18]
    blocks_of(page)
    tracemalloc.start()
    blocks_of(page)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(page)
