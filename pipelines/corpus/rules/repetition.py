"""Counts how much of a page is in n-grams of words that occur more than once."""

import numpy as np

from mswitch.pipelines.compiled import choose_table_size, compiled
from mswitch.pipelines.corpus.rules.words import mix_one


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
    """Count characters of words in n-grams that repeat.

    An n-gram can only repeat if the shorter n-gram at its start repeats. So each length only checks
    the repeated n-grams of the length before: on ordinary text, these are few.

    Args:
        first: int64 [pages + 1] the first unit of each page.
        lengths: int64 [units + 1] characters before each unit.
        sums: uint64 [units + 1] sums of `SpanHashes` over the units' hashes.
        inverses: uint64 [at least units + 1] its inverses.
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
