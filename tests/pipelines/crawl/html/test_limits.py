import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from mswitch.pipelines.crawl.html.limits import MAX_COST, bound_parser_cost

NAMES = st.sampled_from(
    (
        *("div", "span", "p", "b", "i", "a", "ul", "li", "dl", "dd", "table", "tr", "td", "th"),
        *("caption", "tbody", "svg", "g", "path", "math", "mi", "desc", "foreignObject", "title"),
        *("script", "style", "textarea", "select", "option", "optgroup", "button", "h1", "h2"),
        *("object", "template", "section", "font", "nobr", "form", "br", "x-y", "noscript", "em"),
        *("iframe", "address", "hr", "img", "input", "embed", "xmp", "col", "colgroup", "marquee"),
        *("ruby", "rt", "image", "body", "head", "frameset", "plaintext", "details", "link"),
    )
)
PIECES = st.one_of(
    NAMES.map("<{}>".format),
    NAMES.map("<{}>".format),
    NAMES.map("</{}>".format),
    NAMES.map("</{}>".format),
    NAMES.map("<{}/>".format),
    NAMES.map(lambda name: f"<{name}>" * 12),
    NAMES.map(lambda name: f"</{name}>" * 12),
    NAMES.map("<{} id=%d>".format),
    st.builds('<{} a="</{}>">'.format, NAMES, NAMES),
    NAMES.map("<!--</{}>-->".format),
    st.sampled_from(
        ["x", "<!-->", "<!--", "-->", '"', "'", "<![CDATA[", "]]>", '<a =">', "</>", "<!--<script>"]
    ),
)


def is_refused(html: str) -> bool:
    cost = bound_parser_cost(html.encode())
    return cost.ambiguous or max(cost.elements, cost.attributes) > MAX_COST


def parsed(html: str) -> tuple[int, int]:
    """How many nodes the parser makes, and the sum of their depths."""
    count, depths, left = 0, 0, [(HTMLTree.parse(html).document, 0)]
    while left:
        node, depth = left.pop()
        count, depths = count + 1, depths + depth
        child = node.first_child
        while child is not None:
            left.append((child, depth + 1))
            child = child.next
    return count, depths


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
@example("", 0, "<svg><br><x-y></svg>")
@example("", 0, "<svg><a></svg><x-y/>")
@example("<table><td>", 0, "<svg><desc><td></td></desc><x-y/>")
@example("", 0, "<g><svg></g><x-y/>")
@example("<math>", 0, "<caption>" * 12)
@example("<math>", 0, "<col>")
@example("", 0, "<frameset>" * 12 + "<style/>x")
@example("", 0, "<section><div></section>" + "<span>" * 12 + "<p></div>" + "</span>" * 12)
def test_the_parser_does_no_more_than_is_told(before, formatting, unit):
    """A table's cell is one element here, and four there; some wrap the whole page."""
    html = before + "".join(f"<b id={i}>" for i in range(formatting))
    html += "".join(unit.replace("%d", str(number)) for number in range(40))
    cost = bound_parser_cost(html.encode())
    if cost.ambiguous or cost.elements > MAX_COST:
        return
    nodes, depths = parsed(html)
    # Of an element and the text after it, each is half a token.
    assert 25 * nodes + depths <= 3 * (cost.elements + 2_000)


LEFT_OPEN = "<p>" + "".join(f"<b id={i}>" for i in range(1500))
BLOCKS = "<p>x" * 3000


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 10_000,
        *("<div>" * 10_000 + "</div>" * 10_000, "<div x='</div>'>" * 10_000),
        *("<div><!-- </div> -->" * 10_000, "<div><title></div></title>" * 10_000),
        *("<div></p></span>" * 10_000, "<b</b>" * 20_000, "<optgroup>" * 20_000 + "x"),
        LEFT_OPEN.replace("<b", "<p x='</b>'><b") + BLOCKS,
        LEFT_OPEN + BLOCKS,
        LEFT_OPEN + "<table><td>" + "</b>" * 1500 + "</table>" + BLOCKS,
        LEFT_OPEN + "<!--" + "</b>" * 1500 + "-->" + BLOCKS,
        LEFT_OPEN.replace("id=", "id='>'i") + BLOCKS,
        "<x-y><div>" + "<span>" * 4000 + "</x-y>" * 100_000,
        "<p><b><i><u><s><tt><em>" * 3 + "<p>x" * 20_000,
        "<div " + "/".join(f"a{i}='>'" for i in range(25_000)),
        "<div>" * 2_500 + "<b>x</b> " * 20_000,  # no deeper than many pages, and 2.5 s
        "<span>" * 10_000 + "</x>" * 10_000,
        "<p>" + "".join(f"<b id={i}>" for i in range(300)) + "<p>x" * 3_000,
        "<b>" * 20_000 + "x",
        "<b><p>" * 20_000,
        "<a><div>" * 20_000,
        "<table><td>" * 10_000,
        "<ul><li>" * 10_000,
        "<select><div>" * 10_000,
        "<svg>" + "<g>" * 10_000,
        "<math><mi>" * 10_000,
        "<template>" * 10_000,
        "<form><div>" * 10_000 + "</form>" * 10_000,
        # A page has one body, which gets the attributes of each: 4.9 s.
        "".join(f"<body a{i}=1>" for i in range(45_000)),
        "".join(f"<html a{i}=1>" for i in range(45_000)),
        # Attributes of formatting are made again too: 3.8 s for 85 kB.
        "<p>"
        + "".join(f"<font {' '.join(f'a{i}=1' for i in range(1000))} z={z}>" for z in range(10))
        + "</p>"
        + "<p>x</p>" * 2_000,
        # And compared with those of all other formatting: over a minute.
        "".join(f"<font {' '.join(f'a{i}=1' for i in range(600))} z={z}>" for z in range(200)),
        "<p " + "a " * 25_000 + ">",
        "<select>" + "<option selected>x</option>" * 10_000,
    ],
)
def test_what_takes_the_parser_seconds_is_refused(html):
    assert is_refused(html)


