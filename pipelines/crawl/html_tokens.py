"""The tags and comments of HTML, found as the tokenizer of the HTML standard does (13.2.5).

Time is linear in the page, whoever wrote it. No elements are built, and what depends on them is
left to who reads the tokens: within SVG a script is markup, so tags in what is a script, a title
or the like elsewhere are given too, and marked.
"""

import functools
from typing import NamedTuple

import numpy as np

from pipelines.compiled import compiled, random_seed, table_size
from pipelines.crawl.html_names import (
    BOUNDS,
    LETTERS,
    RAW,
    UNKNOWN,
    known,
    known_number,
    other_number,
    same_name,
)

#: What a token is.
START, END, COMMENT = 1, 2, 4
#: What else is to be said of it.
SELF_CLOSING, WITHIN_RAW, UNFINISHED, CDATA, LEAVES_FOREIGN = 8, 16, 32, 64, 128


class Tokens(NamedTuple):
    """The tags and comments of a page, in order.

    Attributes:
        flags: uint8 [tokens]. START, END or COMMENT, which may begin with `<!`, `<?` and `</`
            too. SELF_CLOSING: ends with "/>". WITHIN_RAW: a start tag within a script, a title
            and their like. UNFINISHED: the page ends before it does, or, of the start tag of such
            an element, before its end tag. CDATA: no comment within SVG. LEAVES_FOREIGN: a
            font that ends SVG.
        names: int32 [tokens] a number for each name in any case: of those in `KNOWN` the place
            there, of others a larger one.
        starts: int32 [tokens] where each "<" is.
        attributes: int32 [tokens] where the name of a tag ends.
        ends: int32 [tokens] after each ">".
        distinct: how many numbers there are, those of `KNOWN` included.
        most_attributes: of a tag.
    """

    flags: np.ndarray
    names: np.ndarray
    starts: np.ndarray
    attributes: np.ndarray
    ends: np.ndarray
    distinct: int
    most_attributes: int


_LT, _GT, _SLASH, _BANG, _QUESTION, _DASH, _EQUALS, _QUOTE, _APOSTROPHE, _BRACKET = b"<>/!?-=\"'["
_SPACE, _LETTER = 1, 2
_RAW, _SCRIPT, _FONT = len(RAW), known("script"), known("font")


def _classes() -> np.ndarray:
    classes = np.zeros(256, np.uint8)
    classes[list(b" \t\n\f\r")] = _SPACE
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    classes[letters] = classes[letters ^ 0x20] = _LETTER
    return classes


_CLASSES = _classes()
_ENDS_NAME = _CLASSES == _SPACE
_ENDS_NAME[[_SLASH, _GT]] = True
_FONT_ATTRIBUTES = np.frombuffer(b"colorfacesize", np.uint8).copy()
_FONT_BOUNDS = np.cumsum([0, *map(len, ("color", "face", "size"))])


class Markup:
    """HTML in UTF-8, and what is found in it.

    Attributes:
        utf8: uint8 [bytes].
    """

    def __init__(self, utf8: bytes):
        self.utf8 = np.frombuffer(utf8, np.uint8)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """Its tags and comments. Memory: 17 bytes for each "<"."""
        return _tokenize(self.utf8, random_seed())


@compiled
def _comment_end(html, start):
    """Return where a comment ends that starts after `<!--`, and whether it does."""
    size = len(html)
    if start < size and html[start] == _GT:
        return start + 1, True
    if start + 1 < size and html[start] == _DASH and html[start + 1] == _GT:
        return start + 2, True
    for place in range(start + 2, size):
        if html[place] == _GT:
            if html[place - 1] == _DASH and html[place - 2] == _DASH:
                return place + 1, True
            if (
                place - 3 >= start
                and html[place - 1] == _BANG
                and html[place - 2] == _DASH
                and html[place - 3] == _DASH
            ):
                return place + 1, True
    return size, False


@compiled
def _is_tag(html, place, letters, start, end):
    """Tell whether what follows `<` or `</` is a name in `letters`, with its end."""
    stop = place + end - start
    if stop >= len(html) or not same_name(html, place, stop, letters, start, end):
        return False
    return _CLASSES[html[stop]] == _SPACE or html[stop] == _SLASH or html[stop] == _GT


@compiled
def _raw_end(html, place, name):
    """Return where the end tag of a raw element is, and whether it is there.

    What comes in a script after `<!--` and `<script` goes on after the first end tag.
    """
    size, start, end = len(html), BOUNDS[name], BOUNDS[name + 1]
    escaped = nested = False
    comment = place
    while place < size:
        code = html[place]
        if code == _LT and place + 1 < size:
            if html[place + 1] == _SLASH:
                if _is_tag(html, place + 2, LETTERS, start, end):
                    if not nested:
                        return place, True
                    nested = False
            elif name == _SCRIPT and not escaped:
                escaped = (
                    place + 3 < size
                    and html[place + 1] == _BANG
                    and html[place + 2] == _DASH
                    and html[place + 3] == _DASH
                )
                comment = place + 2
            elif escaped and not nested:
                nested = _is_tag(html, place + 1, LETTERS, start, end)
        elif (
            escaped
            and code == _GT
            and place - 2 >= comment
            and html[place - 1] == _DASH
            and html[place - 2] == _DASH
        ):
            escaped = nested = False
        place += 1
    return size, False


