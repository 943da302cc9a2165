"""How long the lines of HTML pages can get, told of many pages at once before any is parsed.

Extracting a page's text costs ten times as much, and the text of most pages turns out to have no
line that is long enough. Between two start tags of elements that begin a line there is at most one
line (in a pre several), as long as the characters there that belong to no tag, script, style sheet
or comment (in a pre, the bytes). Character references, end tags and text that is not shown only
make it shorter.

Not seen is that extraction joins the text around what it leaves out, as it does pictures with
captions, menus, and for main content elements of some classes and roles: such a line may be longer.
Nor is a tag in the value of an attribute told from any other if a ">" comes before it there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.crawl.html_tags import COMMENT, PADDING, Tags, find_tags, packed_name

#: Elements that begin a line in resiliparse's text; not those that it takes for no main content
#: (nav, aside, footer), where it joins what is around them.
_BLOCKS = (
    *("address", "article", "blockquote", "br", "center", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "li", "main"),
    *("ol", "p", "pre", "section", "tbody", "tfoot", "thead", "tr", "ul"),
)
#: Before each page and after the last; ends a tag that the page before left open.
_SEPARATOR = b"><p>"

_BLOCK_NAMES = np.sort(np.array([packed_name(name) for name in _BLOCKS], np.uint64))
_SCRIPT, _STYLE, _PRE, _TD, _TH = (
    np.uint64(packed_name(name)) for name in ("script", "style", "pre", "td", "th")
)
#: What extraction puts after a cell.
_CELL_CHARACTERS = len("\t\t")


class Blocks(NamedTuple):
    """What lies between tags that begin a line, page after page.

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
    ten times their size, up to a hundred times where they consist of tags.
    """
    html = _SEPARATOR + _SEPARATOR.join(pages) + _SEPARATOR + PADDING
    codes = np.frombuffer(html, np.uint8)
    page_starts = np.zeros(len(pages) + 1, np.int64)
    np.cumsum([len(page) + len(_SEPARATOR) for page in pages], out=page_starts[1:])
    tags = find_tags(html)
    starts, ends, names, closing = tags
    first_tags = np.searchsorted(starts, page_starts)
    place = np.minimum(np.searchsorted(_BLOCK_NAMES, names), len(_BLOCK_NAMES) - 1)
    begins = (_BLOCK_NAMES[place] == names) & ~closing
    shown = np.ones(len(starts), bool)
    _hide(html, tags, first_tags, begins, shown)
    counted = _counted(codes)
    counted[page_starts] = False
    count = _Counts(counted)
    stops = np.append(starts[1:], len(codes))
    ends = np.minimum(ends, stops)
    preformatted = _preformatted(names == _PRE, closing, first_tags)
    # White space counts in a pre; bytes are no fewer than characters.
    texts = np.where(preformatted, stops - ends, count.before(stops) - count.before(ends)) * shown
    texts += _CELL_CHARACTERS * (((names == _TD) | (names == _TH)) & ~closing)
    heads = np.flatnonzero(begins)
    first = np.searchsorted(heads, first_tags)
    lengths = np.add.reduceat(texts, heads)
    return Blocks(lengths[: first[-1]], preformatted[heads[: first[-1]]], first)


def _preformatted(pre: np.ndarray, closing: np.ndarray, first_tags: np.ndarray) -> np.ndarray:
    """Tell which tags come with or after the start of a pre and before its end."""
    changes = pre.copy()
    changes[first_tags] = True
    last_change = np.maximum.accumulate(np.where(changes, np.arange(len(pre)), 0))
    return (pre & ~closing)[last_change]


def _hide(
    html: bytes, tags: Tags, first_tags: np.ndarray, begins: np.ndarray, shown: np.ndarray
) -> None:
    """Mark what follows tags in scripts, style sheets and comments as not shown, up to their ends.

    What is never closed lasts to the end of its page.
    """
    starts, ends, names, closing = tags
    events = np.flatnonzero((names == COMMENT) | (names == _SCRIPT) | (names == _STYLE))
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
            begins[first:page_end] = shown[first:page_end] = False
            opened = 0
        if opened:
            if closes and name == opened:
                begins[first:tag] = shown[first:tag] = False
                opened = 0
        elif tag < position:
            continue  # within a comment
        elif name == int(COMMENT):
            limit = int(starts[end])
            stop = html.find(b"-->", int(starts[tag]) + 2, limit)
            stop = limit if stop < 0 else stop + 3
            position = int(np.searchsorted(starts, stop))
            begins[tag:position] = shown[tag : position - 1] = False
            ends[position - 1] = stop
        elif not closes:
            opened, first, page_end = name, tag, end
    if opened:
        begins[first:page_end] = shown[first:page_end] = False


def _counted(codes: np.ndarray) -> np.ndarray:
    """Tell which bytes begin a character, white space but once in a row: bool [bytes]."""
    counted = (codes & np.uint8(0xC0)) != 0x80
    space = codes <= ord(" ")
    counted[1:] &= ~(space[1:] & space[:-1])
    return counted


class _Counts:
    """Counts of flags before any position: a bit each, and running sums of words of 64."""

    def __init__(self, flags: np.ndarray):
        padded = np.zeros(len(flags) // 64 + 1, np.uint64)
        packed = np.packbits(flags, bitorder="little")
        padded.view(np.uint8)[: len(packed)] = packed
        self._words = padded
        self._sums = np.zeros(len(padded), np.int64)
        np.cumsum(np.bitwise_count(padded[:-1]), out=self._sums[1:])

    def before(self, positions: np.ndarray) -> np.ndarray:
        """Return how many flags are set before each position: int64."""
        words = positions >> 6
        below = (np.uint64(1) << (positions & 63).astype(np.uint64)) - np.uint64(1)
        return self._sums[words] + np.bitwise_count(self._words[words] & below)
