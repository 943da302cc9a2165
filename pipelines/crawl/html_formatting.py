"""How many elements an HTML parser makes only because formatting was left open.

The HTML standard, 13.2.4.3 (the list of active formatting elements): what a block leaves open of
<b> and its like is made again in the next block, so that the product of both is the cost.
"""

import collections
import re

import numpy as np

_NAMES = rb"(?:b|big|code|em|font|i|s|small|strike|strong|tt|u)"
_START = re.compile(rb"<%b(?:[\s/][^>]*+|(?=>))" % _NAMES, re.IGNORECASE)
#: The standard keeps no more of equal elements. <a> and <nobr> close their like.
_MOST_EQUAL = 3
#: What is no tag, formatting, what takes formatting out of reach, and what may begin a block.
_TAG = re.compile(
    rb"(?s:<!--.*?(?:-->|\Z)|<(?:script|style|textarea|title|xmp|iframe)\b.*?(?:</(?=[stxi])|\Z))"
    rb"|<(?P<end>/?)(?:(?P<format>%b)(?=[\s/>])(?P<rest>[^>]*+)"
    rb"|(?P<scope>table|td|th|caption|object|applet|marquee|template)(?=[\s/>])"
    rb"|(?!(?:br|img|input|span|wbr|a|nobr)[\s/>])(?P<block>[a-z]))" % _NAMES,
    re.IGNORECASE,
)
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
        count if _is_cut(start) else min(count, _MOST_EQUAL)
        for start, count in collections.Counter(starts).items()
    )
    return kept * (tags - len(starts)) > most


def _is_cut(tag: bytes) -> bool:
    """Tell whether a tag may go on after its first `>`, which may be quoted."""
    return tag.count(b'"') % 2 == 1 or tag.count(b"'") % 2 == 1


def rebuilt_elements(html: bytes) -> int:
    """Return about how many elements are made again, in time linear in the page.

    Each tag that may begin or end a block counts all formatting that is open before it. An end
    tag within the value of an attribute counts as one, as it does for the depth of nesting.
    """
    opened: dict[bytes, list[tuple[bytes, int]]] = collections.defaultdict(list)
    equal: collections.Counter[bytes] = collections.Counter()
    scopes: list[bytes] = []
    active = rebuilt = 0
    for tag in _TAG.finditer(html):
        if name := tag["format"]:
            like = opened[name.lower()]
            if not tag["end"]:
                start = name.lower() + tag["rest"]
                if _is_cut(start):
                    start += b"%d" % tag.start()
                like.append((start, len(scopes)))
                equal[start] += 1
                active += equal[start] <= _MOST_EQUAL
            elif like and like[-1][1] >= len(scopes):
                start, _ = like.pop()
                active -= equal[start] <= _MOST_EQUAL
                equal[start] -= 1
            continue
        if scope := tag["scope"]:
            _enter_or_leave(scopes, scope.lower(), bool(tag["end"]))
        if scope or tag["block"]:
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
