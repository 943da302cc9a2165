"""What a page says of itself in meta tags, wherever they stand and however they are written."""

import functools
from collections.abc import Iterator

import numpy as np

from pipelines.compiled import compiled
from pipelines.crawl.html_names import BOUNDS, LETTERS, known, same_name
from pipelines.crawl.html_tokens import Markup

_META = known("meta")
_FIRST_LETTER, _END = BOUNDS[_META], BOUNDS[_META + 1]
_NAME_BYTES = _END - _FIRST_LETTER
_LT, _GT, _QUOTE, _APOSTROPHE = b"<>\"'"
_M = ord("m")
_CASE = np.uint8(0x20)
_WORD = np.zeros(256, np.bool_)
_WORD[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")] = True
#: Of a tag this much is read.
_MOST_BYTES = 2000


def find_metas(html: Markup, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the attributes of each meta tag that has any of some words in them, in any case.

    A tag goes from `<meta`, in a comment, a script or the value of an attribute too, to the next
    `>` that is in no quotes, or to the next `<`: a quote that someone forgot hides none.

    Args:
        html: the page.
        words: ASCII; most tags have none of them (descriptions, character sets).
    """
    letters, bounds = _as_letters(words)
    for start, end in _find(html.utf8, letters, bounds).tolist():
        yield html.utf8[start:end].tobytes().decode(errors="replace")


@functools.lru_cache
def _as_letters(words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters of all words, one after the other, and where each starts."""
    encoded = [word.encode() for word in words if word]
    letters = np.frombuffer(b"".join(encoded), np.uint8)
    return letters, np.cumsum([0, *map(len, encoded)])


@compiled
def _mentions(html, start, end, letters, bounds):
    """Tell whether one of the words is there."""
    for word in range(len(bounds) - 1):
        first, last = bounds[word], bounds[word + 1]
        lower, upper = letters[first], np.uint8(letters[first] ^ _CASE)
        for place in range(start, end - (last - first) + 1):
            if html[place] in (lower, upper) and same_name(
                html, place, place + last - first, letters, first, last
            ):
                return True
    return False


@compiled
def _tag_end(html, start):
    """Return where a tag ends, -1 if the page does before it."""
    quote = np.uint8(0)
    stop = min(len(html), start + _MOST_BYTES)
    for place in range(start, stop):
        code = html[place]
        if code == _LT or (code == _GT and not quote):
            return place
        if code in (_QUOTE, _APOSTROPHE):
            if not quote:
                quote = code
            elif quote == code:
                quote = np.uint8(0)
    return -1 if stop == len(html) else stop


@compiled
def _next(html, place, last):
    """Return where the next tag may start whose name has the same first letter."""
    for found in range(place, last):
        if html[found] == _LT and html[found + 1] | _CASE == _M:
            return found
    return max(place, last)


@compiled
def _find(html, letters, bounds):
    """Return where the attributes of the tags start and end: int64 [tags, 2]."""
    found = np.empty((4, 2), np.int64)
    count = place = 0
    last = len(html) - _NAME_BYTES - 1
    while True:
        place = _next(html, place, last)
        start = place + 1 + _NAME_BYTES
        if place >= last:
            break
        if (
            not same_name(html, place + 1, start, LETTERS, _FIRST_LETTER, _END)
            or _WORD[html[start]]
        ):
            place += 1
            continue
        place = _tag_end(html, start)
        if place < 0:
            break
        if _mentions(html, start, place, letters, bounds):
            if count == len(found):
                found = np.concatenate((found, found))
            found[count, 0], found[count, 1] = start, place
            count += 1
    return found[:count]
