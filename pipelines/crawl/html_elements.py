"""What the HTML standard says of elements: which close others, and which bar the way to them.

Properties of a name are bits of `KINDS`. See the standard, 13.2.4.2, 13.2.4.3 and 13.2.6.
"""

import numpy as np

from pipelines.crawl.html_names import RAW, UNKNOWN, flags_by_name, known

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_CELLS = ("td", "th", "caption")
#: Elements that take no others, and what is there once.
_EMPTY = (
    *RAW,
    *("area", "base", "basefont", "bgsound", "br", "embed", "frame", "hr", "img", "input"),
    *("keygen", "link", "meta", "param", "source", "track", "wbr", "html", "head", "body"),
    "frameset",
)
_FORMATTING = (
    *("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt"),
    "u",
)
_CLOSES_P = (
    *(*_HEADINGS, "address", "article", "aside", "blockquote", "center", "details", "dialog"),
    *("dir", "div", "dl", "fieldset", "figcaption", "figure", "footer", "header", "hgroup", "main"),
    *("menu", "nav", "ol", "p", "search", "section", "summary", "ul", "pre", "listing", "form"),
    *("table", "plaintext", "li", "dd", "dt"),
)
#: Elements that the end tag of an unknown or inline one does not close.
_SPECIAL = (
    *(name for name in _CLOSES_P if name != "dialog"),
    *(*_CELLS, "applet", "button", "marquee", "object", "select", "template", "noscript"),
)
#: Elements whose end tag closes special ones in them.
_ENDS_SPECIAL = (
    *(name for name in _CLOSES_P if name not in ("dialog", "plaintext")),
    *(*_CELLS, "applet", "button", "marquee", "object", "select", "template"),
)
#: Elements of SVG and MathML that hold HTML.
_INTEGRATION = ("desc", "foreignobject", "mi", "mo", "mn", "ms", "mtext", "annotation-xml")
#: Elements through which no end tag reaches.
_BARRIERS = (
    *(*_CELLS, "table", "applet", "marquee", "object", "select", "template"),
    *_INTEGRATION,
)
#: Start tags that end SVG and MathML.
_BREAKOUT = (
    *(*_HEADINGS, "b", "big", "blockquote", "body", "br", "center", "code", "dd", "div", "dl"),
    *("dt", "em", "embed", "head", "hr", "i", "img", "li", "listing", "menu", "meta", "nobr"),
    *("ol", "p", "pre", "ruby", "s", "small", "span", "strong", "strike", "sub", "sup", "table"),
    *("tt", "u", "ul", "var"),
)

