"""Counts words, characters and repeated n-grams of pages, in compiled loops."""

from typing import NamedTuple

import numpy as np

from mswitch.pipelines.compiled import choose_table_size, compiled
from mswitch.pipelines.corpus.rules.words import DIGIT, LETTER, SPACE, Words, mix_one

_NUMBER_SIGN, _DOT, _ELLIPSIS = ord("#"), ord("."), ord("…")
_DOTS_OF_ELLIPSIS = 3
_BIT, _BITS = np.uint64(1), np.uint64(63)


class Counts(NamedTuple):
    """Counts of words and characters by page; each array is float64 [pages].

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
    """Count the units and characters of each page."""
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
    """Count, for each page, how many of the listed word hashes occur on the page.

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


@compiled
def count_repeated_characters(
    first: np.ndarray,
    lengths: np.ndarray,
    sums: np.ndarray,
    inverses: np.ndarray,
    units: np.ndarray,
    tops: int,
    seed: np.uint64,
) -> np.ndarray:
    """Count the characters of words in repeated n-grams.

    An n-gram can only repeat if the shorter n-gram at its start repeats. So each length only checks
    the repeated n-grams of the length before: on ordinary text, these are few.

    Args:
        first: int64 [pages + 1] the first unit of each page.
        lengths: int64 [units + 1] characters before each unit.
        sums: `SpanHashes.sums` over the units' hashes.
        inverses: `SpanHashes.inverses` over the units' hashes.
        units: int64 [n-grams, pages] units that an n-gram spans, shorter ones first.
        tops: number of n-gram lengths for which only the n-gram that covers most of the page
            counts, with all its occurrences. For the other lengths, all n-grams that occurred
            earlier on the page count.
        seed: `get_random_seed`.

    Returns:
        int64 [n-grams, pages].
    """
    pages = len(first) - 1
    repeated = np.zeros((len(units), pages), np.int64)
    most = 0
    for page in range(pages):
        most = max(most, first[page + 1] - first[page])
    room = choose_table_size(most)
    keys, counts = np.empty(room, np.uint64), np.empty(room, np.int64)
    places, slots = np.empty(most, np.int64), np.empty(most, np.int64)
    for page in range(pages):
        stop = first[page + 1]
        left = stop - first[page]
        for number in range(left):
            places[number] = first[page] + number
        for ngram in range(len(units)):
            length = units[ngram, page]
            size = choose_table_size(left)
            counts[:size] = 0
            fitting = 0
            for number in range(left):
                start = places[number]
                end = start + length
                if end > stop:
                    break
                key = mix_one((sums[end] - sums[start]) * inverses[start])
                slot = np.int64(mix_one(key ^ seed) & np.uint64(size - 1))
                while counts[slot] and keys[slot] != key:
                    slot = (slot + 1) & (size - 1)
                keys[slot] = key
                counts[slot] += 1
                slots[number] = slot
                fitting += 1
            left = covered = 0
            for number in range(fitting):
                count = counts[slots[number]]
                if count == 1:
                    continue
                start = places[number]
                end = start + length
                if ngram < tops:
                    taken = abs(count) * (lengths[end] - lengths[start])
                    repeated[ngram, page] = max(repeated[ngram, page], taken)
                elif count < 0:  # the n-gram occurred before on this page
                    repeated[ngram, page] += lengths[end] - lengths[max(start, covered)]
                    covered = end
                counts[slots[number]] = -abs(count)
                places[left] = start
                left += 1
    return repeated
