"""How deeply an HTML parser will nest a page's elements, told in linear time.

Parsing takes time quadratic in that depth. What closes an element follows the HTML standard's tree
construction (13.2.6) as far as it goes here; where that does not tell, an end tag closes nothing,
so that a page may be taken for deeper than it is, and not for less deep.
"""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = rb" \t\n\f\r"
_ATTRIBUTES = (
    rb"""(?:[%b/]++|[^%b/>][^%b/>=]*+(?:[%b]*+=[%b]*+"""
    rb"""(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^%b"'>][^%b>]*+)?+)?+)*+"""
) % ((_SPACE,) * 7)
_ATTRIBUTE = re.compile(
    rb"""[%b/]*+([^%b/>][^%b/>=]*+)(?:[%b]*+=[%b]*+(?:"[^"]*+"?+|'[^']*+'?+|[^%b"'>][^%b>]*+)?+)?+"""
    % ((_SPACE,) * 7)
)
#: A comment, a tag (a value in quotes that lacks its end goes on to that of the page), or what
#: counts as a comment up to the next ">".
_TOKEN = re.compile(
    rb"<(?:!--(?:-?>|.*?(?:--!?>|\Z))"
    rb"|(?P<end>/?)(?P<name>[a-z][^%b/>]*+)(?P<rest>%b)(?:>|\Z)"
    rb"|[!?/][^>]*+)" % (_SPACE, _ATTRIBUTES),
    re.IGNORECASE | re.DOTALL,
)


def _names(written: str) -> frozenset[bytes]:
    return frozenset(written.encode().split())


#: Elements whose content is text up to their end tag.
RAW = _names("script style textarea title xmp iframe noembed noframes")
_RAW_END = {name: re.compile(rb"</%b(?=[%b/>])" % (name, _SPACE), re.IGNORECASE) for name in RAW}
_FOREIGN = _names("svg math")
#: Elements of SVG and MathML that hold HTML.
_INTEGRATION = _names("desc foreignobject mi mo mn ms mtext annotation-xml")
#: Start tags that end SVG and MathML.
_BREAKOUT = _names(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li "
    "listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var font"
)
#: Elements that take no others, and what is there once.
_EMPTY = RAW | _names(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source "
    "track wbr html head body frameset"
)
_PARTS_OF_TABLES = _names("tr tbody thead tfoot colgroup")
_CELLS = _names("td th caption")
FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
_HEADINGS = _names("h1 h2 h3 h4 h5 h6")
_CLOSES_P = _HEADINGS | _names(
    "address article aside blockquote center details dialog dir div dl fieldset figcaption figure "
    "footer header hgroup main menu nav ol p search section summary ul pre listing form table "
    "plaintext li dd dt"
)
#: Elements that the end tag of an unknown or inline one does not close.
_SPECIAL = (
    _CLOSES_P | _CELLS | _names("applet button marquee object select template noscript")
) - _names("dialog")
#: Elements whose end tag closes special ones in them.
_ENDS_SPECIAL = (_CLOSES_P | _CELLS | _names("applet button marquee object template")) - _names(
    "plaintext"
)
_WITHIN_ITEMS = _names("address div p")
#: Elements through which no end tag reaches.
_BARRIERS = _CELLS | _names("table applet marquee object select template") | _INTEGRATION
_OF_TABLES = _names("table template")
_OF_ITEMS = _BARRIERS | _names("ol ul")
#: Elements whose end forgets the formatting in them.
_MARKERS = _CELLS | _names("applet marquee object template")
_FONT_BREAKOUT = _names("color face size")
#: Around these, formatting is not made again.
_BLOCKS = _CLOSES_P | _CELLS
#: Of equal formatting elements no more are made again.
MOST_EQUAL = 3
#: So far an element is looked for among those that are open; what is further is not found.
_REACH = 200


HTML, FOREIGN, UNSURE = range(3)


class Tag(NamedTuple):
    """A start or end tag.

    Attributes:
        end: whether it is an end tag.
        name: in lower case.
        rest: its attributes.
        kind: HTML, FOREIGN (of SVG or MathML), or UNSURE which of them, or whether it is a tag.
        after_text: whether text comes before it.
    """

    end: bool
    name: bytes
    rest: bytes
    kind: int
    after_text: bool = False


