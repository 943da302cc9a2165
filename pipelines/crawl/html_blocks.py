"""How long the lines of an HTML page can get, told before it is parsed.

Extracting a page's text costs ten times as much, and the text of most pages turns out to have no
line that is long enough. Between two start tags of elements that begin a line, lines have no more
characters in all than stand there in no tag, script, style sheet or comment (in a pre, bytes):
references and text that is not shown only take some away. There are no more lines than texts
between tags that may end one; in a pre, where they visibly end, none goes on.

Not seen is that extraction joins the text around what it leaves out for main content: menus, and
elements of some classes, roles and styles, advertisements among them. Such a line may be longer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.compiled import compiled
from pipelines.crawl.html_names import RAW, UNKNOWN, flags_by_name, known
from pipelines.crawl.html_tokens import (
    COMMENT,
    END,
    SELF_CLOSING,
    START,
    UNFINISHED,
    WITHIN_RAW,
    Markup,
)

_BLOCK, _ROW, _CLOSED, _INLINE, _CELL = (1 << bit for bit in range(5))
_KINDS = flags_by_name(
    {
        # Elements that begin a line in resiliparse's text; not those that it takes for no main
        # content (nav, aside, footer), where it joins what is around them, nor form, which does
        # not nest.
        _BLOCK: (
            *("address", "article", "blockquote", "br", "center", "dd", "details", "div", "dl"),
            *("dt", "fieldset", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "li"),
            *("main", "ol", "p", "pre", "section", "ul"),
        ),
        # Elements that begin a line within a table alone.
        _ROW: ("tbody", "tfoot", "thead", "tr"),
        # Elements whose content is no markup, or is left out with what it holds.
        _CLOSED: (
            *(*RAW, "noscript", "button", "select", "template", "object", "video", "audio"),
            *("figure", "svg", "plaintext"),
        ),
        # Elements that end no line, and neither end a pre nor are ended by it.
        _INLINE: (
            *("a", "abbr", "b", "big", "cite", "code", "del", "em", "font", "i", "ins", "kbd"),
            *("mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt"),
            *("u", "var"),
        ),
        _CELL: ("td", "th"),
    }
)
_SCRIPT, _STYLE, _SVG = known("script"), known("style"), known("svg")
_PRE, _BR, _TABLE = known("pre"), known("br"), known("table")
#: What extraction puts after a cell.
_CELL_CHARACTERS = len("\t\t")
#: An end of line right after the start of a pre is no content.
_EMPTY_BYTES = len("\r\n")
_SPACES = np.zeros(256, np.bool_)
_SPACES[list(b" \t\n\f\r")] = True
_AMPERSAND, _SEMICOLON, _NUMBER_SIGN = b"&;#"
_DIGITS = np.zeros(256, np.bool_)
_DIGITS[list(b"0123456789")] = True
#: References that most pages have, by name; what is no reference stays as it is.
_REFERENCES = np.array(
    [
        int.from_bytes(name, "big")
        for name in b"nbsp amp lt gt quot ndash mdash rsquo lsquo ldquo rdquo laquo raquo".split()
    ],
    np.uint64,
)
#: Of a name or number, its ";" included.
_LONGEST_REFERENCE = 8
_NEWLINE, _RAW = ord("\n"), len(RAW)
#: As many lines as there are characters for.
_ANY = np.iinfo(np.int64).max


class Blocks(NamedTuple):
    """What lies between tags that begin a line, or ends of lines in a pre.

    Attributes:
        lengths: int64 [blocks] characters, at least as many as all lines in it have.
        lines: int64 [blocks] it has no more lines, but such as have a single character.
    """

    lengths: np.ndarray
    lines: np.ndarray

    def long_lines(self, limits: Sequence[int]) -> list[int]:
        """Return how many lines could have as many characters as each limit, 1 at least."""
        return _long_lines(self.lengths, self.lines, np.array(limits, np.int64)).tolist()


def find_blocks(html: Markup) -> Blocks | None:
    """Return the blocks of a page.

    None where something may not end where it seems to: an element of raw text or a comment without
    an end, an element that is left out within its like, or a pre without content (resiliparse
    takes all after it for preformatted).

    Time is linear in the page, whoever wrote it. Memory: 16 bytes for each tag and end of line.
    """
    lengths, lines, doubtful = _find(html.utf8, html.tokens)
    return None if doubtful else Blocks(lengths, lines)


@compiled
def _long_lines(lengths, lines, limits):
    counts = np.zeros(len(limits), np.int64)
    for block in range(len(lengths)):
        for number in range(len(limits)):
            counts[number] += min(lengths[block] // limits[number], lines[block])
    return counts


@compiled
def _characters(html, start, stop, references):
    """Count characters, white space but once in a row, and `references` as what they stand for."""
    count = 0
    after_space = False
    place = start
    while place < stop:
        code = html[place]
        is_space = _SPACES[code]
        count += (code & 0xC0) != 0x80 and not (is_space and after_space)
        after_space = is_space
        refers = references and code == _AMPERSAND
        place = _reference_end(html, place, stop) if refers else place + 1
    return count


@compiled
def _reference_end(html, place, stop):
    """Return where a frequent or numeric reference to a character ends, or where "&" does."""
    end = place + 1
    stop = min(stop, end + _LONGEST_REFERENCE)
    packed = np.uint64(0)
    while end < stop and html[end] != _SEMICOLON:
        packed = (packed << np.uint64(8)) | np.uint64(html[end])
        end += 1
    if end == stop:
        return place + 1
    if html[place + 1] == _NUMBER_SIGN:
        for digit in range(place + 2, end):
            if not _DIGITS[html[digit]]:
                return place + 1
        return end + 1 if end > place + 2 else place + 1
    for reference in _REFERENCES:
        if reference == packed:
            return end + 1
    return place + 1


@compiled
def _find(html, tokens):  # noqa: PLR0912, PLR0915, one pass
    """Return lengths and lines of `Blocks`, and whether the page is doubtful."""
    tag_count = len(tokens.flags)
    most = tag_count + 1
    for code in html:
        most += code == _NEWLINE
    lengths, lines = np.empty(most, np.int64), np.empty(most, np.int64)
    count = 0
    length = _characters(html, 0, tokens.starts[0] if tag_count else len(html), True)
    # How many texts of the block so far are more than white space, and the last one's length.
    texts, text = 0, length
    in_pre = ends_show = any_number = False
    closed = -1  # the element whose markup does not count
    tables = 0
    following = 0
    for token in range(tag_count):
        flag, name = tokens.flags[token], np.int64(tokens.names[token])
        if flag & WITHIN_RAW:
            continue
        following = token + 1
        while following < tag_count and tokens.flags[following] & WITHIN_RAW:
            following += 1
        start = tokens.ends[token]
        stop = tokens.starts[following] if following < tag_count else len(html)
        kind = _KINDS[min(name, UNKNOWN)]
        real = flag & COMMENT == 0
        if flag & UNFINISHED and (not real or name < _RAW):
            return lengths, lines, True
        if closed >= 0:
            real = False
            if name == closed and flag & START:
                return lengths, lines, True
            if name == closed and flag & END:
                closed = -1
        elif flag & START and kind & _CLOSED and not (name == _SVG and flag & SELF_CLOSING):
            closed = name
        if real and name == _TABLE:
            tables += 1 if flag & START else -1
        begins = real and flag & START and (kind & _BLOCK or (kind & _ROW and tables > 0))
        may_end = real and not kind & _INLINE
        if real and name == _PRE:
            in_pre = ends_show = flag & START > 0
            ends = following < tag_count and tokens.flags[following] & END > 0
            if in_pre and ends and stop - start <= _EMPTY_BYTES:
                return lengths, lines, True
        elif may_end and name != _BR:
            ends_show = False
        if may_end or begins:
            texts += text > 1  # white space between two tags counts as one character
            text = 0
        if begins:
            lengths[count], lines[count] = length, _ANY if any_number else max(1, texts)
            count += 1
            length = texts = 0
            any_number = in_pre
        added = _CELL_CHARACTERS if flag & START and kind & _CELL else 0
        if flag & START and (name in (_SCRIPT, _STYLE)):
            pass
        elif not in_pre:
            added += _characters(html, start, stop, not (flag & START and name < _RAW))
        elif not ends_show:
            added += stop - start
        else:
            for place in range(start, stop):
                if html[place] == _NEWLINE:
                    length += added
                    lengths[count], lines[count] = length, _ANY if any_number else max(1, texts)
                    count += 1
                    length = texts = added = 0
                    any_number = True
                added += 1
        length += added
        text += added
    texts += text > 1
    lengths[count], lines[count] = length, _ANY if any_number else max(1, texts)
    return lengths[: count + 1], lines[: count + 1], closed >= 0
