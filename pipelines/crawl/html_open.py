"""The elements that are open while an HTML parser reads a page, as it opens and closes them.

After the HTML standard (13.2.4.2, 13.2.4.3 and 13.2.6) as far as it goes here. Where that does not
tell, an end tag closes nothing, so that more may be open than in a parser, and not less.
"""

from typing import NamedTuple

import numpy as np

from pipelines.compiled import compiled
from pipelines.crawl.html_elements import (
    BARS_IN_TABLES,
    BARS_TABLES,
    CLOSED_BY_END,
    CLOSED_BY_START,
    CLOSES_ITEMS,
    DOES_CLOSE_P,
    DOES_MAKE_AGAIN,
    FORMATTING_NAMES,
    IS_BLOCK,
    IS_CELL,
    IS_EMPTY,
    IS_FOREIGN,
    IS_FORMATTING,
    IS_HEADING,
    IS_IMPLIED,
    IS_INTEGRATION,
    IS_MARKER,
    IS_PART_OF_TABLE,
    IS_SPECIAL,
    KINDS,
    MEMBERS,
    PARAGRAPH,
)
from pipelines.crawl.html_names import UNKNOWN, known
from pipelines.crawl.html_tokens import END, SELF_CLOSING

#: Of equal formatting elements no more are made again.
_MOST_EQUAL = 3
#: What an element is: of SVG or MathML, or in doubt which, or whether there is one.
HTML, FOREIGN, UNSURE = np.arange(3)
# Places in `Open.sizes`.
OPEN, AGAIN, MARKERS, MADE_AGAIN, PASSED, _IN_FORM = range(6)

_BR, _FORM, _HR, _INPUT, _OPTGROUP = map(known, ("br", "form", "hr", "input", "optgroup"))
_OPTION, _TABLE, _TEMPLATE = map(known, ("option", "table", "template"))
_MATH, _SVG = map(known, ("math", "svg"))
# As wide as the names in arrays, so that what takes either is compiled once.
_P, _SELECT = np.int64(known("p")), np.int64(known("select"))


class Open(NamedTuple):
    """The elements that are open, outermost first, and formatting that is to be made again.

    Attributes:
        elements: int64 [most, 4] name, kind, what is alike and how many markers were there, of
            each that is open.
        again: int64 [most, 3] of formatting that was closed with what it was in name, what is
            alike, and how many markers were there.
        named: int64 [2, distinct] how many of each name are open without doubt, and are to be made
            again.
        alike: int64 [tokens] how many that are alike are to be made again.
        sizes: int64 [6] how many are open, are to be made again, how many markers there are, how
            many elements were made again, and were passed in looking for others; and whether a
            form was begun and not ended.
    """

    elements: np.ndarray
    again: np.ndarray
    named: np.ndarray
    alike: np.ndarray
    sizes: np.ndarray


@compiled
def _move(rows, source, target):
    for column in range(rows.shape[1]):
        rows[target, column] = rows[source, column]


@compiled
def _push(state, name, kind, alike):
    """Open an element; formatting is made again around it if it is no block."""
    if kind == HTML and not KINDS[min(name, UNKNOWN)] & IS_BLOCK:
        make_again(state)
    _append(state, name, kind, alike)


@compiled
def _append(state, name, kind, alike):
    place = state.sizes[OPEN]
    state.elements[place, 0] = name
    state.elements[place, 1] = kind
    state.elements[place, 2] = alike
    state.elements[place, 3] = state.sizes[MARKERS]
    state.sizes[OPEN] += 1
    state.named[0, name] += kind != UNSURE
    if KINDS[min(name, UNKNOWN)] & IS_MARKER:
        state.sizes[MARKERS] += 1


@compiled
def make_again(state):
    """Make formatting again that was closed with what it was in, since the last marker."""
    stop = state.sizes[AGAIN]
    first = stop
    while first > 0 and state.again[first - 1, 2] == state.sizes[MARKERS]:
        first -= 1
    for place in range(first, stop):
        name, alike = state.again[place, 0], state.again[place, 1]
        state.named[1, name] -= 1
        state.alike[alike] -= 1
        _append(state, name, HTML, alike)
    state.sizes[AGAIN] = first
    state.sizes[MADE_AGAIN] += stop - first


@compiled
def _make_all_again(state):
    """Count all formatting as made again, where it may be."""
    for name in FORMATTING_NAMES:
        state.sizes[MADE_AGAIN] += state.named[0, name] + state.named[1, name]


