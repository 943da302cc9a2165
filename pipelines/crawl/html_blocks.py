"""How long the lines of HTML pages can be, told of many pages at once before any is parsed.

Extracting a page's text costs a hundred times as much, and the text of most pages turns out to have
no line that is long enough. Between two tags that end a line wherever they stand there is at most
one line (in a pre several), as long as the characters there that belong to no tag, script, style
sheet or comment; character references and text that is not shown only make it shorter.

Not seen is that main-content extraction joins the text before and after an element that it leaves
out for its class or role: such a line may be longer than both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_U8, _U64 = np.uint8, np.uint64
_NAME_BYTES = 8

#: Elements whose start and end tags both end a line in resiliparse's text; not those that it takes
#: for no main content (nav, aside, footer) and joins what is around them.
_BLOCKS = (
    *("address", "article", "blockquote", "br", "center", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "li", "main"),
    *("ol", "p", "pre", "section", "tbody", "tfoot", "thead", "tr", "ul"),
)
_SEPARATOR = b"<p>"

_ONES = _U64(0x0101010101010101)
_HIGH_BITS = _U64(0x80) * _ONES
_LOWER_CASE = _U64(0x20) * _ONES
#: What ends a tag's name, after bit 5 was set as in lower-case letters: space, ">", "/" and a line
#: feed. A name before any other character is taken for longer than it is, and for no block.
_NAME_ENDS = tuple(_U64(code) * _ONES for code in (0x20, 0x3E, 0x2F, 0x0A | 0x20))
_COMMENT = _U64(int.from_bytes(b"!--", "little"))
_LT, _GT, _SLASH, _BANG, _QUESTION = b"<>/!?"


def _packed(name: str) -> int:
    return int.from_bytes(name.encode()[:_NAME_BYTES], "little")


_BLOCK_NAMES = np.sort(np.array([_packed(name) for name in _BLOCKS], _U64))
_SCRIPT, _STYLE, _PRE = (_U64(_packed(name)) for name in ("script", "style", "pre"))


class Blocks(NamedTuple):
    """What lies between tags that end a line, page after page.

    Attributes:
        lengths: int64 [blocks] characters; no line in a block is longer.
        preformatted: bool [blocks] whether it may hold several lines, and not one at most.
        first: int64 [pages + 1] the block that each page begins with.
    """

    lengths: np.ndarray
    preformatted: np.ndarray
    first: np.ndarray


def find_blocks(pages: Sequence[bytes]) -> Blocks:
    """Return the blocks of HTML pages in UTF-8.

    Time is linear in the bytes of the pages, whoever wrote them: about 7 ns a byte. Memory: about
    10 bytes a byte.
    """
    html = _SEPARATOR + _SEPARATOR.join(pages) + _SEPARATOR + bytes(_NAME_BYTES + 2)
    codes = np.frombuffer(html, _U8)
    page_starts = np.zeros(len(pages) + 1, np.int64)
    np.cumsum([len(page) + len(_SEPARATOR) for page in pages], out=page_starts[1:])
    starts, ends, names, closing = _tags(html, codes)
    is_block = _BLOCK_NAMES[_place(names)] == names
    shown = np.ones(len(starts), bool)
    first_tags = np.searchsorted(starts, page_starts)
    _hide(html, starts, ends, names, closing, first_tags, is_block, shown)
    count = _Counts(_counted(codes))
    next_starts = np.append(starts[1:], len(codes))
    texts = (count.before(next_starts) - count.before(np.minimum(ends, next_starts))) * shown
    heads = np.flatnonzero(is_block)
    first = np.searchsorted(heads, first_tags)
    lengths = np.add.reduceat(texts, heads)
    preformatted = _preformatted(names[heads] == _PRE, closing[heads], first)
    return Blocks(lengths[: first[-1]], preformatted[: first[-1]], first)


def _preformatted(pre: np.ndarray, closing: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Tell which blocks come after the start of a pre and before its end."""
    changes = pre.copy()
    changes[first] = True
    last_change = np.maximum.accumulate(np.where(changes, np.arange(len(pre)), 0))
    return (pre & ~closing)[last_change]


def _place(names: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(_BLOCK_NAMES, names), len(_BLOCK_NAMES) - 1)