# Properties of names; the first three are sets of names that close one another.
IS_HEADING, IS_CELL, IS_ITEM, IS_FOREIGN = 1, 2, 4, 8
IS_EMPTY, IS_FORMATTING, IS_SPECIAL, DOES_END_SPECIAL = 1 << 4, 1 << 5, 1 << 6, 1 << 7
DOES_CLOSE_P, IS_BLOCK, IS_MARKER, IS_INTEGRATION = 1 << 8, 1 << 9, 1 << 10, 1 << 11
DOES_BREAK_OUT, IS_PART_OF_TABLE = 1 << 12, 1 << 13
BARS, BARS_IN_TABLES, BARS_IN_LISTS, BARS_ITEMS = 1 << 14, 1 << 15, 1 << 16, 1 << 17
BARS_TABLES, BARS_PARAGRAPHS, DOES_MAKE_AGAIN = 1 << 18, 1 << 19, 1 << 20
CLOSES_ITEMS, IN_HEAD, IS_IMPLIED = 1 << 21, 1 << 22, 1 << 23
KINDS = flags_by_name(
    {
        IS_HEADING: _HEADINGS,
        IS_CELL: _CELLS,
        IS_ITEM: ("dd", "dt"),
        IS_FOREIGN: ("svg", "math"),
        IS_EMPTY: _EMPTY,
        IS_FORMATTING: _FORMATTING,
        IS_SPECIAL: _SPECIAL,
        DOES_END_SPECIAL: _ENDS_SPECIAL,
        DOES_CLOSE_P: (*_CLOSES_P, "hr", "xmp"),
        # Around these, formatting is not made again.
        IS_BLOCK: (*_CLOSES_P, *_CELLS),
        # Their end forgets the formatting in them.
        IS_MARKER: (*_CELLS, "applet", "marquee", "object", "template"),
        IS_INTEGRATION: _INTEGRATION,
        DOES_BREAK_OUT: _BREAKOUT,
        IS_PART_OF_TABLE: ("tr", "tbody", "thead", "tfoot", "colgroup", "col"),
        BARS: _BARRIERS,
        BARS_IN_TABLES: ("table", "template"),
        BARS_PARAGRAPHS: (*_BARRIERS, "button"),
        IN_HEAD: (
            *("base", "basefont", "bgsound", "head", "html", "link", "meta", "noframes"),
            *("noscript", "script", "style", "template", "title"),
        ),
        IS_IMPLIED: ("dd", "dt", "li", "option", "p", "rb", "rp", "rt", "rtc"),
        CLOSES_ITEMS: ("li", "dd", "dt"),
        # Of those that take no others, which formatting is made again around.
        DOES_MAKE_AGAIN: ("area", "br", "embed", "img", "input", "keygen", "wbr", "xmp"),
        BARS_TABLES: (*_CELLS, "template"),
        BARS_IN_LISTS: (*_BARRIERS, "ol", "ul"),
        BARS_ITEMS: (name for name in _SPECIAL if name not in ("address", "div", "p")),
    }
)
_A, _BUTTON, _LI, _NOBR = known("a"), known("button"), known("li"), known("nobr")
_TABLE, _TEMPLATE = known("table"), known("template")
#: The names in each set: int64 [set, most], -1 where there are fewer.
MEMBERS = np.full((IS_ITEM + 1, len(_HEADINGS)), -1)
for _set in (IS_HEADING, IS_CELL, IS_ITEM):
    _names = np.flatnonzero(KINDS & _set)
    MEMBERS[_set, : len(_names)] = _names


def _closed() -> tuple[np.ndarray, np.ndarray]:
    """Return what start tags and end tags close: int64 [UNKNOWN + 1, 2] each.

    What has their name, or is in a set of names if it is not 0; and what bars the way to it.
    """
    by_start = np.full((UNKNOWN + 1, 2), -1)
    by_end = np.full((UNKNOWN + 1, 2), (0, BARS))
    for name, kind in enumerate(KINDS.tolist()):
        if name == _TEMPLATE:
            by_end[name] = (0, 0)
        elif kind & IS_CELL or name == _TABLE:
            by_end[name] = (0, BARS_IN_TABLES)
        elif kind & IS_HEADING:
            by_end[name] = (IS_HEADING, BARS)
        elif name == _LI:
            by_end[name] = (0, BARS_IN_LISTS)
        elif not kind & (DOES_END_SPECIAL | IS_FORMATTING):
            by_end[name] = (0, IS_SPECIAL | IS_INTEGRATION)
        if name == _LI:
            by_start[name] = (0, BARS_ITEMS)
        elif kind & IS_ITEM:
            by_start[name] = (IS_ITEM, BARS_ITEMS)
        elif kind & (IS_CELL | IS_PART_OF_TABLE):
            by_start[name] = (IS_CELL, BARS_IN_TABLES)
        elif name == _TABLE:
            by_start[name] = (0, BARS_TABLES)
        elif name in (_A, _NOBR, _BUTTON):
            by_start[name] = by_end[name]
    return by_start, by_end


CLOSED_BY_START, CLOSED_BY_END = _closed()
#: What elements close that cannot be in a paragraph.
PARAGRAPH = np.array([0, BARS_PARAGRAPHS])
FORMATTING_NAMES = np.flatnonzero(KINDS & IS_FORMATTING)
