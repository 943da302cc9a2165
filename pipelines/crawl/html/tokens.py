"""Finds the ends of tags, comments and raw text, like the HTML standard's tokenizer (13.2.5)."""

import numpy as np

from mswitch.pipelines.compiled import compiled
from mswitch.pipelines.crawl.html.elements import LOWER

LT, GT, SLASH, BANG, QUESTION, DASH, EQUALS, QUOTE, APOSTROPHE, BRACKET, BRACKET_END = (
    b"<>/!?-=\"'[]"
)
_CDATA = np.frombuffer(b"<![CDATA[", np.uint8).copy()
IS_SPACE, IS_LETTER, ENDS_NAME = np.zeros((3, 256), np.bool_)
IS_SPACE[list(b" \t\n\f\r")] = ENDS_NAME[list(b" \t\n\f\r/>")] = True
IS_LETTER[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True


@compiled
def are_equal(html, start, other, size, fold):
    """Return whether two ranges of the page are equal; `fold` ignores case."""
    for place in range(size):
        first, second = html[start + place], html[other + place]
        if first != second and not (fold and LOWER[first] == LOWER[second]):
            return False
    return True


@compiled
def find_comment_end(html, start):
    """Return the end of a comment or bogus comment, which starts with `<!`, `<?` or `</`."""
    size = len(html)
    if start + 3 < size and html[start + 1] == BANG and html[start + 2] == html[start + 3] == DASH:
        first = start + 4
        for place in range(first, size):
            if html[place] != GT:
                continue
            if place <= first + 1 and (place == first or html[first] == DASH):
                return place + 1  # an empty comment, such as <!--> or <!--->
            end = place - (place - 3 >= first and html[place - 1] == BANG)
            if end - 2 >= first and html[end - 1] == html[end - 2] == DASH:
                return place + 1
        return size
    for place in range(start + 2, size):
        if html[place] == GT:
            return place + 1
    return size


@compiled
def _is_tag(html, place, name, name_stop):
    """Return whether the tag name at `place` equals html[name:name_stop], ignoring case."""
    size = name_stop - name
    end = place + size
    return end < len(html) and are_equal(html, place, name, size, True) and ENDS_NAME[html[end]]


@compiled
def find_raw_end(html, place, name, name_stop, is_script):
    """Return the start of a raw element's end tag, or the page's end.

    A script that contains `<!--` and then `<script` continues after the first end tag.
    """
    escaped = nested = False
    comment = place
    while place + 1 < len(html):
        code = html[place]
        if code == LT:
            if html[place + 1] == SLASH:
                if _is_tag(html, place + 2, name, name_stop):
                    if not nested:
                        return place
                    nested = False
            elif is_script and not escaped:
                escaped = (
                    place + 3 < len(html)
                    and html[place + 1] == BANG
                    and html[place + 2] == html[place + 3] == DASH
                )
                comment = place + 2
            elif escaped and not nested:
                nested = _is_tag(html, place + 1, name, name_stop)
        elif code == GT and escaped and place - 2 >= comment:
            ends = html[place - 1] == html[place - 2] == DASH
            escaped, nested = not ends, nested and not ends
        place += 1
    return len(html)


@compiled
def find_tag_end(html, place):
    """Return a tag's end, its number of attributes, and whether it ends with "/>"."""
    size, count = len(html), 0
    while place < size:
        code = html[place]
        if code == GT:
            return place + 1, count, html[place - 1] == SLASH
        place += 1
        if code == SLASH or IS_SPACE[code]:
            continue
        count += 1
        while place < size and not (ENDS_NAME[html[place]] or html[place] == EQUALS):
            place += 1
        value = place
        while value < size and IS_SPACE[html[value]]:
            value += 1
        if value == size or html[value] != EQUALS:
            continue
        value += 1
        while value < size and IS_SPACE[html[value]]:
            value += 1
        if value < size and (html[value] == QUOTE or html[value] == APOSTROPHE):
            place = value + 1
            while place < size and html[place] != html[value]:
                place += 1
            place += 1
        else:
            place = value
            while place < size and not (IS_SPACE[html[place]] or html[place] == GT):
                place += 1
            if place < size and html[place] == GT:
                return place + 1, count, False  # a "/" before ">" belongs to the value
    return size, count, False


@compiled
def is_plain(html, start, stop):
    """Return whether `<` occurs in a raw element's text only in complete CDATA sections.

    If so, SVG and HTML read the text alike.
    """
    place, in_section = start, False
    while place < stop:
        if html[place] == LT and not in_section:
            if stop - place < len(_CDATA):
                return False
            for letter in range(len(_CDATA)):
                if html[place + letter] != _CDATA[letter]:
                    return False
            in_section = True
        elif in_section and ends_section(html, place + 1):
            in_section = False
        place += 1
    return not in_section


@compiled
def ends_section(html, end):
    """Return whether a CDATA section may end here."""
    return html[end - 1] == GT and html[end - 2] == html[end - 3] == BRACKET_END
