import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from pipelines.crawl.html_elements import FORMATTING_NAMES
from pipelines.crawl.html_names import KNOWN
from pipelines.crawl.html_nesting import Nesting, may_exceed, nesting
from pipelines.crawl.html_tokens import START, Markup

FORMATTING = {KNOWN[name] for name in FORMATTING_NAMES}
ANY = Nesting(1 << 30, 1 << 30, 1 << 30)
NAMES = st.sampled_from(
    (
        *("div", "span", "p", "b", "i", "a", "ul", "li", "dl", "dd", "table", "tr", "td", "th"),
        *("caption", "tbody", "svg", "g", "path", "math", "mi", "desc", "foreignObject", "title"),
        *("script", "style", "textarea", "select", "option", "optgroup", "button", "h1", "h2"),
        *("object", "template", "section", "font", "nobr", "form", "br", "x-y", "noscript", "em"),
        *("iframe", "address", "hr", "img", "input", "embed", "xmp", "col", "marquee"),
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
    st.sampled_from(
        ["x", "<!-->", "<!--", "-->", '"', "'", "<![CDATA[", "]]>", '<a =">', "</>", "<!--<script>"]
    ),
)


def nesting_of(html: str, limits: Nesting = ANY) -> Nesting:
    return nesting(Markup(html.encode()), limits)


def parsed_names(html: str) -> list[str]:
    """The names of the elements that the parser makes."""
    names, left = [], [HTMLTree.parse(html).document]
    while left:
        node = left.pop()
        names.append(node.tag)
        child = node.first_child
        while child is not None:
            left.append(child)
            child = child.next
    return names


def parsed(html: str) -> tuple[int, int]:
    """How deeply the parser nests, and how many nodes it makes."""
    deepest, count, left = 0, 0, [(HTMLTree.parse(html).document, 0)]
    while left:
        node, depth = left.pop()
        deepest, count = max(deepest, depth), count + 1
        child = node.first_child
        while child is not None:
            left.append((child, depth + 1))
            child = child.next
    return deepest, count


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(PIECES, max_size=2).map("".join),
    st.sampled_from([0, 0, 40]),
    st.lists(PIECES, max_size=8).map("".join),
)
@example("", 0, "<p>x<br><hr>")
@example("", 0, "<g><p></ul><hr>")
@example("", 0, '<a><noscript><li><p>"')
@example("", 0, "<svg></x-y><section/><x-y><button>")
@example("", 0, "<noscript/><svg></option></noscript>")
@example("<template>", 0, "<caption><marquee></template><dl><x-y>")
@example("", 0, "<math><![CDATA[</mi><embed>x<li>]]>")
@example("<xmp>", 0, "<math><table></table><section><!--</xmp>--><font><caption>")
@example("<select>", 0, "<dd><hr><x-y>")
@example("", 0, "<img></table><td><a><table><col><object>")
@example("", 0, "<svg/><table/><x-y><nobr></table>")
@example("<table>", 40, "<table><tbody><i><div>x")
@example("<table>", 40, "<tr></br></dd>")
@example("<table>", 40, "<x-y><font><col><dl>")
@example("<p>", 40, "x<p></script><noscript><a><nobr>")
@example("<dd>", 40, "<mi><dd><svg><a><optgroup>")
@example("<p>", 40, "<form><li>x")
@example("<table>", 40, "x<th></tbody><li>")
@example("<select>", 40, "<ul><select></math><table></a>")
@example("<svg><svg></svg>", 0, "<a>")
@example("<svg><svg><b><math></svg>", 0, "<a>")
def test_what_the_parser_does_is_seen(before: str, formatting: int, unit: str):
    """A table's cell is one element here, and four there; some wrap the whole page."""
    html = before + "".join(f"<b id={i}>" for i in range(formatting)) + unit * 60
    markup = Markup(html.encode())
    depth, nodes = parsed(html)
    found = nesting(markup, ANY)
    assert depth <= 6 * found.depth + 30
    # Text and comments within SVG are nodes too.
    assert nodes <= 6 * (len(markup.tokens.flags) + found.made_again) + len(html) / 6 + 100


@given(st.lists(PIECES, max_size=30).map("".join))
def test_the_quick_look_is_never_less(html: str):
    markup = Markup(html.encode())
    found = nesting(markup, ANY)
    for name, number in found._asdict().items():
        if number:
            assert may_exceed(markup, ANY._replace(**{name: number - 1}))


@given(st.lists(PIECES, max_size=8).map("".join), st.sampled_from([1, 5, 60]))
@example("<p><b>x</p>", 60)
@example("<span><b></span>x</b>", 60)
@example("<a><code>x</a></code>", 60)
def test_formatting_that_the_parser_makes_again_is_seen_at_once(unit: str, times: int):
    markup = Markup((unit * times).encode())
    tokens = zip(markup.tokens.flags, markup.tokens.names, strict=True)
    starts = sum(bool(flag & START) and name in FORMATTING_NAMES for flag, name in tokens)
    made_again = sum(name in FORMATTING for name in parsed_names(unit * times)) - starts
    assert made_again <= 0 or may_exceed(markup, ANY._replace(made_again=made_again - 1))


@pytest.mark.parametrize(
    "prefix",
    [
        '<svg><![CDATA[ > <z w=" ]]>',
        '<svg><style><!-- </style><z w="-->',
        '<svg><title><x y="</title><z w=">',
        '<svg><desc><p></svg></desc><style><a></style><![CDATA[ > <z w=" ]]>',
        '<svg></math><![CDATA[ > <z w=" ]]>',
        '<math></svg><style><!-- </style><z w="-->',
    ],
)
@pytest.mark.parametrize(
    "hidden",
    [
        "<div>" * 6000,
        "".join(f"<p><b id={number}>x" for number in range(800)),
        f"<p {'a ' * 6000}>",
    ],
)
def test_tags_hidden_where_svg_reads_otherwise_are_counted(prefix: str, hidden: str):
    limits = Nesting(5_000, 200_000, 200_000_000)
    for html in (f'{prefix}{hidden}">', f'{prefix}<q ">{hidden}'):
        markup = Markup(html.encode())
        assert may_exceed(markup, limits)
        assert nesting(markup, limits).exceeds(limits)


def test_ordinary_svg_is_read_alike():
    style = "<style><![CDATA[ a > b { } ]]></style><![CDATA[ x ]]><title>x</title>"
    html = f"<svg>{style}<path/></svg><script>'<div>'</script>".encode()
    assert not may_exceed(Markup(html), Nesting(100, 100, 1000))


@pytest.mark.parametrize("unit", ["<p><b>x", "<p><a href=x>y</p>", "<td><i>x</td>"])
def test_most_pages_need_no_second_look(unit: str):
    limits = ANY._replace(made_again=200_000)
    assert may_exceed(Markup(unit.encode() * 1000), limits)
    closed = '<p><a href=x><b>y</b><br></a><code><span class="x">z</span></code></p>'
    assert not may_exceed(Markup(closed.encode() * 1000), limits)


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
    assert nesting_of(unit * 1000).depth < 20


def test_no_more_is_counted_than_asked_for():
    limits = Nesting(10, 20, 30)
    assert nesting_of("<div>" * 1000, limits).depth == 11
    assert nesting_of("<p><b><i>x" + "<p>x" * 1000, limits).made_again == 20
    assert nesting_of("", limits) == (0, 0, 0)
