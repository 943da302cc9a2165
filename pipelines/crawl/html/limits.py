"""Computes an upper bound on a page's cost for the HTML parser, before parsing.

One pass over the page's bytes finds tags like the HTML standard's tokenizer (13.2.5), and adds up
the parser's worst case for each tag. Its stack of open elements is never shorter than the parser's,
except by a constant factor: an element stays open unless the parser surely closes it.
"""

from typing import NamedTuple

import numpy as np

from mswitch.pipelines.compiled import compiled
from mswitch.pipelines.crawl.html.elements import (
    BREAKS_OUT,
    ENDS_CLOSE_WITH,
    ENDS_P,
    FONT,
    FOREIGN,
    FORMATTING,
    FRAMESET,
    HOLDS_HTML,
    KIND,
    LINK,
    MERGED,
    NOFRAMES,
    OPTION,
    PARAGRAPH,
    RAW,
    SCRIPT,
    STARTS_CLOSE,
    STARTS_CLOSE_WITH,
    UNKNOWN,
    VOID,
    VOID_IN_HTML,
    look_up_name,
)
from mswitch.pipelines.crawl.html.tokens import (
    BANG,
    BRACKET,
    ENDS_NAME,
    IS_LETTER,
    LT,
    QUESTION,
    SLASH,
    are_equal,
    ends_section,
    find_comment_end,
    find_raw_end,
    find_tag_end,
    is_plain,
)

#: Maximum cost of a page, in units of 20 ns: about half a second for parsing and extraction.
MAX_COST = 25_000_000

# Costs in units of 20 ns: of a token, of reconstructing a formatting element, and of each attribute
# of the reconstructed element.
_TOKEN_COST, _FORMATTING_COST, _ATTRIBUTE_COST = 50, 90, 10
# Comparisons per unit of cost. The parser compares each attribute of a tag with all earlier ones.
_COMPARISONS = 16
# An end tag may also close inner elements: </ul> closes an open <li>. If there are more inner
# elements than this, assume that the outer element stays open.
_MOST_IMPLIED = 4
# The parser reconstructs at most this many equal formatting elements ("Noah's Ark clause").
_MOST_EQUAL = 3
# Maximum bytes of names and tags to compare; longer ones count as different.
_MOST_COMPARED = 256
# Means elements of every kind. Within SVG, an end tag closes its element and every element inside.
_ANY = -1


class Cost(NamedTuple):
    """Upper bound on a page's cost for the parser, counted until a limit is exceeded.

    Attributes:
        elements: cost to build and visit elements, in units of 20 ns.
        attributes: cost to compare attributes, in the same units.
        ambiguous: whether the end of a tag depends on facts that are unknown here.
    """

    elements: int
    attributes: int
    ambiguous: bool


def bound_parser_cost(utf8: bytes, limit: int = MAX_COST) -> Cost:
    """Return an upper bound on a page's cost for the parser.

    Time is linear in the size of the page. Memory: 250 kB.
    """
    elements, attributes, ambiguous = _measure(np.frombuffer(utf8, np.uint8), limit)
    return Cost(int(elements), int(attributes), bool(ambiguous))


class _Open(NamedTuple):
    """The stack of open elements, outermost first.

    Attributes:
        elements: int64 [most, 5]: number of the name, its start and end, the tag's end, and the
            cost to make the element again if it is formatting.
        sums: int64 [5]: see the indices below.
    """

    elements: np.ndarray
    sums: np.ndarray


# Indices into `_Open.elements`.
_NAME, _START, _STOP, _TAG_STOP, _REMAKING = range(5)
# Indices into `_Open.sums`. `_DEPTH` counts all open elements. `_FORMATTING_OPEN` counts open
# elements that may be reconstructed, and `_LINKS` counts <a> among them. `_REMAKING_ALL` is the
# cost to reconstruct them all. `_ROOT` is the depth at which SVG or MathML began.
_DEPTH, _FORMATTING_OPEN, _LINKS, _REMAKING_ALL, _ROOT = range(5)


@compiled
def _find_name(html, opened, number, start, stop, closed_with, most):
    """Return the stack index of the element that an end tag closes; the stack's size if unsure."""
    depth = opened.sums[_DEPTH]
    for place in range(depth - 1, max(-1, depth - 2 - most), -1):
        element = opened.elements[place]
        if element[_NAME] == number:
            size = element[_STOP] - element[_START]
            if number < UNKNOWN or (
                size == stop - start <= _MOST_COMPARED
                and are_equal(html, element[_START], start, size, True)
            ):
                return place
        if closed_with != _ANY and not KIND[element[_NAME]] & closed_with:
            break
    return depth


@compiled
def _cut(opened, place):
    for inner in range(place, opened.sums[_DEPTH]):
        remaking = opened.elements[inner, _REMAKING]
        if remaking:
            opened.sums[_FORMATTING_OPEN] -= 1
            opened.sums[_LINKS] -= KIND[opened.elements[inner, _NAME]] & LINK > 0
            opened.sums[_REMAKING_ALL] -= remaking
    opened.sums[_DEPTH] = place
    if place <= opened.sums[_ROOT]:
        opened.sums[_ROOT] = -1


@compiled
def _close(opened, wanted, closed_with):
    """For a start tag, close the innermost element of the kinds `wanted` if the parser surely does.

    The parser surely closes it if only a few elements are inside, all of the kinds `closed_with`.
    """
    depth = opened.sums[_DEPTH]
    for place in range(depth - 1, max(-1, depth - 2 - _MOST_IMPLIED), -1):
        kind = KIND[opened.elements[place, _NAME]]
        if kind & wanted:
            _cut(opened, place)
            return
        if not kind & closed_with:
            return