@compiled
def _leaves_foreign(html, start, end):
    """Tell whether a font with an attribute of this name ends SVG."""
    for number in range(len(_FONT_BOUNDS) - 1):
        first, last = _FONT_BOUNDS[number], _FONT_BOUNDS[number + 1]
        if same_name(html, start, end, _FONT_ATTRIBUTES, first, last):
            return True
    return False


@compiled
def _value_end(html, place, limit):
    """Return where the value of an attribute ends, given where its `=` does."""
    while place < limit and _CLASSES[html[place]] == _SPACE:
        place += 1
    if place == limit:
        return limit
    quote = html[place]
    if quote in (_QUOTE, _APOSTROPHE):
        place += 1
        while place < limit and html[place] != quote:
            place += 1
        return place + 1
    while place < limit and _CLASSES[html[place]] != _SPACE and html[place] != _GT:
        place += 1
    return place


@compiled
def _attributes(html, place, limit, is_font):
    """Read the attributes of a tag, up to its end.

    Returns:
        Where it ends, how many attributes it has, and flags.
    """
    count = flags = 0
    while place < limit:
        code = html[place]
        if code == _GT:
            return place + 1, count, flags
        if code == _SLASH:
            place += 1
            if place < limit and html[place] == _GT:
                flags |= SELF_CLOSING
            continue
        if _CLASSES[code] == _SPACE:
            place += 1
            continue
        count += 1
        start = place
        place += 1
        while place < limit and not (_ENDS_NAME[html[place]] or html[place] == _EQUALS):
            place += 1
        if is_font and _leaves_foreign(html, start, place):
            flags |= LEAVES_FOREIGN
        after = place
        while after < limit and _CLASSES[html[after]] == _SPACE:
            after += 1
        if after < limit and html[after] == _EQUALS:
            place = _value_end(html, after + 1, limit)
    return limit, count, flags | UNFINISHED


@compiled
def _comment(html, start, limit):
    """Return the place after a comment, or what counts as one, and its flags."""
    flags = COMMENT
    if html[start + 1] == _BANG and start + 3 < limit:
        if html[start + 2] == _DASH and html[start + 3] == _DASH:
            place, finished = _comment_end(html[:limit], start + 4)
            return place, flags if finished else flags | UNFINISHED
        if html[start + 2] == _BRACKET:
            flags |= CDATA
    place = start + 2
    while place < limit:
        place += 1
        if html[place - 1] == _GT:
            return place, flags
    return limit, flags | UNFINISHED


@compiled
def _next_token(html, place, limit):
    """Return the next token from a place on.

    Returns:
        Its flags, 0 if there is none; the known number of its name; where it starts, its name
        starts, that ends and the token does; and how many attributes it has.
    """
    while place + 1 < limit:
        if html[place] != _LT:
            place += 1
            continue
        code = html[place + 1]
        is_end = code == _SLASH
        name = place + 1 + is_end
        if name < limit and _CLASSES[html[name]] == _LETTER:
            stop = name + 1
            while stop < limit and not _ENDS_NAME[html[stop]]:
                stop += 1
            number = known_number(html, name, stop)
            end, count, flags = _attributes(html, stop, limit, number == _FONT)
            return flags | (END if is_end else START), number, place, name, stop, end, count
        if code in (_BANG, _QUESTION) or (is_end and name < limit):
            end, flags = _comment(html, place, limit)
            return flags, UNKNOWN, place, end, end, end, 0
        place += 1
    return 0, UNKNOWN, limit, limit, limit, limit, 0


@compiled
def _tokenize(html, seed):
    """Return the `Tokens` of a page."""
    most = 1
    for code in html:
        most += code == _LT
    flags = np.empty(most, np.uint8)
    names, starts = np.empty(most, np.int32), np.empty(most, np.int32)
    attributes, ends = np.empty(most, np.int32), np.empty(most, np.int32)
    slots = np.full(1, -1, np.int32)  # of names that are not known, when there is one
    spans = np.empty((0, 2), np.int32)
    distinct = UNKNOWN + 1
    count = place = most_attributes = 0
    limit, within_raw = len(html), False  # where an element of raw text ends
    while True:
        flag, number, start, name, stop, place, found = _next_token(html, place, limit)
        if flag == 0:
            if not within_raw:
                break
            limit, within_raw = len(html), False
            continue
        if within_raw:
            if not flag & START:
                continue
            flag |= WITHIN_RAW
        most_attributes = max(most_attributes, found)
        if flag & COMMENT == 0 and number == UNKNOWN:
            if len(slots) == 1:
                slots = np.full(table_size(most), -1, np.int32)
                spans = np.empty((most, 2), np.int32)
            number = other_number(html, name, stop, seed, slots, spans, distinct)
            distinct = max(distinct, number + 1)
        elif number < _RAW and flag & (START | WITHIN_RAW | UNFINISHED) == START:
            within_raw = True
            limit, finished = _raw_end(html, place, number)
            if not finished:
                flag |= UNFINISHED
        flags[count], names[count] = flag, number
        starts[count], attributes[count], ends[count] = start, stop, place
        count += 1
    return Tokens(
        flags[:count],
        names[:count],
        starts[:count],
        attributes[:count],
        ends[:count],
        distinct,
        most_attributes,
    )
