import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from pipelines.crawl.html_nesting import nesting_depth

ANY = 1 << 30
NAMES = st.sampled_from(
    (
        *("div", "span", "p", "b", "i", "a", "ul", "li", "dl", "dd", "table", "tr", "td", "th"),
        *("caption", "tbody", "svg", "g", "path", "math", "mi", "desc", "foreignObject", "title"),
        *("script", "style", "textarea", "select", "option", "optgroup", "button", "h1", "h2"),
        *("object", "template", "section", "font", "nobr", "form", "br", "x-y", "noscript", "em"),
        *("iframe", "address", "hr"),
    )
)
PIECES = st.one_of(
    NAMES.map("<{}>".format),
    NAMES.map("<{}>".format),
    NAMES.map("</{}>".format),
    NAMES.map("</{}>".format),
    NAMES.map("<{}/>".format),
    st.builds('<{} a="</{}>">'.format, NAMES, NAMES),
    NAMES.map("<!--</{}>-->".format),
    st.sampled_from(["x", "<!-->", "<!--", "-->", '"', "'", "<![CDATA[", "]]>", '<a =">', "</>"]),
)


def parsed_depth(html: str) -> int:
    deepest, left = 0, [(HTMLTree.parse(html).document, 0)]
    while left:
        node, depth = left.pop()
        deepest = max(deepest, depth)
        child = node.first_child
        while child is not None:
            left.append((child, depth + 1))
            child = child.next
    return deepest


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, max_size=8).map("".join))
def test_what_the_parser_nests_deeply_is_seen(unit: str):
    """A table's cell is one element here, and four there; some wrap the whole page."""
    html = unit * 60
    assert parsed_depth(html) <= 6 * nesting_depth(html.encode(), ANY) + 30


@pytest.mark.parametrize(
    "unit",
    [
        *("<div></div>", "<p>text", "<p><span>text</p>", "<li><div>x</div>", "<dd>x<dt>y"),
        *("<b><i>x</b></i>", "<div><font>x</div></font>", "<div><x-y>z</div>", "<p><b>x"),
        *(
            "<svg><title>a</title><path/></svg>",
            "<svg><script>a()</script></svg>",
            "<h1>a<h2>b</h2>",
        ),
        *("<select><option>a<option>b</select>", "<a href=x>y", '<a title="a > b">c</a>'),
        *("<script>if (a<b) '<div>'</script>", "<!-- <div> -->", "<textarea>a</textarea><br>"),
        *("<DIV></div >", "<div/></div>", "<math><mi>x</mi></math>", "<button>x</button>"),
        "<h1>a<h2>b</h2>",
        "<table><tr><td><p><b>x</table>",
        "<table><tr><td>x<td>y<tr><th><table><td>z</table></table>",
    ],
)
def test_ordinary_markup_does_not_pile_up(unit: str):
    assert nesting_depth((unit * 1000).encode(), ANY) < 20


def test_no_more_is_counted_than_asked_for():
    assert nesting_depth(b"<div>" * 1000, 10) == 11
    assert nesting_depth(b"", 10) == 0