def _tags(html: bytes, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the tags (and comments): starts, ends, beginnings of names, which are end tags.

    A tag ends after the next ">". A name is its first eight bytes in lower case, as one number; of
    a comment it is "!--".
    """
    words = np.ndarray(len(codes) - _NAME_BYTES + 1, "<u8", html, strides=(1,))
    brackets = np.flatnonzero(codes & ~_U8(_LT ^ _GT) == _LT & _GT)
    opens = codes[brackets] == _LT
    # The next ">" from the last to the first; the separators see to it that there is one.
    next_ends = np.where(opens, len(codes), brackets + 1)[::-1]
    np.minimum.accumulate(next_ends, out=next_ends)
    starts, ends = brackets[opens], next_ends[::-1][opens]
    found = words[starts + 1]
    closing = found.astype(_U8) == _SLASH
    names = np.where(closing, words[starts + 2], found)
    first = names.astype(_U8)
    is_tag = ((first | 0x20) - _U8(ord("a")) < 26) | (first == _BANG) | (first == _QUESTION)
    is_comment = (names & _U64(0xFFFFFF)) == _COMMENT
    names |= _LOWER_CASE
    end = _first_zero(names ^ _NAME_ENDS[0])
    for code in _NAME_ENDS[1:]:
        end |= _first_zero(names ^ code)
    # The lowest bit that is set, and all below its byte.
    end &= ~end + _U64(1)
    names &= (end >> _U64(7)) - _U64(1)
    names[is_comment] = _COMMENT
    return starts[is_tag], ends[is_tag], names[is_tag], closing[is_tag]


def _first_zero(words: np.ndarray) -> np.ndarray:
    """Return words whose lowest bit that is set is the highest of the first byte that is zero."""
    return (words - _ONES) & ~words & _HIGH_BITS


def _hide(
    html: bytes,
    starts: np.ndarray,
    ends: np.ndarray,
    names: np.ndarray,
    closing: np.ndarray,
    first_tags: np.ndarray,
    is_block: np.ndarray,
    shown: np.ndarray,
) -> None:
    """Mark what follows tags in scripts, style sheets and comments as not shown, up to their ends.

    What is never closed lasts to the end of its page.
    """
    events = np.flatnonzero((names == _COMMENT) | (names == _SCRIPT) | (names == _STYLE))
    pages = np.searchsorted(first_tags, events, side="right")
    rows = zip(
        events.tolist(),
        names[events].tolist(),
        closing[events].tolist(),
        first_tags[pages].tolist(),
        strict=True,
    )
    opened = 0  # the raw text that is open: its name, or 0
    position = first = page_end = 0
    for tag, name, closes, end in rows:
        if opened and tag >= page_end:
            is_block[first:page_end] = shown[first:page_end] = False
            opened = 0
        if opened:
            if closes and name == opened:
                is_block[first:tag] = shown[first:tag] = False
                opened = 0
        elif tag < position:
            continue  # within a comment
        elif name == int(_COMMENT):
            limit = int(starts[end])
            stop = html.find(b"-->", int(starts[tag]) + 2, limit)
            stop = limit if stop < 0 else stop + 3
            position = int(np.searchsorted(starts, stop))
            is_block[tag:position] = shown[tag : position - 1] = False
            ends[position - 1] = stop
        elif not closes:
            opened, first, page_end = name, tag, end
    if opened:
        is_block[first:page_end] = shown[first:page_end] = False


def _counted(codes: np.ndarray) -> np.ndarray:
    """Tell which bytes begin a character, white space but once in a row: bool [bytes]."""
    counted = (codes & _U8(0xC0)) != 0x80
    space = codes <= ord(" ")
    counted[1:] &= ~(space[1:] & space[:-1])
    return counted


class _Counts:
    """Counts of flags before any position: a bit each, and running sums of words of 64."""

    def __init__(self, flags: np.ndarray):
        padded = np.zeros(len(flags) // 64 + 1, _U64)
        packed = np.packbits(flags, bitorder="little")
        padded.view(_U8)[: len(packed)] = packed
        self._words = padded
        self._sums = np.zeros(len(padded), np.int64)
        np.cumsum(np.bitwise_count(padded[:-1]), out=self._sums[1:])

    def before(self, positions: np.ndarray) -> np.ndarray:
        """Return how many flags are set before each position: int64."""
        words = positions >> 6
        below = (_U64(1) << (positions & 63).astype(_U64)) - _U64(1)
        return self._sums[words] + np.bitwise_count(self._words[words] & below)