@compiled
def _forget(state, place):
    """Do not make formatting again."""
    state.named[1, state.again[place, 0]] -= 1
    state.alike[state.again[place, 1]] -= 1
    state.sizes[AGAIN] -= 1
    for later in range(place, state.sizes[AGAIN]):
        _move(state.again, later + 1, later)


@compiled
def _forget_last(state, wanted, wanted_set):
    """Do not make the last formatting of a name again, of what came after the last marker."""
    for place in range(state.sizes[AGAIN] - 1, -1, -1):
        if state.again[place, 2] < state.sizes[MARKERS]:
            return
        state.sizes[PASSED] += 1
        if _belongs(state.again[place, 0], wanted, wanted_set):
            _forget(state, place)
            return


@compiled
def _belongs(name, wanted, wanted_set):
    """Tell whether a name is in a set of names, or the one that is wanted if there is none."""
    if wanted_set:
        return KINDS[min(name, UNKNOWN)] & wanted_set > 0
    return name == wanted


@compiled
def _any(counts, wanted, wanted_set):
    """Tell whether the count of a name is positive, or of one in a set of names."""
    if not wanted_set:
        return counts[wanted] > 0
    total = 0
    for name in MEMBERS[wanted_set]:
        total += counts[name] if name >= 0 else 0
    return total > 0


@compiled
def _close(state, wanted, closed):
    """Close the innermost element of a name or set with all in it, if it is within reach."""
    wanted_set, barriers = closed[0], closed[1]
    if not _any(state.named[0], wanted, wanted_set):
        if _any(state.named[1], wanted, wanted_set):
            _forget_last(state, wanted, wanted_set)
        return
    last = state.sizes[OPEN] - 1
    special = False
    for place in range(last, -1, -1):
        state.sizes[PASSED] += 1
        name, kind = state.elements[place, 0], state.elements[place, 1]
        of_name = KINDS[min(name, UNKNOWN)]
        if kind != UNSURE and _belongs(name, wanted, wanted_set):
            is_formatting = of_name & IS_FORMATTING > 0
            if is_formatting and state.elements[place, 3] < state.sizes[MARKERS]:
                return
            if (is_formatting and special) or (name == _FORM and place < last):
                # What is in it stays.
                for later in range(place, last):
                    _move(state.elements, later + 1, later)
                state.sizes[OPEN] -= 1
                state.named[0, name] -= 1
            else:
                _cut(state, place, place + 1)
            return
        # An element of SVG is none of HTML's that has its name.
        is_integration = of_name & IS_INTEGRATION > 0
        if of_name & barriers and (kind == UNSURE or (kind == FOREIGN) == is_integration):
            return
        special |= of_name & IS_SPECIAL > 0 and kind != FOREIGN


@compiled
def _cut(state, first, inner):
    """Close an element and all in it; formatting from place `inner` on is made again."""
    stop = state.sizes[OPEN]
    state.sizes[OPEN] = first
    for place in range(first, stop):
        name = state.elements[place, 0]
        state.named[0, name] -= state.elements[place, 1] != UNSURE
        # The marker of an object stays if it is closed by what it is in.
        if KINDS[min(name, UNKNOWN)] & (BARS_TABLES if place >= inner else IS_MARKER):
            state.sizes[MARKERS] -= 1
    if inner > first and KINDS[min(state.elements[first, 0], UNKNOWN)] & IS_MARKER:
        while state.sizes[AGAIN] > 0:
            last = state.sizes[AGAIN] - 1
            if state.again[last, 2] <= state.sizes[MARKERS]:
                break
            _forget(state, last)
        return
    for place in range(inner, stop):
        name, kind = state.elements[place, 0], state.elements[place, 1]
        alike = state.elements[place, 2]
        formatting = kind == HTML and KINDS[min(name, UNKNOWN)] & IS_FORMATTING
        if formatting and state.alike[alike] < _MOST_EQUAL:
            state.again[state.sizes[AGAIN], 0] = name
            state.again[state.sizes[AGAIN], 1] = alike
            state.again[state.sizes[AGAIN], 2] = state.sizes[MARKERS]
            state.sizes[AGAIN] += 1
            state.named[1, name] += 1
            state.alike[alike] += 1


