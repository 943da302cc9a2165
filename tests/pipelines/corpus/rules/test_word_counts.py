import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.stop_words import STOP_WORDS
from mswitch.pipelines.corpus.rules.word_counts import count_distinct, count_words
from mswitch.pipelines.corpus.rules.words import cut

PAGES = st.lists(st.text("aé1٣.#… \n的ひ-", max_size=30), min_size=1, max_size=4)


@given(PAGES)
def test_counts_are_as_defined_page_by_page(pages):
    words = cut(pages)
    counts = count_words(words)
    for page, text in enumerate(pages):
        units = re.findall(r"[aé1٣]+|[的ひ]", text)
        spaced = [unit for unit in units if unit not in "的ひ"]
        part = 1 / words.letters_per_word[page]
        weights = [1 if unit in spaced else part for unit in units]
        assert counts.words[page] == pytest.approx(sum(weights))
        assert counts.with_letter[page] == pytest.approx(
            sum(w for w, unit in zip(weights, units, strict=True) if re.search("[aé的ひ]", unit))
        )
        assert counts.characters[page] == sum(map(len, spaced))
        assert counts.symbols[page] == len(re.findall(r"#|…|(?<!\.)\.{3,}", text))
        assert counts.digits[page] == len(re.findall("[1٣]", text))
        assert counts.visible[page] == len(re.sub(r"\s", "", text))


@given(PAGES, st.lists(st.lists(st.integers(0, 80), max_size=6, unique=True), min_size=1))
def test_distinct_hashes_are_those_of_the_pages_list(pages, lists):
    """Small hashes, of which many share their lowest bits with others."""
    sizes = [len(page) for page in pages]
    hashes = np.array([ord(letter) % 81 for page in pages for letter in page], np.uint64)
    first = np.cumsum([0, *sizes])
    of_page = np.array([number % (len(lists) + 1) - 1 for number in range(len(pages))])
    listed = np.array([value for one in lists for value in one], np.uint64)
    bounds = np.cumsum([0, *map(len, lists)])
    found = count_distinct(hashes, first, listed, bounds, of_page)
    for page, number in enumerate(of_page):
        here = set(hashes[first[page] : first[page + 1]].tolist())
        assert found[page] == (-1 if number < 0 else len(here & set(lists[number])))


def test_lists_of_stop_words_are_short():
    """They are gone through for each word that may be on them."""
    assert max(len(words.split()) for words in STOP_WORDS.values()) <= 13