@pytest.mark.parametrize(
    "unit",
    [
        *("<div></div>", "<p>text", "<p><span>text</span>", "<li><div>x</div>", "<dd>x<dt>y"),
        *("<a name=x>y</a><p>z", "<b><i>x</i></b>", "<font size=2>x</font><br>", "<img src=x><hr>"),
        *("<svg><title>a</title><path/></svg>", "<svg><desc>a</desc><g><path></g></svg>"),
        *("<svg><script>a()</script></svg>", "<svg><a><image/></a></svg>", "<svg><g></svg><p>x"),
        *("<h1>a<h2>b</h2>", "<select><option>a<option>b</select>", '<a title="a > b">c</a>'),
        *("<script>if (a<b) '<div>'</script>", "<!-- <div> -->", "<textarea><b></textarea><br>"),
        *("<DIV></div >", "<math><mi>x</mi></math>", "<button>x</button>", "<div><p>x</div>"),
        "<table><tr><td><p>x<td>y<tr><th><table><td>z</table></table>",
        "<ul><li><a href=x>y</a><ul><li>z</ul></ul>",
        "<dl><dt>a<dd><p>b</dl>",
    ],
)
def test_ordinary_markup_does_not_pile_up(unit):
    cost = bound_parser_cost((unit * 300).encode())
    assert not cost.ambiguous
    assert cost.elements <= 250 * 300 * unit.count("<")


@pytest.mark.parametrize(
    "prefix",
    [
        '<svg><![CDATA[ > <z w=" ]]>',
        '<svg><style><!-- </style><z w="-->',
        '<svg><title><x y="</title><z w=">',
        '<svg><desc><p></svg></desc><style><a></style><![CDATA[ > <z w=" ]]>',
        '<svg></math><![CDATA[ > <z w=" ]]>',
        '<math></svg><style><!-- </style><z w="-->',
        '<frameset><style><z w="</style><z w=">',
    ],
)
@pytest.mark.parametrize(
    "hidden",
    [
        "<div>" * 6000,
        "".join(f"<p><b id={number}>x" for number in range(800)),
        f"<p {'a ' * 25_000}>",
    ],
)
def test_a_page_that_may_hide_tags_is_refused(prefix, hidden):
    for html in (f'{prefix}{hidden}">', f'{prefix}<q ">{hidden}'):
        assert is_refused(html)


def test_ordinary_svg_leaves_no_doubt():
    style = "<style><![CDATA[ a > b { } ]]></style><![CDATA[ x ]]><title>x</title>"
    html = f"<svg>{style}<path/></svg><script>'<div>'</script>"
    assert not is_refused(html)
    assert not is_refused("<script>'<svg><style><b></style>'</script>")


@pytest.mark.timeout(60)  # in quadratic time, hours
@pytest.mark.parametrize(
    "piece",
    [
        *('<a ="" =">', '<a<a<a ">', "<a b='>", "<svg><svg></svg>", "<!--", "<", "</", "<script>"),
        *("<svg><style>", "<!DOCTYPE", "<title></titl", "<script><!--<script>", "<p a='"),
        *(f"<b {'x' * 200}>", f"<{'x' * 1000}>", f"</{'x' * 1000}>"),
    ],
)
def test_hostile_pages_are_told_in_time_that_grows_as_they_do(piece):
    bound_parser_cost((piece * ((8 << 20) // len(piece))).encode())