def tags_of(html: bytes) -> Iterator[Tag]:
    """Yield the tags that a parser sees; of those in doubt start tags alone.

    In doubt is what comes in elements such as `title`, which are no text in some places, and all
    after something that a raw element within SVG, whose scripts are markup, may have left open.
    """
    position = 0
    foreign: list[bytes] = []  # the roots that are open
    certain, holds_html, text = True, False, False
    while token := _TOKEN.search(html, position):
        text |= token.start() > position
        position = token.end()
        name = token["name"]
        if name is None:
            # Within SVG it goes on to "]]>".
            certain &= not (bool(foreign) and token[0].startswith(b"<![CDATA["))
            continue
        name, end, rest = name.lower(), bool(token["end"]), token["rest"]
        if certain or not end:
            unsure = holds_html or not certain
            kind = HTML if not foreign else UNSURE if unsure else FOREIGN
            yield Tag(end, name, rest, kind, text)
            text = False
        if name in _FOREIGN:
            if not end and not rest.endswith(b"/"):
                foreign.append(name)
            elif end and foreign[-1:] == [name] and not holds_html:
                foreign.pop()
        elif foreign and name in _INTEGRATION and not end:
            closing = b"</%b" % name
            after = html.find(b"<", position)
            holds_html |= html[after : after + len(closing)].lower() != closing
        elif foreign and breaks_out(end, name, rest) and not holds_html:
            foreign.clear()
        if name in RAW and not end:
            stop = _RAW_END[name].search(html, position)
            content = html[position : stop.start() if stop else len(html)]
            position += len(content)
            if b"<" in content and (foreign or name != b"script"):
                yield from _doubtful_tags(content)
                certain &= not bool(foreign)


def _doubtful_tags(content: bytes) -> Iterator[Tag]:
    for token in _TOKEN.finditer(content):
        if token["name"] and not token["end"]:
            yield Tag(False, token["name"].lower(), token["rest"], UNSURE)


def breaks_out(end: bool, name: bytes, rest: bytes) -> bool:
    """Tell whether a tag ends SVG and MathML."""
    if end:
        return name in (b"p", b"br")
    if name != b"font":
        return name in _BREAKOUT
    return any(match[1].lower() in _FONT_BREAKOUT for match in _ATTRIBUTE.finditer(rest))


def nesting_depth(html: bytes, most: int) -> int:
    """Return how deeply elements nest, at least; no more than `most` + 1 is counted.

    Time is linear in the page where few elements are made again (`html_formatting`).
    """
    opened = _Open()
    deepest = 0
    for tag in tags_of(html):
        if tag.kind == FOREIGN and breaks_out(tag.end, tag.name, tag.rest):
            opened.leave_foreign()
            tag = tag._replace(kind=HTML)  # noqa: PLW2901
        if tag.after_text and tag.kind != FOREIGN:
            opened.make_again()
        if tag.end:
            opened.end(tag.name)
        elif tag.name in _FOREIGN:
            if not tag.rest.endswith(b"/"):
                opened.push(tag)
        elif tag.kind == HTML:
            opened.start(tag)
        elif tag.kind == UNSURE or not tag.rest.endswith(b"/"):
            opened.push(tag)
        deepest = max(deepest, opened.depth())
        if deepest > most:
            break
    return deepest