@compiled
def _is_made_again(html, opened, number, start, tag_stop):
    """Return whether the parser may reconstruct a formatting element.

    It reconstructs at most one open <a>, and at most three open elements with equal tags.
    """
    if KIND[number] & LINK:
        return opened.sums[_LINKS] == 0
    equal, size = 0, tag_stop - start
    for place in range(opened.sums[_DEPTH] if size <= _MOST_COMPARED else 0):
        element = opened.elements[place]
        if element[_NAME] == number and element[_TAG_STOP] - element[_START] == size:
            equal += are_equal(html, element[_START], start, size, False)
            if equal == _MOST_EQUAL:
                return False
    return True


@compiled
def _open(html, opened, number, start, stop, tag_stop, attributes):
    kind, depth = KIND[number], opened.sums[_DEPTH]
    remaking = 0
    if kind & FORMATTING and _is_made_again(html, opened, number, start, tag_stop):
        remaking = _FORMATTING_COST + _ATTRIBUTE_COST * attributes
        opened.sums[_FORMATTING_OPEN] += 1
        opened.sums[_LINKS] += kind & LINK > 0
        opened.sums[_REMAKING_ALL] += remaking
    if kind & FOREIGN and opened.sums[_ROOT] < 0:
        opened.sums[_ROOT] = depth
    opened.elements[depth] = (number, start, stop, tag_stop, remaking)
    opened.sums[_DEPTH] = depth + 1


@compiled
def _measure(html, limit):  # noqa: PLR0912, PLR0915, one pass
    # Each tag costs at least the number of elements that are open. So the tags of `most` nested
    # elements together cost more than `limit`.
    most = 4 + int(np.sqrt(2.0 * limit))
    opened = _Open(np.empty((most, 5), np.int64), np.array([0, 0, 0, 0, -1]))
    sums = opened.sums
    elements = comparisons = merged = options = place = 0
    is_sure = True  # false if the parser may read HTML although SVG or MathML is open
    # With a frameset, the parser drops tags such as <script> and reads their content as markup.
    has_frames = False
    while place + 1 < len(html) and max(elements, comparisons // _COMPARISONS) <= limit:
        if html[place] != LT:
            place += 1
            continue
        begin = place
        is_end = html[begin + 1] == SLASH
        start = begin + 1 + is_end
        if start == len(html) or not IS_LETTER[html[start]]:
            place += 1
            if is_end or html[place] == BANG or html[place] == QUESTION:
                place = find_comment_end(html, begin)
                elements += _TOKEN_COST + sums[_DEPTH]
                is_section = place > begin + 3 and html[begin + 2] == BRACKET and not is_end
                if sums[_ROOT] >= 0 and is_section and not ends_section(html, place):
                    return elements, comparisons // _COMPARISONS, True
            continue
        stop = start
        while stop < len(html) and not ENDS_NAME[html[stop]]:
            stop += 1
        number = look_up_name(html, start, stop)
        kind = KIND[number]
        place, attributes, closes_itself = find_tag_end(html, stop)
        elements += _TOKEN_COST + sums[_DEPTH]
        elements += sums[_FORMATTING_OPEN] * sums[_DEPTH] + sums[_REMAKING_ALL]
        comparisons += attributes * attributes * (1 + sums[_FORMATTING_OPEN])
        if kind & MERGED:
            merged += attributes
            comparisons += 4 * merged * attributes
        is_sure |= sums[_ROOT] < 0
        in_foreign = sums[_ROOT] >= 0 and is_sure
        in_html = in_foreign and KIND[opened.elements[sums[_DEPTH] - 1, _NAME]] & HOLDS_HTML > 0
        if is_end:
            with_it, within = 0, 0
            if in_foreign and not in_html:
                with_it, within = _ANY, sums[_DEPTH] - sums[_ROOT] - 1
            elif sums[_ROOT] < 0:
                with_it, within = ENDS_CLOSE_WITH[number], _MOST_IMPLIED
            closed = _find_name(html, opened, number, start, stop, with_it, within)
            is_sure &= closed < sums[_DEPTH]
            _cut(opened, closed)
            continue
        if in_html or (in_foreign and number == FONT):
            in_foreign = is_sure = False
        elif in_foreign and kind & BREAKS_OUT:
            _cut(opened, sums[_ROOT])
            in_foreign = False
        has_frames |= number == FRAMESET
        if kind & OPTION:  # to add an <option>, the parser visits all options so far
            options += 1
            elements += options
        if kind & VOID or (kind & VOID_IN_HTML and sums[_ROOT] < 0):
            continue
        if closes_itself and (in_foreign or kind & FOREIGN):
            continue
        if kind & RAW:
            end = find_raw_end(html, place, start, stop, number == SCRIPT)
            may_differ = sums[_ROOT] >= 0 or (has_frames and number != NOFRAMES)
            if may_differ and (closes_itself or not is_plain(html, place, end)):
                return elements, comparisons // _COMPARISONS, True
            place = end
            if place < len(html):
                place = find_tag_end(html, end + 2 + stop - start)[0]
            continue
        if sums[_ROOT] < 0:
            _close(opened, STARTS_CLOSE[number], STARTS_CLOSE_WITH[number])
            _close(opened, PARAGRAPH if kind & ENDS_P else 0, 0)
        _open(html, opened, number, start, stop, place, attributes)
    return elements, comparisons // _COMPARISONS, False
