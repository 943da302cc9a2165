import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines.corpus.dedup.near import (
    NearDedup,
    cluster,
    find_components,
    find_matches,
    rank_pages,
)
from mswitch.pipelines.corpus.rules.words import cut


def similar_pairs(similarity: float, size: int, pairs: int) -> tuple[list[str], list[str], float]:
    """Two lists of texts whose sets of words have this Jaccard similarity, and its exact value."""
    draws = random.Random(size)
    common = round(2 * size * similarity / (1 + similarity))
    left, right = [], []
    for _ in range(pairs):
        words = [f"w{number}" for number in draws.sample(range(10**6), 2 * size - common)]
        left.append(" ".join(words[:size]))
        right.append(" ".join(words[size - common :]))
    return left, right, common / (2 * size - common)


def match_probability(minhash, similarity):
    return 1 - (1 - similarity**minhash.rows) ** minhash.bands


@pytest.mark.parametrize("size", [60, 300])
def test_probability_of_a_match_is_the_theorys(size):
    """Each point of the S-curve within 4 standard deviations, 600 pairs a point."""
    minhash = NearDedup(shingle_words=1)
    for similarity in (0.5, 0.6, 0.68, 0.72, 0.8, 0.9):
        left, right, exact = similar_pairs(similarity, size, 600)
        langs = ["xx"] * 600
        same = minhash.make_band_keys(cut(left), langs) == minhash.make_band_keys(cut(right), langs)
        found = same.all(axis=2).any(axis=1).mean()
        expected = match_probability(minhash, exact)
        assert abs(found - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5
        agreeing = minhash.compute_signatures(cut(left)) == minhash.compute_signatures(cut(right))
        assert abs(agreeing.mean() - exact) < 0.02


def test_the_curve_of_the_documentation():
    minhash = NearDedup()
    found = [round(match_probability(minhash, s), 2) for s in (0.41, 0.69, 0.8, 1.0)]
    assert found == [0.01, 0.52, 0.92, 1.0]


TEXTS = st.text(st.sampled_from("ab c.我ไ\n"), max_size=40)


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_exact_duplicates_share_every_key(text, others):
    minhash = NearDedup(bands=3, rows=2)
    texts = [text, *others, text]
    keys = minhash.make_band_keys(cut(texts), ["de"] * len(texts))
    assert (keys[0] == keys[-1]).all()
    assert (minhash.make_band_keys(cut([text]), ["de"])[0] == keys[0]).all()


def test_case_and_punctuation_do_not_count():
    texts = ["Der Hund schläft, glaube ich.", "der hund SCHLÄFT glaube ich"]
    keys = NearDedup().make_band_keys(cut(texts), "xx")
    assert (keys[0] == keys[1]).all()


def test_pages_without_words_match_only_if_equal():
    keys = NearDedup().make_band_keys(cut(["... --- ...", "... --- ...", "***", ""]), ["en"] * 4)
    assert (keys[0] == keys[1]).all()
    assert len(np.unique(keys[:, 0], axis=0)) == 3


def test_languages_never_share_a_key():
    keys = NearDedup().make_band_keys(cut(["the same text twice in here"] * 2), ["en", "de"])
    assert not (keys[0] == keys[1]).all(axis=1).any()


def test_bands_never_share_a_key():
    keys = NearDedup().make_band_keys(cut(["one"]), ["en"])[0]
    assert len(np.unique(keys, axis=0)) == 14


def test_keys_are_these():
    """Kept fingerprints of an earlier build must go on to match."""
    keys = NearDedup().make_band_keys(
        cut(["Der Hund schläft unter dem alten Tisch.", "汉语"]), ["de", "zh"]
    )
    assert [f"{high:016x}{low:016x}" for high, low in keys[:, 0].tolist()] == [
        "8f7c6174ffc0a2f3db83fdd477793f7a",
        "4afc92e3d87641579a2d92e251afc79e",
    ]


def test_edits_of_a_page_match_in_scripts_with_and_without_spaces():
    draws = random.Random(1)
    for letters, joiner in (("abcdefgh", " "), ("汉语没有空格的文字很多", ""), ("กขคงจฉชซ", "")):
        words = ["".join(draws.choices(letters, k=4)) for _ in range(400)]
        page = joiner.join(words)
        edited = joiner.join([*words[:200], "xyz", *words[201:]])
        other = joiner.join(draws.sample(words, 400))
        keys = NearDedup().make_band_keys(cut([page, edited, other]), ["x"] * 3)
        assert (keys[0] == keys[1]).all(axis=1).any()
        assert not (keys[0] == keys[2]).all(axis=1).any()


EDGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


def by_search(edges: list[tuple[int, int]]) -> dict[int, int]:
    """The smallest page reachable from each, one edge at a time."""
    smallest = {page: page for edge in edges for page in edge}
    for _ in smallest:
        for a, b in edges:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    return smallest


@given(EDGES)
def test_components_are_those_of_a_search(edges):
    pages, labels = find_components(np.array(edges, np.uint64).reshape(-1, 2))
    expected = by_search(edges)
    assert pages.tolist() == sorted(expected)
    order = sorted(set(expected.values()))
    assert labels.tolist() == [order.index(expected[page]) for page in sorted(expected)]


def test_a_long_chain_is_one_component():
    chain = np.arange(100_000, dtype=np.uint64)
    np.random.default_rng(0).shuffle(chain)
    _, labels = find_components(np.column_stack([chain[:-1], chain[1:]]))
    assert (labels == 0).all()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=40),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_clusters_do_not_depend_on_order_or_buckets(rows, bits, draws):
    """Keys 0..4 spread over the key space, pages 0..12, each in any bucket order."""
    candidates = np.array([(key << 61, key, page) for key, page in rows], np.uint64).reshape(-1, 3)
    pages = np.arange(13, dtype=np.uint64)
    ranks = rank_pages(
        np.array([draws.randrange(3) for _ in range(13)]),
        np.array([draws.randrange(-2, 2) for _ in range(13)]),
        np.column_stack([pages, pages[::-1]]),
    )
    whole = cluster(find_matches(candidates), pages, ranks)
    order = draws.sample(range(len(rows)), len(rows))
    buckets: dict[int, list[int]] = {}
    for row in order:
        buckets.setdefault(int(candidates[row, 0]) >> (64 - bits), []).append(row)
    parts = [find_matches(candidates[rows]) for rows in buckets.values()]
    draws.shuffle(parts)
    again = cluster(np.concatenate([np.empty((0, 2), np.uint64), *parts]), pages, ranks)
    for one, other in ((whole.pages, again.pages), (whole.sizes, again.sizes)):
        assert one.tolist() == other.tolist()
    assert whole.represents.tolist() == again.represents.tolist()
    # Every cluster keeps one, and pages kept plus pages dropped are all its pages.
    kept_sizes = whole.sizes[whole.represents]
    assert kept_sizes.sum() == len(whole.pages)