@compiled
def _back_to_table(state):
    """Close what is in a table and in no cell: the parser has put it before the table."""
    stop = state.sizes[OPEN]
    place = stop
    while place > 0:
        name, kind = state.elements[place - 1, 0], state.elements[place - 1, 1]
        if kind != HTML or KINDS[min(name, UNKNOWN)] & BARS_IN_TABLES:
            break
        place -= 1
        state.sizes[PASSED] += 1
    if 0 < place < stop:
        _cut(state, place, place)


@compiled
def is_in_foreign(state):
    """Tell whether SVG or MathML is open, taken to hold no HTML."""
    return state.named[0, _SVG] + state.named[0, _MATH] > 0


@compiled
def _leave_foreign(state):
    """Close SVG and MathML up to the HTML that they are in."""
    first = state.sizes[OPEN]
    while first > 0 and is_in_foreign(state):
        first -= 1
        _cut(state, first, first + 1)


@compiled
def _close_implied(state):
    """Close the innermost elements whose end may be left out."""
    while state.sizes[OPEN] > 0:
        last = state.sizes[OPEN] - 1
        name, kind = state.elements[last, 0], state.elements[last, 1]
        if kind != HTML or not KINDS[min(name, UNKNOWN)] & IS_IMPLIED:
            return
        _cut(state, last, last + 1)


@compiled
def _is_ignored(state, name):
    """Tell whether a start tag opens nothing where it is; one in a select may close that."""
    if KINDS[min(name, UNKNOWN)] & (IS_CELL | IS_PART_OF_TABLE):
        return not state.named[0, _TABLE] and not state.named[0, _TEMPLATE]
    if name == _FORM and not state.named[0, _TEMPLATE]:
        again = state.sizes[_IN_FORM] > 0
        state.sizes[_IN_FORM] = True
        return again
    if name in (_SELECT, _INPUT) and state.named[0, _SELECT] > 0:
        count = state.sizes[OPEN]
        _close(state, _SELECT, CLOSED_BY_END[_SELECT])
        return name == _SELECT and state.sizes[OPEN] < count
    return False


@compiled
def _start(state, name, alike):
    """Open an element of HTML, and close those that it cannot be in."""
    kind = KINDS[min(name, UNKNOWN)]
    if _is_ignored(state, name):
        return
    if name in (_HR, _OPTION, _OPTGROUP) and state.named[0, _SELECT] > 0:
        _close_implied(state)
    if kind & CLOSES_ITEMS:
        _close(state, name, CLOSED_BY_START[name])
    if kind & DOES_CLOSE_P:
        _close(state, _P, PARAGRAPH)
    if kind & IS_EMPTY:
        if kind & DOES_MAKE_AGAIN:
            make_again(state)
        return
    last = state.sizes[OPEN] - 1
    innermost = KINDS[min(state.elements[last, 0], UNKNOWN)] if last >= 0 else 0
    is_option = last >= 0 and state.elements[last, 0] == _OPTION
    if kind & innermost & IS_HEADING or (is_option and name in (_OPTION, _OPTGROUP)):
        _cut(state, last, last + 1)
    elif not kind & CLOSES_ITEMS and CLOSED_BY_START[min(name, UNKNOWN), 1] >= 0:
        _close(state, name, CLOSED_BY_START[name])
    if kind & (IS_CELL | IS_PART_OF_TABLE):
        _back_to_table(state)
    if not kind & IS_PART_OF_TABLE:
        _push(state, name, HTML, alike)


@compiled
def take(state, flag, name, kind, leaves_foreign, alike):
    """Open or close what a tag does."""
    if kind == FOREIGN and leaves_foreign:
        _leave_foreign(state)
        kind = HTML
    of_name = KINDS[min(name, UNKNOWN)]
    # Whether a part of a table closes the cell it ends in depends on parts that are not kept.
    if kind == UNSURE or (flag & END and of_name & IS_PART_OF_TABLE):
        _make_all_again(state)
    if flag & END:
        if name == _BR:  # stands for a start tag
            make_again(state)
        elif name == _FORM:
            state.sizes[_IN_FORM] = False
        _close(state, name, CLOSED_BY_END[min(name, UNKNOWN)])
    elif of_name & IS_FOREIGN:
        if not flag & SELF_CLOSING:
            _push(state, name, kind, alike)
        elif kind == HTML:
            make_again(state)
    elif kind == HTML:
        _start(state, name, alike)
    elif kind == UNSURE or not flag & SELF_CLOSING:
        _push(state, name, kind, alike)
