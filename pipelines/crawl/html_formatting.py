"""How many elements an HTML parser makes only because formatting was left open.

The HTML standard, 13.2.4.3 (the list of active formatting elements): what a block leaves open of
<b> and its like is made again in the next block, so that the product of both is the cost.
"""

import collections
import re

import numpy as np

from pipelines.crawl.html_nesting import (
    FOREIGN,
    FORMATTING,
    MOST_EQUAL,
    RAW,
    UNSURE,
    breaks_out,
    tags_of,
)

_NAMES = rb"(?:b|big|code|em|font|i|s|small|strike|strong|tt|u)"
_START = re.compile(rb"<%b(?:[\s/][^>]*+|(?=>))" % _NAMES, re.IGNORECASE)
#: <a> and <nobr> close their like.
_FORMATTING = FORMATTING - {b"a", b"nobr"}
_SCOPES = (b"table", b"td", b"th", b"caption", b"object", b"applet", b"marquee", b"template")
#: What begins and ends no block.
_INLINE = RAW | {b"br", b"img", b"input", b"span", b"wbr", b"a", b"nobr"}
_CELLS = (b"td", b"th", b"caption")


def _beginnings() -> np.ndarray:
    """Return which two bytes may begin the name of formatting, or be it with what ends it."""
    may_begin = np.zeros((256, 256), bool)
    for name in b"big code em font small strike strong tt".split():
        may_begin[name[0], name[1]] = True
    for letter in b"bisu":
        may_begin[letter, list(b" \t\n\f\r/>")] = True
    lower = np.frombuffer(bytes(range(256)).lower(), np.uint8)
    return may_begin[np.ix_(lower, lower)]


_BEGINNINGS = _beginnings()


def may_rebuild_many(html: bytes, most: int) -> bool:
    """Tell quickly of most pages that `rebuilt_elements` is at most `most`."""
    codes = np.frombuffer(html, np.uint8)
    tags = int(np.count_nonzero(codes == ord("<")))
    if tags * tags <= 4 * most:
        return False
    places = np.flatnonzero(codes[:-2] == ord("<"))
    seeming = int(np.count_nonzero(_BEGINNINGS[codes[places + 1], codes[places + 2]]))
    if seeming * tags <= most:
        return False
    starts = _START.findall(html)
    kept = sum(
        count if _is_cut(start) else min(count, MOST_EQUAL)
        for start, count in collections.Counter(starts).items()
    )
    return kept * (tags - len(starts)) > most


def _is_cut(tag: bytes) -> bool:
    """Tell whether a tag may go on after its first `>`, which may be quoted."""
    return tag.count(b'"') % 2 == 1 or tag.count(b"'") % 2 == 1


def rebuilt_elements(html: bytes) -> int:
    """Return about how many elements are made again, in time linear in the page.

    Each tag that may begin or end a block counts all formatting that is open before it.
    """
    opened: dict[bytes, list[tuple[bytes, int]]] = collections.defaultdict(list)
    equal: collections.Counter[tuple[bytes, bytes]] = collections.Counter()
    scopes: list[bytes] = []
    active = rebuilt = 0
    for tag in tags_of(html):
        name = tag.name
        if tag.kind == FOREIGN and not breaks_out(tag.end, name, tag.rest):
            continue
        if name in _FORMATTING:
            like = opened[name]
            if not tag.end:
                equal[name, tag.rest] += 1
                active += equal[name, tag.rest] <= MOST_EQUAL
                if tag.kind != UNSURE:
                    like.append((tag.rest, len(scopes)))
            elif like and like[-1][1] >= len(scopes):
                rest, _ = like.pop()
                active -= equal[name, rest] <= MOST_EQUAL
                equal[name, rest] -= 1
            continue
        if name in _SCOPES and tag.kind != UNSURE:
            _enter_or_leave(scopes, name, tag.end)
        if name not in _INLINE:
            rebuilt += active
    return rebuilt


def _enter_or_leave(scopes: list[bytes], name: bytes, leave: bool) -> None:
    """Keep account of the elements within which formatting outside cannot be closed."""
    in_cell = bool(scopes) and scopes[-1] in _CELLS
    if not leave:
        if not (in_cell and name in _CELLS):
            scopes.append(name)
        return
    if in_cell and name == b"table":
        scopes.pop()
    if scopes and scopes[-1] == name:
        scopes.pop()
