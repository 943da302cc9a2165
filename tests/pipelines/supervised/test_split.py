import string

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.supervised.split import (
    SHARES,
    choose_split,
    count_overlap,
    fold,
    hash_group,
    mark_overlap,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        *(("Save $1 pages?", "save pages"), ("save  pages!", "save pages")),
        ("Save {{PLURAL:$1|page|pages}}<br />", "save"),
        *(("Größe: «ΑΣ»", "grösse ασ"), ("हिन्दी में।", "हिन्दी में"), ("B00-123_4", "b00 123 4")),
        *(("😀", "😀"), ("?!", "?!"), ("", "")),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


def test_vowel_signs_keep_words_apart():
    assert len({fold(word) for word in ("का", "की", "कु", "के")}) == 4


@given(st.text())
def test_folding_twice_is_folding_once_for_words(text):
    words = "".join(char if char.isalpha() else " " for char in text)
    assert fold(fold(words)) == fold(words)


@given(st.text(string.ascii_letters + " ", min_size=1).filter(str.strip))
def test_a_group_is_in_one_split_however_it_is_written(text):
    written = [text, text.upper(), f"<b>{text}</b>", f" {text} $1...", text.replace(" ", " - ")]
    assert len({choose_split(hash_group(form)) for form in written}) == 1


def test_splits_have_their_shares():
    found = [choose_split(hash_group(f"group {number}")) for number in range(20_000)]
    for split, share in SHARES.items():
        assert found.count(split) / 20_000 == pytest.approx(share / 100, abs=0.01)


def test_overlap_is_what_an_earlier_split_has():
    rows = [
        ("de", "train", 50, 1, 11),
        ("de", "train", 51, 2, 12),
        ("de", "validation", 52, 1, 11),
        ("de", "validation", 53, 3, 13),
        ("de", "test", 54, 2, 99),
        ("de", "test", 55, 3, 13),
        ("de", "test", 56, 4, 14),
        ("sw", "train", 57, 5, 15),
        ("sw", "test", 50, 6, 16),
        ("sw", "test", 58, 7, 17),
    ]
    columns = ("lang", "split", "group_key", "inputs_key", "pair_key")
    table = pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True)))
    splits = ("train", "validation", "test")
    assert count_overlap(table, mark_overlap(table, splits)) == {
        "de": {
            "validation": {"rows": 1, "groups": 0, "inputs": 1, "pairs": 1},
            "test": {"rows": 2, "groups": 0, "inputs": 2, "pairs": 1},
        },
        "sw": {"test": {"rows": 1, "groups": 1, "inputs": 0, "pairs": 0}},
    }
    before = mark_overlap(table, splits[::-1])["rows"].nonzero()[0]
    assert before.tolist() == [0, 1, 3]
