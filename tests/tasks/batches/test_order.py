import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines.languages import languages
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.order import MixtureOrder, RecordOrder

BLOCK_RECORDS = 300
MC4_RATES = Mixture().rates(
    {code: language.mc4_train_pages for code, language in languages().items() if language.mc4}
)


@settings(max_examples=25)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_every_language_advances_without_gaps(weights, seed):
    rates = {str(n): weight / sum(weights) for n, weight in enumerate(weights)}
    order = MixtureOrder(rates, seed)
    seen: dict[int, list[int]] = {}
    for position in range(2 * order.window):
        language, index = order[position]
        seen.setdefault(language, []).append(index)
    assert all(found == list(range(len(found))) for found in seen.values())
    for language, rate in enumerate(rates.values()):
        assert abs(len(seen[language]) - 2 * order.window * rate) <= 2


def test_shares_follow_the_rates_of_mc4():
    order = MixtureOrder(MC4_RATES, seed=0)
    counts = Counter(order[position][0] for position in range(4 * order.window))
    for number, rate in enumerate(MC4_RATES.values()):
        assert abs(counts[number] - 4 * order.window * rate) <= 2


def test_very_rare_languages_come_as_often_as_they_should(monkeypatch):
    monkeypatch.setattr("mswitch.tasks.batches.order.MAX_WINDOW", 1 << 12)
    rates = {"rare": 1e-4, "big": 1 - 2e-4, "rare too": 1e-4}
    order = MixtureOrder(rates, seed=0)
    windows = 40
    assert order.window == 1 << 12
    found = [order[position] for position in range(windows * order.window)]
    counts = Counter(language for language, _ in found)
    for language, rate in enumerate(rates.values()):
        assert abs(counts[language] - rate * len(found)) <= 1
        numbers = [number for each, number in found if each == language]
        assert sorted(numbers) == list(range(counts[language]))


RATES = {"a": 0.5, "b": 0.3, "c": 0.2}
BATCH, HOSTS, GROUP_ROWS, BATCHES = 64, 4, 4, 2048


def mixed() -> np.ndarray:
    """Languages of the stream that training reads: [batch, row]."""
    order = MixtureOrder(RATES, seed=1)
    languages = [order[position][0] for position in range(BATCHES * BATCH)]
    return np.array(languages).reshape(BATCHES, BATCH)


def round_robin() -> np.ndarray:
    """What Grain's `mix` would give: each language as soon as its share is due."""
    shares = np.array(list(RATES.values()))
    counts, languages = np.zeros(3), []
    for position in range(BATCHES * BATCH):
        languages.append(int(np.argmax(shares * (position + 1) - counts)))
        counts[languages[-1]] += 1
    return np.array(languages).reshape(BATCHES, BATCH)


def excess(languages: np.ndarray, places: int) -> float:
    """Chi-squared of languages against places in standard deviations above its mean.

    Args:
        languages: of each batch's rows.
        places: rows, or hosts, or routing groups: how many equal parts of a batch are compared.
    """
    table = np.zeros((places, len(RATES)))
    rows = languages.shape[1]
    part = np.arange(rows) * places // rows
    for language in range(len(RATES)):
        np.add.at(table[:, language], part, (languages == language).sum(axis=0))
    expected = np.array(list(RATES.values())) * languages.size / places
    freedom = (places - 1) * (len(RATES) - 1)
    return (((table - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


def spread(languages: np.ndarray, places: int) -> float:
    """Variance of the first language's count in parts of a batch, over that of free draws."""
    counts = (languages == 0).reshape(BATCHES * places, BATCH // places).sum(axis=1)
    return counts.var() / (BATCH // places * RATES["a"] * (1 - RATES["a"]))


PARTS = {"row": BATCH, "host": HOSTS, "routing group": BATCH // GROUP_ROWS}


@pytest.mark.parametrize("part", PARTS)
def test_place_in_a_batch_a_hosts_slice_and_a_routing_group_is_independent_of_language(part):
    places = PARTS[part]
    # Shares are exact over a window of many batches, which takes a little of the variance.
    assert abs(excess(mixed(), places)) < 5
    if places < BATCH:
        assert 0.9 < spread(mixed(), places) < 1.1
    # The same test fails a round robin, whose parts always hold the same languages.
    regular = round_robin()
    assert excess(regular, BATCH) > 100
    if places < BATCH:
        assert spread(regular, places) < 0.3


def test_place_within_a_hosts_slice_or_a_group_is_independent_of_language():
    for length in (BATCH // HOSTS, GROUP_ROWS):
        assert excess(mixed().reshape(-1, length), length) < 5.5
        assert excess(round_robin().reshape(-1, length), length) > 100


def test_neighbours_are_independent():
    firsts = mixed().ravel().tolist()
    pairs = Counter(itertools.pairwise(firsts))
    assert pairs[0, 0] / len(firsts) == pytest.approx(0.25, abs=0.01)
    assert pairs[2, 1] / len(firsts) == pytest.approx(0.06, abs=0.01)


def test_windows_and_seeds_differ():
    order, other = MixtureOrder({"a": 0.5, "b": 0.5}, 0), MixtureOrder({"a": 0.5, "b": 0.5}, 1)
    first = [order[position][0] for position in range(200)]
    assert first != [order[order.window + position][0] for position in range(200)]
    assert first != [other[position][0] for position in range(200)]
    assert first == [MixtureOrder({"a": 0.5, "b": 0.5}, 0)[position][0] for position in range(200)]


@settings(max_examples=40)
@given(st.integers(1, 3 * BLOCK_RECORDS + 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_every_epoch_is_a_permutation(records, seed, stream):
    order = RecordOrder(records, seed, stream, BLOCK_RECORDS)
    for epoch in (0, 1, 7):
        found = [order[epoch * records + offset] for offset in range(records)]
        assert {number for number, _ in found} == {epoch}
        assert sorted(record for _, record in found) == list(range(records))


def test_epochs_and_seeds_differ():
    records = 4 * BLOCK_RECORDS + 100

    def epoch(number: int, seed: int = 0) -> list[int]:
        order = RecordOrder(records, seed, 5, BLOCK_RECORDS)
        return [order[number * records + offset][1] for offset in range(records)]

    assert len({tuple(epoch(0)), tuple(epoch(1)), tuple(epoch(2)), tuple(epoch(0, seed=1))}) == 4


def test_the_first_epoch_reads_in_order_and_later_ones_block_by_block():
    records = 8 * BLOCK_RECORDS
    order = RecordOrder(records, 0, 5, BLOCK_RECORDS)
    first = [order[offset][1] for offset in range(records)]
    assert sum(b - a == 1 for a, b in itertools.pairwise(first)) >= records - 2
    second = [order[records + offset][1] for offset in range(records)]
    changes = sum(a // BLOCK_RECORDS != b // BLOCK_RECORDS for a, b in itertools.pairwise(second))
    assert changes <= 8


def test_far_positions_cost_no_more():
    # Larger than any language that a training of 10 ** 9 sequences comes to repeat.
    records = 10**8

    def cost(start: int) -> float:
        mixture, order = MixtureOrder(MC4_RATES, 0), RecordOrder(records, 0, 5, BLOCK_RECORDS)
        begin = time.perf_counter()
        for position in range(start, start + 500):
            mixture[position]
            order[position]
        return time.perf_counter() - begin

    cost(0)
    assert min(cost(10**12) for _ in range(5)) < 5 * min(cost(0) for _ in range(5)) + 0.1
