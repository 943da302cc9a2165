"""Finds lines of UTF-8 text by compiled loops, and detects text that is HTML or script source.

As in mC4, lines have no white space around them, and none is empty.
"""

import numpy as np

from mswitch.pipelines.compiled import compiled

_METADATA_PREFIXES = (b"WARC", b"CONTENT-", b"Content-")
_LETTERS = np.frombuffer(b"".join(_METADATA_PREFIXES), np.uint8)
_BOUNDS = np.cumsum([0, *map(len, _METADATA_PREFIXES)])
_NEWLINE, _RETURN = b"\n\r"
_SPACE = np.array([chr(code).isspace() for code in range(128)])
#: `is_source` counts a text's signs: characters of HTML or script, such as "<" and "{". A text with
#: fewer than `_MIN_SIGNS` signs is prose. A text is source code if signs are at least
#: `_MARKUP_SHARE` of its bytes. If half of its bytes are in lines that end like script, a share of
#: `_SCRIPT_SHARE` is enough.
_MIN_SIGNS, _MARKUP_SHARE, _SCRIPT_SHARE = 20, 0.05, 0.02
_SIGNS, _SCRIPT_ENDS = b"<>{};=", (b";", b"{", b"}", b">")
#: A byte continues a character in UTF-8 if its bits in `_MARK` equal `_WITHIN`.
_MARK, _WITHIN = 0xC0, 0x80


def normalize_lines(utf8: bytes, drop_metadata_lines: bool = True) -> bytes:
    r"""Strip lines, drop empty lines, join the other lines by newlines (c4_utils.split_wet_file).

    Args:
        utf8: a text, whose lines end at \n, \r or \r\n.
        drop_metadata_lines: also drop lines that begin like a WARC header.
    """
    source = np.frombuffer(utf8, np.uint8)
    target = np.empty(len(source) + 1, np.uint8)
    prefixes = _BOUNDS if drop_metadata_lines else _BOUNDS[:1]
    return target[: _copy_lines(source, prefixes, target)].tobytes()


def is_source(utf8: bytes) -> bool:
    """Return whether a text is a page's source code (HTML or script) instead of prose."""
    least, count = max(_MIN_SIGNS, _SCRIPT_SHARE * len(utf8)), utf8.count
    if len(utf8) - len(utf8.translate(None, _SIGNS)) < least:  # true for nearly every text
        return False
    # Count "<" and ">" in pairs, since quoted mail has single ">". Ignore repeated "=", which
    # underlines headings.
    signs = 2 * min(count(b"<"), count(b">")) + count(b"{") + count(b"}") + count(b";")
    signs += count(b"=") - 2 * count(b"==")
    if signs < least:
        return False
    if signs >= _MARKUP_SHARE * len(utf8):
        return True
    # Also require a brace, because Greek questions end in a semicolon, like statements of a script.
    script = sum(len(line) for line in utf8.split(b"\n") if line.endswith(_SCRIPT_ENDS))
    return b"{" in utf8 and 2 * script >= len(utf8)


def keep_lines(utf8: bytes, kept: np.ndarray) -> bytes:
    """Return the lines of a text for which `kept`, bool [lines], is true, joined by newlines."""
    target = np.empty(len(utf8) + 1, np.uint8)
    return target[: _copy_kept(np.frombuffer(utf8, np.uint8), kept, target)].tobytes()


def third_longest_line(utf8: bytes, enough: int) -> int:
    """Return the length of the third-longest line; with fewer lines, of the shortest line.

    If the length is at least `enough`, any such number may be returned.
    """
    lengths = _measure_longest(np.frombuffer(utf8, np.uint8), enough)
    return min(length for length in lengths if length >= 0)


@compiled
def _copy_lines(source, prefixes, target):
    """Copy the kept lines, stripped, into `target`; return the number of bytes copied."""
    size, place = 0, 0
    while place < len(source):
        width = _measure_space(source, place)
        if width:
            place += width
            continue
        first = size
        while place < len(source) and source[place] not in (_NEWLINE, _RETURN):
            target[size] = source[place]
            size += 1
            place += 1
        size = _find_end(target, size)
        if _has_prefix(target, first, size, prefixes):
            size = first
        else:
            target[size] = _NEWLINE
            size += 1
    return max(size - 1, 0)


@compiled
def _copy_kept(source, kept, target):
    place = size = 0
    for keep in kept:
        while place < len(source) and source[place] != _NEWLINE:
            if keep:
                target[size] = source[place]
                size += 1
            place += 1
        place += 1
        if keep:
            target[size] = _NEWLINE
            size += 1
    return max(size - 1, 0)


@compiled
def _find_end(text, end):
    """Return the end of a line without trailing white space; the line must have other text."""
    while True:
        last = end - 1
        while text[last] & _MARK == _WITHIN:
            last -= 1
        if not _measure_space(text, last):
            return end
        end = last


@compiled
def _measure_space(text, place):
    """Return how many bytes the white space (`str.isspace`) at a place has; 0 if there is none.

    White space beyond ASCII: U+0085, U+00A0, U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F,
    U+205F, U+3000.
    """
    code = text[place]
    if code < 0x80:
        return 1 if _SPACE[code] else 0
    if code == 0xC2:
        return 2 if text[place + 1] in (0x85, 0xA0) else 0
    if code not in (0xE1, 0xE2, 0xE3):
        return 0
    second, third = text[place + 1], text[place + 2]
    if code == 0xE2:
        general = second == 0x80 and (third <= 0x8A or third in (0xA8, 0xA9, 0xAF))
        return 3 if general or (second == 0x81 and third == 0x9F) else 0
    if code == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0
    return 3 if second == 0x80 and third == 0x80 else 0


@compiled
def _has_prefix(text, start, end, bounds):
    for prefix in range(len(bounds) - 1):
        first, last = bounds[prefix], bounds[prefix + 1]
        place = 0
        while (
            first + place < last
            and start + place < end
            and text[start + place] == _LETTERS[first + place]
        ):
            place += 1
        if first + place == last:
            return True
    return False


@compiled
def _measure_longest(text, enough):
    """Return the lengths of the three longest lines, -1 for each missing line.

    Stop at three lines of `enough` characters.
    """
    first = second = third = -1
    start = 0
    while start <= len(text) and third < enough:
        end = start
        while end < len(text) and text[end] != _NEWLINE:
            end += 1
        # Compare bytes first, because no line has more characters than bytes.
        if end - start > third:
            length = 0
            for place in range(start, end):
                length += (text[place] & _MARK) != _WITHIN
            if length > first:
                first, second, third = length, first, second
            elif length > second:
                second, third = length, second
            elif length > third:
                third = length
        start = end + 1
    return first, second, third