class _Open:
    """The elements that are open, by their start tags."""

    def __init__(self) -> None:
        self.tags: list[Tag] = []
        self._count: collections.Counter[bytes] = collections.Counter()
        #: Formatting that was closed with what it was in, and how many markers were open.
        self._again: list[tuple[Tag, int]] = []
        self._named_again: collections.Counter[bytes] = collections.Counter()
        self._markers = 0

    def depth(self) -> int:
        """Return how many elements are open, with those that are made again."""
        return len(self.tags) + len(self._again)

    def push(self, tag: Tag) -> None:
        """Open an element; formatting is made again around it if it is no block."""
        if tag.kind == HTML and tag.name not in _BLOCKS:
            self.make_again()
        self.tags.append(tag)
        self._count[tag.name] += 1
        self._markers += tag.name in _MARKERS

    def make_again(self) -> None:
        """Make formatting again that was closed with what it was in."""
        if again := self._again:
            self._remember([])
            for tag, _ in again:
                self.push(tag)

    def _remember(self, again: list[tuple[Tag, int]]) -> None:
        self._again = again
        self._named_again = collections.Counter(tag.name for tag, _ in again)

    def start(self, tag: Tag) -> None:
        """Open an element of HTML, and close those that it cannot be in."""
        name = tag.name
        if name in _EMPTY:
            return
        if name in _CLOSES_P:
            self._close((b"p",), _SPECIAL)
        if name in _HEADINGS and self.tags and self.tags[-1].name in _HEADINGS:
            self._cut(len(self.tags) - 1)
        elif name == b"li":
            self._close((b"li",), _SPECIAL - _WITHIN_ITEMS)
        elif name in (b"dd", b"dt"):
            self._close((b"dd", b"dt"), _SPECIAL - _WITHIN_ITEMS)
        elif name in (b"a", b"nobr", b"button"):
            self.end(name)
        elif name in (b"option", b"optgroup"):
            if self.tags and self.tags[-1].name == b"option":
                self._cut(len(self.tags) - 1)
        elif name in _CELLS or name in _PARTS_OF_TABLES:
            if not self._count[b"table"] and not self._count[b"template"]:
                return
            self._close(tuple(_CELLS), _OF_TABLES)
            if name in _PARTS_OF_TABLES:
                return
        self.push(tag)

    def end(self, name: bytes) -> None:
        """Close what an end tag closes."""
        names, barriers = (name,), _BARRIERS
        if name in _CELLS or name == b"table":
            barriers = _OF_TABLES
        elif name in _HEADINGS:
            names = tuple(_HEADINGS)
        elif name == b"li":
            barriers = _OF_ITEMS
        elif name not in _ENDS_SPECIAL and name not in FORMATTING:
            barriers = _SPECIAL | _INTEGRATION
        self._close(names, barriers)

    def leave_foreign(self) -> None:
        """Close SVG or MathML."""
        self._close(tuple(_FOREIGN), frozenset())

    def _close(self, names: tuple[bytes, ...], barriers: frozenset[bytes]) -> None:
        """Close the innermost element of some names with all in it, unless it is out of reach."""
        if not any(self._count[name] for name in names):
            if any(self._named_again[name] for name in names):
                place = next(i for i, (tag, _) in enumerate(self._again) if tag.name in names)
                self._remember([*self._again[:place], *self._again[place + 1 :]])
            return
        last = len(self.tags) - 1
        special = False
        for place in range(last, max(-1, last - _REACH), -1):
            name, kind = self.tags[place].name, self.tags[place].kind
            if name in names and kind != UNSURE:
                if (name in FORMATTING and special) or (name == b"form" and place < last):
                    # What is in it stays.
                    del self.tags[place]
                    self._count[name] -= 1
                else:
                    self._cut(place)
                return
            # An element of SVG is none of HTML's that has its name.
            if name in barriers and (kind == UNSURE or (kind == FOREIGN) == (name in _INTEGRATION)):
                return
            special |= name in _SPECIAL and kind != FOREIGN

    def _cut(self, place: int) -> None:
        """Close an element and all in it, of which formatting is made again."""
        closed = self.tags[place:]
        del self.tags[place:]
        for tag in closed:
            self._count[tag.name] -= 1
            self._markers -= tag.name in _MARKERS
        if closed[0].name in _MARKERS:
            self._remember([item for item in self._again if item[1] <= self._markers])
            return
        if len(closed) == 1:
            return
        equal = collections.Counter((tag.name, tag.rest) for tag, _ in self._again)
        for tag in closed[1:]:
            if tag.name in FORMATTING and tag.kind == HTML:
                equal[tag.name, tag.rest] += 1
                if equal[tag.name, tag.rest] <= MOST_EQUAL:
                    self._again.append((tag, self._markers))
                    self._named_again[tag.name] += 1
