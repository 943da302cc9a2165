"""What a page says of itself in meta tags, wherever they stand: in comments and scripts too."""

import functools
from collections.abc import Iterator

import numpy as np

from pipelines.compiled import compiled
from pipelines.crawl.html_names import BOUNDS, LETTERS, RAW, known, same_name
from pipelines.crawl.html_tokens import (
    COMMENT,
    START,
    UNFINISHED,
    WITHIN_RAW,
    Markup,
    is_tag,
    raw_stop,
    read_attributes,
)

_META, _RAW, _LT = known("meta"), len(RAW), ord("<")
_FIRST_LETTER, _END = BOUNDS[_META], BOUNDS[_META + 1]
_NAME_BYTES = _END - _FIRST_LETTER
_CASE = np.uint8(0x20)


def find_metas(html: Markup, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the attributes of each meta tag that has any of some words in them, in any case.

    Args:
        html: the page. Tags in values of attributes are none.
        words: ASCII; most tags have none of them (descriptions, character sets).
    """
    letters, bounds = _as_letters(words)
    for start, end in _find(html.utf8, html.tokens, letters, bounds).tolist():
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
def _find(html, tokens, letters, bounds):
    """Return where the attributes of the tags start and end: int64 [tags, 2]."""
    found = np.empty((4, 2), np.int64)
    count = 0
    for token in range(len(tokens.flags)):
        flag, name = tokens.flags[token], np.int64(tokens.names[token])
        if flag & WITHIN_RAW or not (flag & COMMENT or name == _META or name < _RAW):
            continue
        place, stop = np.int64(tokens.starts[token]), np.int64(tokens.ends[token])
        if flag & START and name < _RAW:
            place, stop = stop, raw_stop(html, tokens, token)
        while place < stop:
            if html[place] == _LT and is_tag(html, place + 1, LETTERS, _FIRST_LETTER, _END):
                start = place + 1 + _NAME_BYTES
                place, _, flags = read_attributes(html, start, stop, False)
                if not flags & UNFINISHED and _mentions(html, start, place - 1, letters, bounds):
                    if count == len(found):
                        found = np.concatenate((found, found))
                    found[count, 0], found[count, 1] = start, place - 1
                    count += 1
            else:
                place += 1
    return found[:count]
