"""What an HTML parser will do to build a page's elements, told before it does.

Parsing takes time quadratic in how deeply elements nest. What a block leaves open of <b> and its
like is made again in the next block, so that the product of both is a cost too.
"""

from typing import NamedTuple

import numpy as np

from pipelines.compiled import compiled, random_seed, table_size
from pipelines.crawl.html_elements import (
    DOES_BREAK_OUT,
    IN_HEAD,
    IS_FOREIGN,
    IS_FORMATTING,
    IS_INTEGRATION,
    KINDS,
)
from pipelines.crawl.html_names import RAW, UNKNOWN, hash_name, known
from pipelines.crawl.html_open import (
    AGAIN,
    FOREIGN,
    HTML,
    MADE_AGAIN,
    OPEN,
    PASSED,
    UNSURE,
    Open,
    is_in_foreign,
    make_again,
    take,
)
from pipelines.crawl.html_tokens import (
    CDATA,
    COMMENT,
    END,
    LEAVES_FOREIGN,
    SELF_CLOSING,
    START,
    WITHIN_RAW,
    Markup,
)

_BR, _IMG, _MATH, _P = known("br"), known("img"), known("math"), known("p")
_NOSCRIPT = known("noscript")
_SCRIPT, _RAW = known("script"), len(RAW)
_LT, _GT, _BRACKET = b"<>]"
_CDATA = np.frombuffer(b"<![CDATA[", np.uint8).copy()
_LETTERS, _PARTS = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
_LETTERS[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True
#: What parts two attributes.
_PARTS[list(b" \t\n\f\r/\"'")] = True

#: Formatting elements in one another that the quick look follows.
_MOST_INNERMOST = 16


class Nesting(NamedTuple):
    """What it takes to build a page's elements, counted until either exceeds its limit.

    Attributes:
        depth: how deeply elements nest, at least.
        made_again: elements that are there because formatting was left open.
        passed: open elements that are passed in looking for one to close.
    """

    depth: int
    made_again: int
    passed: int

    def exceeds(self, limits: "Nesting") -> bool:
        """Tell whether anything is more than its limit."""
        return any(found > limit for found, limit in zip(self, limits, strict=True))


def nesting(html: Markup, limits: Nesting) -> Nesting:
    """Return what it takes to build a page's elements, counted until a limit is exceeded.

    Time is linear in the page and what is counted.
    """
    found = _quick_look(html)
    if found.doubtful:
        return found.most
    depth, made_again, passed = _build(html.utf8, html.tokens, limits, random_seed())
    return Nesting(int(depth), int(made_again), int(passed))


def may_exceed(html: Markup, limits: Nesting) -> bool:
    """Tell quickly of most pages that `nesting` is within its limits.

    Not of those where SVG may read something otherwise, or holds HTML: of them no more is known.
    """
    found = _quick_look(html)
    return found.doubtful or found.most.exceeds(limits)


class _Look(NamedTuple):
    """What can be told without the open elements: the most it can take, and if that is in doubt."""

    most: Nesting
    doubtful: bool


def _quick_look(html: Markup) -> _Look:
    """Bound what it takes to build a page's elements.

    Nothing nests deeper than there are start tags; no tag makes formatting again more than twice
    that may be open at once, or passes an element more than eight times.
    """
    starts, formatting, doubtful = _count_starts(html.utf8, html.tokens)
    hidden, attributes = _count_hidden(html.utf8, html.tokens) if doubtful else (0, 0)
    starts, formatting = int(starts + hidden), int(formatting + hidden)
    tags = len(html.tokens.flags) + int(hidden)
    most = Nesting(starts + int(attributes), 2 * formatting * tags, 8 * starts * tags)
    return _Look(most, bool(doubtful))


@compiled
def _raw_stop(html, tokens, token):
    """Return where the text of a raw element ends."""
    following = token + 1
    while following < len(tokens.flags) and tokens.flags[following] & WITHIN_RAW:
        following += 1
    return np.int64(tokens.starts[following]) if following < len(tokens.flags) else len(html)


@compiled
def _ends_cdata(html, end):
    return end >= 3 and html[end - 1] == _GT and html[end - 2] == html[end - 3] == _BRACKET


@compiled
def _is_plain(html, start, stop):
    """Tell whether text has no markup but whole CDATA sections, so that SVG reads it alike."""
    place = start
    while place < stop:
        if html[place] != _LT:
            place += 1
            continue
        if place + len(_CDATA) > stop:
            return False
        for letter in range(len(_CDATA)):
            if html[place + letter] != _CDATA[letter]:
                return False
        place += len(_CDATA) + 3
        while place <= stop and not _ends_cdata(html, place):
            place += 1
        if place > stop:
            return False
    return True


@compiled
def _reads_otherwise(html, tokens, token):
    """Tell whether within SVG a comment or raw element ends, or may end, elsewhere than it does."""
    flag, end = tokens.flags[token], tokens.ends[token]
    if flag & COMMENT:
        return flag & CDATA > 0 and not _ends_cdata(html, end)
    if flag & START and tokens.names[token] < _RAW:
        return not _is_plain(html, end, _raw_stop(html, tokens, token))
    return False


@compiled
def _is_closed(tokens, token):
    """Tell whether the next tag is the end of the element that one starts."""
    following = token + 1
    return (
        following < len(tokens.flags)
        and tokens.flags[following] & END > 0
        and tokens.names[following] == tokens.names[token]
    )


@compiled
def _note_root(roots, flag, name):
    """Note what SVG and MathML, counted apart, may be open after a tag."""
    place = np.int64(name == _MATH)
    if flag & (COMMENT | WITHIN_RAW | SELF_CLOSING):
        return
    if flag & START:
        roots[place] += 1
    else:
        roots[place] -= roots[place] > 0


@compiled
def _count_starts(html, tokens):
    """Count start tags and the formatting elements that may be open at once.

    Such an element is closed by the next end tag of its name if between them are only its like,
    closed before, and elements that nothing special is said of.

    Returns:
        Both, and whether what is within SVG may be read otherwise, or may be HTML.
    """
    starts = left_open = count = most = 0
    holds_html = doubtful = False
    names, roots = np.empty(_MOST_INNERMOST, np.int64), np.zeros(2, np.int64)
    for token in range(len(tokens.flags)):
        flag, name = tokens.flags[token], np.int64(tokens.names[token])
        of_name = KINDS[min(name, UNKNOWN)]
        starts += flag & START > 0
        doubtful |= holds_html
        if of_name & IS_FOREIGN:
            _note_root(roots, flag, name)
        elif (roots[0] or roots[1]) and not flag & WITHIN_RAW:
            is_integration = of_name & IS_INTEGRATION and flag & START
            holds_html |= is_integration > 0 and not _is_closed(tokens, token)
            doubtful |= _reads_otherwise(html, tokens, token)
        kinds = of_name & ~DOES_BREAK_OUT
        if (flag & COMMENT and not flag & CDATA) or name in (_BR, _IMG):
            continue
        if kinds == IS_FORMATTING:
            if flag & START and count < _MOST_INNERMOST:
                names[count] = name
                count += 1
                most = max(most, count)
                continue
            if flag & END and (count == 0 or names[count - 1] == name):
                count -= count > 0
                continue
        elif kinds == 0 and not flag & COMMENT:
            continue
        left_open += count + (kinds == IS_FORMATTING and flag & START > 0)
        count = 0
    return starts, left_open + most, doubtful


@compiled
def _count_hidden(html, tokens):
    """Count what may be tags though it is in none, where SVG reads something otherwise.

    Returns:
        How many, and how many attributes such a tag may have: what parts them, up to the page's
        end.
    """
    tags = attributes = 0
    doubtful = within_root = False
    for token in range(len(tokens.flags)):
        flag, name = tokens.flags[token], np.int64(tokens.names[token])
        within_root |= KINDS[min(name, UNKNOWN)] & IS_FOREIGN > 0 and flag & START > 0
        doubtful |= within_root and _reads_otherwise(html, tokens, token)
        if not doubtful or flag & WITHIN_RAW:
            continue
        start = tokens.starts[token] + 1 if flag & COMMENT else tokens.attributes[token]
        is_raw = flag & START and name < _RAW
        stop = _raw_stop(html, tokens, token) if is_raw else np.int64(tokens.ends[token])
        for place in range(start, stop - 1):
            if html[place] == _LT and _LETTERS[html[place + 1]]:
                tags += 1
                for later in range(place, len(html) if tags == 1 else 0):
                    attributes += _PARTS[html[later]]
    return tags, attributes


@compiled
def _alike(html, tokens, token, slots, seed):
    """Return the first start tag that has the same name and attributes, to the byte."""
    start, end = tokens.attributes[token], tokens.ends[token]
    slot = np.int64(hash_name(html, start, end, seed) & np.uint64(len(slots) - 1))
    while slots[slot] >= 0:
        other = np.int64(slots[slot])
        shift = tokens.attributes[other] - start
        same = tokens.names[other] == tokens.names[token] and tokens.ends[other] - end == shift
        place = start
        while same and place < end:
            same = html[place] == html[place + shift]
            place += 1
        if same:
            return other
        slot = (slot + 1) & (len(slots) - 1)
    slots[slot] = token
    return token


@compiled
def _leaves_foreign(flag, name):
    """Tell whether a tag ends SVG and MathML."""
    if flag & END:
        return name in (_P, _BR)
    return KINDS[min(name, UNKNOWN)] & DOES_BREAK_OUT > 0 or flag & LEAVES_FOREIGN > 0


@compiled
def _build(html, tokens, limits, seed):
    """Return the numbers of `Nesting`."""
    count = len(tokens.flags)
    room = min(count, limits.depth) + 2
    state = Open(
        np.empty((room, 4), np.int64),
        np.empty((room, 3), np.int64),
        np.zeros((2, tokens.distinct), np.int64),
        np.zeros(count, np.int64),
        np.zeros(6, np.int64),
    )
    slots = np.full(table_size(count), -1, np.int32)
    position = deepest = np.int64(0)
    is_in_head, skips_raw, has_text = True, False, False
    for token in range(count):
        flag, name = np.int64(tokens.flags[token]), np.int64(tokens.names[token])
        if flag & WITHIN_RAW:
            if skips_raw:
                continue
            take(state, flag, name, UNSURE, False, np.int64(0))
        else:
            has_text |= tokens.starts[token] > position
            position = np.int64(tokens.ends[token])
            if flag & COMMENT:
                continue
            is_in_head &= flag & END > 0 or KINDS[min(name, UNKNOWN)] & IN_HEAD > 0
            kind = FOREIGN if is_in_foreign(state) else HTML
            if is_in_head and name == _NOSCRIPT:
                kind = UNSURE  # what it cannot hold there ends it
            leaves_foreign = kind == FOREIGN and _leaves_foreign(flag, name)
            if has_text and (kind != FOREIGN or leaves_foreign):
                make_again(state)
            has_text = False
            alike = np.int64(0)
            if KINDS[min(name, UNKNOWN)] & IS_FORMATTING and flag & START:
                alike = np.int64(_alike(html, tokens, token, slots, seed))
            take(state, flag, name, kind, leaves_foreign, alike)
            if flag & START and name < _RAW:
                position = _raw_stop(html, tokens, token)
                skips_raw = name == _SCRIPT and not is_in_foreign(state)
        deepest = max(deepest, state.sizes[OPEN] + state.sizes[AGAIN])
        made_again, passed = state.sizes[MADE_AGAIN], state.sizes[PASSED]
        if deepest > limits.depth or made_again > limits.made_again or passed > limits.passed:
            break
    return deepest, state.sizes[MADE_AGAIN], state.sizes[PASSED]
