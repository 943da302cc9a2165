"""Properties of HTML elements that affect the upper bound on a page's parsing cost.

Properties are bits of `KIND`, by the number of a name. See HTML's standard, 13.2.4.2 and 13.2.6.
"""

from collections.abc import Iterable

import numpy as np

from mswitch.pipelines.compiled import compiled

PARAGRAPH, ITEM, TERM, OPTION, GROUP, CELL, ROW, ROWS = (1 << bit for bit in range(8))
HEADING, LINK, VOID, VOID_IN_HTML, RAW, FORMATTING = (1 << bit for bit in range(8, 14))
ENDS_P, SPECIAL, FOREIGN, BREAKS_OUT, HOLDS_HTML, MERGED = (1 << bit for bit in range(14, 20))
_IMPLIED = PARAGRAPH | ITEM | TERM | OPTION | GROUP
_KINDS = {
    PARAGRAPH: "p",
    ITEM: "li",
    TERM: "dd dt",
    OPTION: "option",
    GROUP: "optgroup",
    CELL: "td th",
    ROW: "tr",
    ROWS: "tbody thead tfoot caption colgroup",
    HEADING: "h1 h2 h3 h4 h5 h6",
    LINK: "a",
    # Elements that have no content, or that occur only once. Within SVG, elements of `VOID_IN_HTML`
    # may have content.
    VOID: "br embed hr img meta head body",
    VOID_IN_HTML: "area base basefont bgsound col frame input keygen link param source track wbr"
    " html",
    # Elements that contain only text, up to their end tag.
    RAW: "script style textarea title xmp iframe noembed noframes",
    # The parser may open these elements again after another element ends.
    FORMATTING: "a b big code em font i nobr s small strike strong tt u",
    # Elements whose start tag closes a paragraph.
    ENDS_P: "address article aside blockquote center details dialog dir div dl fieldset figcaption"
    " figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr li listing main menu nav ol p plaintext"
    " pre search section summary table ul dd dt xmp",
    # Elements whose end tag also closes inner elements with omitted end tags.
    SPECIAL: "address article aside blockquote button caption center dd details dir div dl dt"
    " fieldset figcaption figure footer header hgroup li listing main menu nav ol pre search"
    " section select summary table tbody td tfoot th thead tr ul",
    FOREIGN: "svg math",
    # Start tags that end SVG and MathML (font only with some attributes). `HOLDS_HTML`:
    # elements that may contain HTML within SVG and MathML.
    BREAKS_OUT: "b big blockquote body br center code dd div dl dt em embed font h1 h2 h3 h4 h5 h6"
    " head hr i img li listing menu meta nobr ol p pre ruby s small span strong strike sub sup"
    " table tt u ul var",
    HOLDS_HTML: "annotation-xml desc foreignobject mi mn mo ms mtext",
    # A repeated <html> or <body> tag adds its attributes to the existing element.
    MERGED: "html body",
    0: "frameset",
}
_NAMES = sorted({name for names in _KINDS.values() for name in names.split()})
UNKNOWN = len(_NAMES)
FONT, FRAMESET, NOFRAMES, SCRIPT = map(_NAMES.index, ("font", "frameset", "noframes", "script"))


def _combine_by_name(values: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return a bit mask for each element name: the OR of values of its kinds; 0 if unknown."""
    combined = np.zeros(UNKNOWN + 1, np.int64)
    for kind, value in values:
        for name in _KINDS[kind].split():
            combined[_NAMES.index(name)] |= value
    return combined


KIND = _combine_by_name((kind, kind) for kind in _KINDS)
_ROW_PARTS = _IMPLIED | CELL
_TABLE_PARTS = _ROW_PARTS | ROW | ROWS
# Kinds of open elements that a start tag closes.
STARTS_CLOSE = _combine_by_name(
    [
        *((kind, kind) for kind in (ITEM, TERM, OPTION, CELL, ROW, ROWS, LINK, HEADING)),
        (GROUP, OPTION),
    ]
)
# A start tag that closes an element also closes open elements of these kinds inside that element.
STARTS_CLOSE_WITH = _combine_by_name(
    [
        (ITEM, PARAGRAPH),
        (TERM, PARAGRAPH),
        (CELL, _IMPLIED),
        (ROW, _ROW_PARTS),
        (ROWS, _ROW_PARTS | ROW),
    ]
)
# If an end tag closes its element, it also closes open elements of these kinds inside that element.
ENDS_CLOSE_WITH = _combine_by_name(
    [(SPECIAL, _IMPLIED), (GROUP, OPTION), (ROW, _ROW_PARTS), (ROWS, _ROW_PARTS | ROW)]
)
ENDS_CLOSE_WITH[_NAMES.index("table")] = _TABLE_PARTS

# A name is looked up by its first eight letters, then by the next eight. No known name is longer.
_LETTERS = 8
_SLOT_BITS = 10
_FACTOR, _SHIFT, _BYTE = np.uint64(0x9E3779B97F4A7C15), np.uint64(64 - _SLOT_BITS), np.uint64(8)


def _pack_names(start: int) -> np.ndarray:
    parts = [name.encode()[start : start + _LETTERS] for name in _NAMES]
    return np.array([int.from_bytes(part, "big") for part in parts], np.uint64)


_FIRST, _NEXT = _pack_names(0), _pack_names(_LETTERS)
_SLOTS = np.full(1 << _SLOT_BITS, -1)
for _number, _slot in enumerate((_FIRST * _FACTOR >> _SHIFT).tolist()):
    while _SLOTS[_slot] >= 0:
        _slot = (_slot + 1) % len(_SLOTS)
    _SLOTS[_slot] = _number
LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8).copy()


@compiled
def look_up_name(html, start, stop):
    """Return a name's index among the known names, or `UNKNOWN`."""
    first = following = np.uint64(0)
    for place in range(start, min(stop, start + _LETTERS)):
        first = (first << _BYTE) | np.uint64(LOWER[html[place]])
    slot = np.int64((first * _FACTOR) >> _SHIFT)
    if _SLOTS[slot] < 0 or stop - start > 2 * _LETTERS:
        return UNKNOWN
    for place in range(start + _LETTERS, stop):
        following = (following << _BYTE) | np.uint64(LOWER[html[place]])
    while _SLOTS[slot] >= 0:
        number = _SLOTS[slot]
        if _FIRST[number] == first and _NEXT[number] == following:
            return number
        slot = (slot + 1) % len(_SLOTS)
    return UNKNOWN