def test_the_longest_then_newest_then_smallest_represents():
    edges = np.array([[5, 4], [4, 3], [8, 7], [9, 7]], np.uint64)
    pages = np.array([3, 4, 5, 6, 7, 8, 9], np.uint64)
    ids = np.array([[0, 9], [0, 1], [0, 2], [0, 3], [1, 0], [0, 7], [0, 8]], np.uint64)
    ranks = rank_pages(np.array([10, 10, 9, 50, 4, 4, 4]), np.array([-1, -2, 5, 0, 3, 3, 3]), ids)
    found = cluster(edges, pages, ranks)
    assert found.pages.tolist() == [3, 4, 5, 7, 8, 9]
    assert found.sizes.tolist() == [3] * 6
    assert found.represents.tolist() == [True, False, False, False, True, False]


def test_many_equal_pages_give_few_matches():
    candidates = np.array([(1, 2, page) for page in range(1000)], np.uint64)
    assert find_matches(candidates).shape == (999, 2)


def test_no_page_is_no_trouble():
    assert NearDedup().make_band_keys(cut([]), []).shape == (0, 14, 2)
    assert NearDedup().make_band_keys(cut(["a"]), [], []).shape == (0, 14, 2)
    none = np.empty((0, 2), np.uint64)
    found = cluster(none, np.empty(0, np.uint64), np.empty((0, 4), np.uint64))
    assert len(found.pages) == len(found.sizes) == len(found.represents) == 0


def test_keys_are_the_same_whichever_pages_are_chosen():
    texts = ["one two three four five six", "short", "", "... ---", "seven eight nine ten eleven"]
    langs = ["en", "de", "fr", "en", "de"]
    words = cut(texts)
    keys = NearDedup().make_band_keys(words, langs)
    for mask in itertools.product([False, True], repeat=len(texts)):
        chosen = list(itertools.compress(range(len(texts)), mask))
        of_chosen = NearDedup().make_band_keys(words, [langs[page] for page in chosen], chosen)
        assert (of_chosen == keys[chosen]).all()
