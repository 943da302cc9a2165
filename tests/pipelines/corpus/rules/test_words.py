import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.script_factors import find_length_factor
from mswitch.pipelines.corpus.rules.words import SpanHashes, chunks, cut


def units(text: str) -> list[str]:
    words = cut([text])
    return [
        "".join(map(chr, words.codes[start:end]))
        for start, end in zip(words.starts, words.ends, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World 42!", ["hello", "world", "42"]),
        ("nai\u0308ve café", ["nai\u0308ve", "café"]),
        ("हिन्दी में लिखा।", ["हिन्दी", "में", "लिखा"]),
        ("我爱Python语言。", ["我", "爱", "python", "语", "言"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("ひらがな", ["ひ", "ら", "が", "な"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("... --- !", []),
        ("", []),
    ],
)
def test_units(text, expected):
    assert units(text) == expected


def test_pages_do_not_run_into_each_other():
    words = cut(["one two", "", "three", "İ four"])
    assert np.diff(words.first).tolist() == [2, 0, 1, 2]
    assert words.page_of_unit.tolist() == [0, 0, 2, 3, 3]
    starts, stops, _ = words.ngrams(2)
    assert starts.tolist() == [0, 3]
    assert stops.tolist() == [2, 5]


@given(st.lists(st.text(st.sampled_from("ab çİß我ไท้ กि.\n"), max_size=30), max_size=8))
def test_a_batch_is_its_pages(texts):
    together = cut(texts)
    for page, text in enumerate(texts):
        alone = cut([text])
        first, stop = together.first[page], together.first[page + 1]
        assert together.hashes[first:stop].tolist() == alone.hashes.tolist()
        assert together.letters_per_word[page] == alone.letters_per_word[0]


def test_equal_words_have_equal_hashes_and_others_do_not():
    draws = random.Random(0)
    vocabulary = [f"{draws.getrandbits(60):x}" for _ in range(50_000)]
    hashes = cut([" ".join(vocabulary + vocabulary)]).hashes
    assert (hashes[:50_000] == hashes[50_000:]).all()
    assert len(np.unique(hashes)) == len(set(vocabulary))


def test_order_of_words_counts():
    starts, _, hashes = cut(["a b c a b c b a"]).ngrams(2)
    by_text: dict[str, set[int]] = {}
    for start, value in zip(starts, hashes, strict=True):
        by_text.setdefault("abcabcba"[start : start + 2], set()).add(int(value))
    assert all(len(values) == 1 for values in by_text.values())
    assert len(set.union(*by_text.values())) == len(by_text) == 5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_span_hashes_are_those_of_the_content(values):
    hashes = SpanHashes.over(np.array(values, np.uint64))
    spans = [(a, b) for a in range(len(values)) for b in range(a + 1, len(values) + 1)]
    found = hashes.hash(*np.array(spans).T)
    for (a, b), value in zip(spans, found, strict=True):
        same = SpanHashes.over(np.array(values[a:b], np.uint64)).hash(
            np.array([0]), np.array([b - a])
        )
        # A leading zero is worth nothing to a polynomial; words are never zero.
        if values[a]:
            assert value == same[0]


@pytest.mark.parametrize(
    ("text", "units_of_five"),
    [("plain words here", 5), ("汉语没有空格", 8), ("日本語のかなです", 14), ("ภาษาไทย", 20)],
)
def test_ngrams_are_longer_without_spaces(text, units_of_five):
    assert cut([text]).units(5).tolist() == [units_of_five]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_chunks_cover_all_pages_in_order(lengths, limit):
    ranges = list(chunks(["x" * length for length in lengths], limit))
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(len(lengths)))
    for start, stop in ranges:
        assert stop == start + 1 or sum(lengths[start:stop]) <= limit or not lengths[start]


def test_length_factors_know_the_scripts_of_identification():
    assert find_length_factor("Hans") == find_length_factor("Hani") < find_length_factor("Kana") < 1
    assert find_length_factor("Hang") == find_length_factor("Kore") < 1
    assert find_length_factor("Thai") == find_length_factor("Latn") == 1


def test_lone_surrogates_are_no_words():
    assert units("a \ud800 b") == ["a", "b"]
