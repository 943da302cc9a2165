"""How long the lines of HTML pages can get, told of many pages at once before any is parsed.

Extracting a page's text costs ten times as much, and the text of most pages turns out to have no
line that is long enough. Between two start tags of elements that begin a line, lines have no more
characters in all than stand there in no tag, script, style sheet or comment (in a pre, bytes):
references and text that is not shown only take some away. There are no more lines than texts
between tags that may end one; in a pre, where they visibly end, none goes on.

Not seen is that extraction joins the text around what it leaves out for main content: menus, and
elements of some classes, roles and styles, advertisements among them. Such a line may be longer.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.crawl.html_tags import (
    COMMENT,
    PADDING,
    SHORTEST_QUOTING_TAG,
    NameTable,
    Tags,
    find_tags,
    packed_name,
)

#: Elements that begin a line in resiliparse's text; not those that it takes for no main content
#: (nav, aside, footer), where it joins what is around them, and not form, which does not nest.
_BLOCKS = (
    *("address", "article", "blockquote", "br", "center", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "li", "main"),
    *("ol", "p", "pre", "section", "ul"),
)
#: Elements that begin a line within a table alone.
_ROWS = ("tbody", "tfoot", "thead", "tr")
#: Elements whose content is no markup, or is left out with what it holds.
_CLOSED = (
    *("script", "style", "title", "textarea", "iframe", "noframes", "noembed", "xmp", "noscript"),
    *("button", "select", "template", "object", "video", "audio", "figure", "svg", "plaintext"),
)
#: Elements that end no line, and neither end a pre nor are ended by it.
_INLINE = (
    *("a", "abbr", "b", "big", "cite", "code", "del", "em", "font", "i", "ins", "kbd", "mark"),
    *("q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var"),
)
#: An end of line right after the start of a pre is no content.
_EMPTY_BYTES = len("\r\n")
#: As many lines as there are characters for.
_ANY_NUMBER = np.iinfo(np.int64).max
#: Before each page and after the last; ends a tag that the page before left open.
_SEPARATOR = b"><p>"

#: All white space that ends a name becomes a space.
_SPACES = bytes.maketrans(b"\t\n\f\r", b"    ")
_QUOTES = b"\"'"
#: A tag, in which values in quotes end.
_TAG = re.compile(rb"""<(?:[^=>]++|=\s*+(?:"[^"]*+"|'[^']*+'|(?!["'])[^\s>]*+))*+>""")

_BLOCK, _ROW, _EVENT, _INLINE_TAG, _CELL, _PRE, _BR, _TABLE = (1 << bit for bit in range(8))
_FLAGS = (
    *((_BLOCK, name) for name in _BLOCKS),
    *((_ROW, name) for name in _ROWS),
    *((_EVENT, name) for name in ("!--", *_CLOSED)),
    *((_INLINE_TAG, name) for name in _INLINE),
    *((_CELL, "td"), (_CELL, "th"), (_PRE, "pre"), (_BR, "br"), (_TABLE, "table")),
)
_KINDS = NameTable(_FLAGS)
_SCRIPT, _STYLE = packed_name("script"), packed_name("style")
#: What extraction puts after a cell.
_CELL_CHARACTERS = len("\t\t")


class Blocks(NamedTuple):
    """What lies between tags that begin a line, or ends of lines in a pre, page after page.

    Attributes:
        lengths: int64 [blocks] characters, at least as many as all lines in it have.
        lines: int64 [blocks] it has no more lines, but such as have a single character.
        first: int64 [pages + 1] the block that each page begins with.
        doubtful: bool [pages] whether the page has something that may not end where it seems to:
            an element of raw text or a comment without an end, a ">" in a value in quotes, or a
            pre without content (resiliparse takes all after it for preformatted).
    """

    lengths: np.ndarray
    lines: np.ndarray
    first: np.ndarray
    doubtful: np.ndarray

    def long_lines(self, limit: int) -> np.ndarray:
        """Return how many lines of each page could have `limit` characters: int64 [pages]."""
        lines = np.minimum(self.lengths // max(1, limit), self.lines)
        before = np.zeros(len(lines) + 1, np.int64)
        np.cumsum(lines, out=before[1:])
        return np.diff(before[self.first])


def find_blocks(pages: Sequence[bytes]) -> Blocks:
    """Return the blocks of HTML pages in UTF-8.

    Time is linear in the bytes of the pages, whoever wrote them: about 8 ns a byte, up to a
    microsecond where they consist of comments. Memory: about ten times their size, up to a hundred
    times where they consist of tags or of ends of lines in a pre.
    """
    written = _SEPARATOR + _SEPARATOR.join(pages) + _SEPARATOR + PADDING
    html = written.translate(_SPACES)
    codes = np.frombuffer(html, np.uint8)
    page_starts = np.zeros(len(pages) + 1, np.int64)
    np.cumsum([len(page) + len(_SEPARATOR) for page in pages], out=page_starts[1:])
    tags = find_tags(html)
    starts, ends, names, closing = tags
    first_tags = np.searchsorted(starts, page_starts)
    kinds = _KINDS.flags(names)
    real, shown, doubtful = _hide(html, tags, first_tags, np.flatnonzero(kinds & _EVENT))
    real_tags = np.flatnonzero(real & (np.append(0, ends[:-1]) <= starts))
    doubtful[_pages(first_tags, _cut_in_quotes(html, tags, real_tags))] = True
    begun = kinds * (real & ~closing)
    begins = (begun & _BLOCK) > 0
    begins |= ((begun & _ROW) > 0) & _in_table(kinds, closing, first_tags)
    counted = _counted(codes)
    counted[page_starts] = False
    count = _Counts(counted)
    stops = np.append(starts[1:], len(codes))
    ends = np.minimum(ends, stops)
    parts = real & ((kinds & _INLINE_TAG) == 0)
    preformatted, has_lines = _preformatted(kinds, closing, real, parts, first_tags)
    empty = ((begun & _PRE) > 0) & (stops - ends <= _EMPTY_BYTES)
    empty[:-1] &= closing[1:]
    doubtful[_pages(first_tags, np.flatnonzero(empty))] = True
    # White space counts in a pre; bytes are no fewer than characters.
    texts = np.where(preformatted, stops - ends, count.before(stops) - count.before(ends)) * shown
    texts += _CELL_CHARACTERS * (((kinds & _CELL) > 0) & ~closing)
    before = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(texts, out=before[1:])
    in_pre = np.flatnonzero(has_lines & shown)
    line_ends = _line_ends(written, ends[in_pre], stops[in_pre], before[in_pre])
    cuts = np.append(starts[begins], line_ends[0])
    values = np.append(before[:-1][begins], line_ends[1])
    # What comes after a pre belongs to its last block.
    lines = np.where(preformatted[begins], _ANY_NUMBER, _texts(texts, parts, begins))
    lines = np.append(lines, np.full(len(line_ends[0]), _ANY_NUMBER))
    if len(line_ends[0]):
        order = np.argsort(cuts, kind="stable")
        cuts, values, lines = cuts[order], values[order], lines[order]
    first = np.searchsorted(cuts, page_starts)
    last = first[-1]
    return Blocks(np.diff(values[: last + 1]), lines[:last], first, doubtful[: len(pages)])


def _texts(texts: np.ndarray, parts: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Count the texts of each block, one at least: int64 [blocks].

    Args:
        texts: int64 [tags] characters after each tag.
        parts: bool [tags] whether the tag may end a line.
        begins: bool [tags] whether a block begins with the tag.
    """
    parted = np.flatnonzero(parts | begins)
    # White space between two tags counts as one character.
    is_text = np.add.reduceat(texts, parted) > 1
    return np.maximum(1, np.add.reduceat(is_text, np.flatnonzero(begins[parted]), dtype=np.int64))


def _line_ends(
    html: bytes, starts: np.ndarray, stops: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where lines end within text of pre elements, and how much text comes before.

    Args:
        html: as it was written.
        starts: int64 [texts] where each text starts.
        stops: int64 [texts] where it ends.
        before: int64 [texts] how much text comes before each.
    """
    if not len(starts):
        return starts, before
    found = np.flatnonzero(np.frombuffer(html, np.uint8) == ord("\n"))
    text = np.searchsorted(starts, found, side="right") - 1
    within = (text >= 0) & (found < stops[text])
    found, text = found[within], text[within]
    return found, before[text] + found - starts[text]


def _pages(first_tags: np.ndarray, tags: np.ndarray) -> np.ndarray:
    return np.searchsorted(first_tags, tags, side="right") - 1


def _preformatted(
    kinds: np.ndarray,
    closing: np.ndarray,
    real: np.ndarray,
    parts: np.ndarray,
    first_tags: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which tags come with or after the start of a pre and before its end.

    Returns:
        Those, and of them those before which nothing came that may have ended the pre, so that a
        line ends where it seems to (bool [tags]).
    """
    pre = real & ((kinds & _PRE) > 0)
    changes = pre.copy()
    changes[first_tags] = True
    last_change = np.maximum.accumulate(np.where(changes, np.arange(len(pre)), 0))
    within = (pre & ~closing)[last_change]
    others = np.cumsum(parts & ((kinds & _BR) == 0) & ~changes)
    return within, within & (others == others[last_change])


def _in_table(kinds: np.ndarray, closing: np.ndarray, first_tags: np.ndarray) -> np.ndarray:
    """Tell which tags come after more starts of tables on their page than ends."""
    depth = np.cumsum(np.where(closing, -1, 1) * ((kinds & _TABLE) > 0))
    return depth > np.repeat(depth[first_tags], np.diff(first_tags, append=len(kinds)))


def _cut_in_quotes(html: bytes, tags: Tags, some: np.ndarray) -> np.ndarray:
    """Return which of some tags do not end where they seem to, but in a value in quotes.

    A tag is looked at only if it has an odd number of either quote. (One with a value cut in each
    kind of quotes is missed.)
    """
    some = some[tags.ends[some] - tags.starts[some] >= SHORTEST_QUOTING_TAG]
    starts, ends = tags.starts[some], tags.ends[some]
    codes = np.frombuffer(html, np.uint8)
    odd = np.zeros(len(some), bool)
    for quote in _QUOTES:
        count = _Counts(codes == quote)
        odd |= ((count.before(ends) - count.before(starts)) & 1) > 0
    places = zip(some[odd].tolist(), starts[odd].tolist(), ends[odd].tolist(), strict=True)
    return np.array([tag for tag, *place in places if not _TAG.fullmatch(html, *place)], np.int64)


def _hide(
    html: bytes, tags: Tags, first_tags: np.ndarray, events: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tell what is within scripts, style sheets, comments and other `_CLOSED` elements.

    Sets the ends of comments in `tags`.

    Returns:
        Which tags are tags (bool [tags]), after which text counts (bool [tags]), and pages where
        anything lacks its end, which count as if it did not begin (bool [pages + 1]).
    """
    starts, ends, names, closing = tags
    doubtful = np.zeros(len(first_tags), bool)
    pages = _pages(first_tags, events)
    # Most elements end with the next event; what is left is looked at one by one.
    pairs = _pairs(html, tags, events, pages)
    opens, closes = events[pairs], events[pairs + 1]
    real = ~_between(opens + 1, closes, len(starts))
    scripts = (names[opens] == _SCRIPT) | (names[opens] == _STYLE)
    shown = ~_between(opens[scripts], closes[scripts], len(starts))
    single = np.ones(len(events), bool)
    single[pairs] = single[pairs + 1] = False
    events, pages = events[single], pages[single]
    pair_opens, pair_closes = (opens.tolist(), closes.tolist()) if len(events) else ([], [])
    rows = zip(
        events.tolist(),
        names[events].tolist(),
        closing[events].tolist(),
        pages.tolist(),
        strict=True,
    )
    opened = first = opened_on = 0  # the element that is open, its start tag and its page
    position = 0  # the first tag after the last comment
    for tag, name, ending, page in rows:
        if opened and page > opened_on:
            doubtful[opened_on] = True
            opened = 0
        if opened:
            if ending and name == opened:
                within = slice(bisect_left(pair_opens, first), bisect_left(pair_opens, tag))
                # Which of two ends is the element's?
                doubtful[page] |= bool((names[opens[within]] == name).any())
                real[first + 1 : tag] = False
                shown[first:tag] = name not in (_SCRIPT, _STYLE)
                opened = 0
        elif tag < position or ending:
            continue
        elif name == COMMENT:
            stop = _comment_end(html, int(starts[tag]), int(starts[first_tags[page + 1]]))
            if not stop:
                doubtful[page] = True
                continue
            position = int(np.searchsorted(starts, stop))
            real[tag:position] = shown[tag : position - 1] = False
            ends[position - 1] = stop
            last = bisect_left(pair_opens, position) - 1
            # The start is within the comment, the end is not.
            doubtful[page] |= last >= 0 and pair_opens[last] > tag and pair_closes[last] >= position
        elif html[ends[tag] - 2] != ord("/"):
            opened, first, opened_on = name, tag, page
    if opened:
        doubtful[opened_on] = True
    return real, shown, doubtful


def _pairs(html: bytes, tags: Tags, events: np.ndarray, pages: np.ndarray) -> np.ndarray:
    """Return the events (their places in `events`) that start what the next event ends."""
    names, closing = tags.names[events], tags.closing[events]
    codes = np.frombuffer(html, np.uint8)
    starts = ~closing & (names != COMMENT) & (codes[tags.ends[events] - 2] != ord("/"))
    ended = closing[1:] & (names[1:] == names[:-1]) & (pages[1:] == pages[:-1])
    return np.flatnonzero(starts[:-1] & ended)


def _between(starts: np.ndarray, stops: np.ndarray, size: int) -> np.ndarray:
    """Tell which places lie in one of some ranges that do not overlap: bool [size]."""
    changes = np.zeros(size + 1, np.int8)
    changes[starts] = 1
    changes[stops] -= 1
    return np.cumsum(changes[:-1], dtype=np.int8).view(bool)


def _comment_end(html: bytes, start: int, limit: int) -> int:
    """Return where a comment ends, 0 if it does not."""
    stop = html.find(b"-->", start + 2, limit)
    mistyped = html.find(b"--!>", start + 4, limit if stop < 0 else stop)
    return mistyped + 4 if mistyped >= 0 else stop + 3 if stop >= 0 else 0


def _counted(codes: np.ndarray) -> np.ndarray:
    """Tell which bytes begin a character, spaces but once in a row: bool [bytes]."""
    counted = (codes & np.uint8(0xC0)) != 0x80
    space = codes == ord(" ")
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
