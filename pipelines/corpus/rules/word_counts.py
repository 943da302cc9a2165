"""Counts words and characters of pages by kind, in one pass."""

from typing import NamedTuple

import numpy as np

from mswitch.pipelines.compiled import compiled
from mswitch.pipelines.corpus.rules.words import DIGIT, LETTER, SPACE, Words

_NUMBER_SIGN, _DOT, _ELLIPSIS = ord("#"), ord("."), ord("…")
_DOTS_OF_ELLIPSIS = 3
_BIT, _BITS = np.uint64(1), np.uint64(63)


class Counts(NamedTuple):
    """Counts of each page, float64 [pages].

    Attributes:
        words: units; a unit that is a letter counts as a part of a word.
        with_letter: units that have a letter, weighted in the same way.
        characters: characters of units that are words.
        symbols: number signs and ellipses.
        digits: characters that are digits.
        visible: characters other than spaces.
    """

    words: np.ndarray
    with_letter: np.ndarray
    characters: np.ndarray
    symbols: np.ndarray
    digits: np.ndarray
    visible: np.ndarray


def count_words(words: Words) -> Counts:
    """Return the counts of each page."""
    return _count(
        words.codes,
        words.properties,
        words.page_starts,
        words.starts,
        words.ends,
        words.first,
        words.unspaced,
        words.letters_per_word,
    )


@compiled
def _count(codes, properties, page_starts, starts, ends, first, unspaced, letters_per_word):
    pages = len(first) - 1
    words, with_letter, characters = np.zeros(pages), np.zeros(pages), np.zeros(pages)
    symbols, digits, visible = np.zeros(pages), np.zeros(pages), np.zeros(pages)
    for page in range(pages):
        part = 1 / letters_per_word[page]
        in_words = 0
        for unit in range(first[page], first[page + 1]):
            weight = part if unspaced[unit] else 1.0
            words[page] += weight
            kinds = np.uint8(0)
            for place in range(starts[unit], ends[unit]):
                kinds |= properties[place]
            if kinds & LETTER:
                with_letter[page] += weight
            if not unspaced[unit]:
                in_words += ends[unit] - starts[unit]
        dots = signs = numerals = shown = 0
        for place in range(page_starts[page], page_starts[page + 1]):
            code, kind = codes[place], properties[place]
            dots = dots + 1 if code == _DOT else 0
            signs += dots == _DOTS_OF_ELLIPSIS or code in (_ELLIPSIS, _NUMBER_SIGN)
            numerals += kind & DIGIT > 0
            shown += kind & SPACE == 0
        characters[page], symbols[page] = in_words, signs
        digits[page], visible[page] = numerals, shown
    return Counts(words, with_letter, characters, symbols, digits, visible)


@compiled
def count_distinct(hashes, first, listed, bounds, lists):
    """Count, for each page, the distinct hashes that are also on the page's list.

    Args:
        hashes: uint64 [units].
        first: int64 [pages + 1] the first unit of each page.
        listed: uint64: all lists, one after the other.
        bounds: int64 [lists + 1] start of each list in `listed`.
        lists: int64 [pages] the list of each page, -1 if it has none.

    Returns:
        int64 [pages], -1 for pages without a list.
    """
    counts = np.full(len(lists), -1)
    seen = np.empty(len(listed), np.bool_)
    for page in range(len(lists)):
        if lists[page] < 0:
            continue
        start, stop = bounds[lists[page]], bounds[lists[page] + 1]
        bits = np.uint64(0)  # filter that rejects most hashes by their lowest bits
        for place in range(start, stop):
            bits |= _BIT << (listed[place] & _BITS)
            seen[place] = False
        counts[page] = 0
        for unit in range(first[page], first[page + 1]):
            if not (bits >> (hashes[unit] & _BITS)) & _BIT:
                continue
            for place in range(start, stop):
                if listed[place] == hashes[unit] and not seen[place]:
                    seen[place] = True
                    counts[page] += 1
    return counts
