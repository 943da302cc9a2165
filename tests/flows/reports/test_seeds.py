"""Speed-ups and differences over several seeds: oracles, invariants, coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_coverage import SeedLaw, report_coverage
from loss_curves import CONFIG, FAST, SLOW, STEPS, losses_from
from scipy.stats import t

from mswitch.flows.reports.headline import headline, measure_language, pool
from mswitch.flows.reports.intervals import (
    Estimate,
    ReportConfig,
    counts_by_chance,
    draw_seeds,
    percentiles,
    spread_documents,
    widening,
)
from mswitch.flows.reports.speedup import (
    delta_over_seeds,
    mean_losses,
    measure_delta,
    measure_speed_up,
    resample_curves,
    speed_up_over_seeds,
)


def found_over(seeds):
    """The speed-up of the seeds' losses."""
    drawn = resample_curves(mean_losses(seeds), CONFIG.resamples, 0)
    of_seeds = np.array([losses.curves() for losses in seeds])
    return speed_up_over_seeds(STEPS, of_seeds, drawn, CONFIG)


def pairs_of(*curves):
    return np.array(curves, float)


def value_of(*curves):
    return speed_up_over_seeds(STEPS, pairs_of(*curves), None, CONFIG)


#: Met at step 10, a speed-up of 1,000 over SLOW; never met; met at once.
EARLY, MISSED, AT_ONCE = [9, 3, 2, 2, 2], [9, 8, 7, 6, 5], [2, 2, 2, 2, 2]


def test_it_is_that_of_the_averaged_curves():
    pairs = pairs_of((SLOW, FAST), (FAST, EARLY))
    found, alone = value_of(*pairs), measure_speed_up(STEPS, pairs.mean(axis=0), None, 0.95)
    assert (found.value, found.censored) == (alone.value, "none")
    assert found.baseline_steps / found.candidate_steps == pytest.approx(found.value)
    assert found.of_seeds[0] == pytest.approx(10**1.5)


def test_a_seed_that_never_arrives_counts_with_its_losses():
    """As one of speed-up 1 it would pull a geometric mean down to the root of the other."""
    late = [9, 8, 6, 4, 3.1]
    found = value_of((SLOW, FAST), (SLOW, late), (SLOW, FAST))
    assert found.of_seeds == (pytest.approx(10**1.5), 1.0, pytest.approx(10**1.5))
    mean = np.mean([FAST, late, FAST], axis=0)
    part = (mean[2] - 3) / (mean[2] - mean[3])
    assert found.value == pytest.approx(10**4 / 10 ** (2 + part))
    assert found.censored == "none"


def test_it_is_a_bound_only_where_the_averaged_curves_leave_one():
    assert value_of((SLOW, MISSED), (SLOW, [9, 8, 7, 6, 4])).censored == "upper"
    assert value_of((SLOW, AT_ONCE), (SLOW, AT_ONCE)).censored == "lower"
    assert value_of((SLOW, AT_ONCE), (SLOW, MISSED)).value is not None
    flat = [3, 3, 3, 3, 3]
    found = value_of((SLOW, FAST), (flat, FAST))
    assert found.of_seeds[1] is None
    assert value_of((flat, FAST), (flat, FAST)).value is None


def seeds_of(*curves, noise=0.05, documents=8, lang="de"):
    """Documents of 50 tokens under several seeds, with noise of each."""
    options = {"lang": lang, "documents": documents, "noise": noise, "tokens": 50}
    return [losses_from(*pair, **options, seed=seed) for seed, pair in enumerate(curves)]


def test_seeds_that_are_alike_give_what_one_gives():
    one = losses_from(SLOW, FAST, noise=0.3)
    drawn = resample_curves(one, CONFIG.resamples, 0)
    assert found_over([one]) == measure_speed_up(STEPS, one.curves(), drawn, 0.95)
    alike, alone = found_over([one] * 3), found_over([one])
    assert alike.value == pytest.approx(alone.value)
    assert alike.ci == pytest.approx(alone.ci)
    assert delta_over_seeds([one], 0.95) == measure_delta(one, 0.95)
    both = delta_over_seeds([one, one], 0.95), measure_delta(one, 0.95)
    assert both[0].value == pytest.approx(both[1].value)
    assert both[0].ci == pytest.approx(both[1].ci)


def test_seeds_that_differ_widen_every_interval():
    near = seeds_of((SLOW, FAST), (SLOW, FAST), (SLOW, FAST))
    apart = seeds_of((SLOW, FAST), (SLOW, EARLY), (SLOW, [9, 8, 6, 4, 2.5]))
    widths = [np.log(found.ci[1] / found.ci[0]) for found in map(found_over, (near, apart))]
    assert widths[1] > 3 * widths[0]
    narrow, wide = (delta_over_seeds(seeds, 0.95) for seeds in (near, apart))
    assert wide.ci[1] - wide.ci[0] > 2 * (narrow.ci[1] - narrow.ci[0])
    assert wide.p_value > narrow.p_value
    assert delta_over_seeds(apart, None).ci is None


def test_the_mean_of_losses_has_the_mean_of_curves():
    seeds = seeds_of((SLOW, FAST), (SLOW, EARLY), (FAST, SLOW))
    for model in (0, 1):
        mean = np.mean([losses.curves()[model] for losses in seeds], axis=0)
        np.testing.assert_allclose(mean_losses(seeds).curves()[model], mean)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=30)
def test_percentiles_of_drawn_seeds_are_students_interval(seeds, number, confidence):
    values = np.random.default_rng(number).normal(3, 0.3, seeds)
    config = ReportConfig(20_000, number, confidence)
    drawn = widening(seeds - 1, confidence) * draw_seeds(values, config)
    low, high = percentiles(values.mean() + drawn, confidence)
    error = values.std(ddof=1) / np.sqrt(seeds)
    reach = t.ppf((1 + confidence) / 2, seeds - 1) * error
    assert (low, high) == pytest.approx(
        (values.mean() - reach, values.mean() + reach), abs=0.06 * reach
    )


def test_seeds_have_the_same_luck_in_all_that_is_measured():
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, (3, 4, 5))
    drawn = draw_seeds(values, CONFIG)
    assert drawn.shape == (CONFIG.resamples, 4, 5)
    np.testing.assert_allclose(drawn[:, 1, 2], draw_seeds(values[:, 1, 2], CONFIG))
    assert not draw_seeds(values[:1], CONFIG).any()


@pytest.mark.parametrize("units", [5, 8, 30])
def test_resamples_of_few_documents_are_spread_to_students_interval(units):
    values = np.random.default_rng(units).normal(0, 1, units)
    drawn = np.random.default_rng(1).choice(values, (20_000, units)).mean(axis=1)
    low, high = percentiles(spread_documents(drawn, values.mean(), units, 0.95), 0.95)
    reach = t.ppf(0.975, units - 1) * values.std(ddof=1) / np.sqrt(units)
    assert high - low == pytest.approx(2 * reach, rel=0.1)
    assert spread_documents(drawn, values.mean(), 1.0, 0.95) is drawn


def by_chance(of_seeds, skewness=0.0):
    delta = Estimate(0.0, (-1.0, 1.0), 1.0, skewness, 0.05, 19.0)
    return counts_by_chance([delta] * of_seeds.shape[1], of_seeds, ReportConfig(2000))


def test_chance_makes_one_in_forty_languages_better():
    """Each side of a 95 % interval misses 2.5 of 100; the larger count is one or two more."""
    alone = by_chance(np.zeros((1, 100)))
    assert 3 < alone.mean() < 4.5
    assert np.quantile(alone, 0.95) == 6
    # Documents' differences with a long tail on one side are missed more often on the other.
    assert np.quantile(by_chance(np.zeros((1, 100)), 0.2), 0.95) > 10


def test_two_seeds_do_not_tell_what_chance_gives():
    for count, tested in ((1, True), (2, False), (3, True)):
        langs = ("de", "en", "fr", "sw", "yo")
        pairs = [(SLOW, FAST)] * count
        results = [
            measure_language(seeds_of(*pairs, noise=0.01, lang=lang), STEPS, True, CONFIG)
            for lang in langs
        ]
        improved = headline(results, CONFIG)["improved"]
        assert (improved["count_p_value"] is not None) == tested
        assert (improved["most_by_chance"] is not None) == tested


def test_seeds_that_are_lucky_in_all_languages_make_many_better_by_chance():
    """One effect for all: all languages are better, or none, as in one t test."""
    shared = 100 * np.array([[-1.0], [0.2], [0.8]]) * np.ones((1, 100))
    found = by_chance(shared)
    assert np.mean(found == 100) == pytest.approx(0.05, abs=0.015)
    assert np.mean(found > 0) < 0.1


@pytest.mark.parametrize("lucky", [FAST, EARLY])
def test_a_lucky_seed_is_in_the_headline_of_all_languages(lucky):
    """Languages alone would vary by nothing: it is the same in all of them."""
    pairs = [(SLOW, candidate) for candidate in (FAST, lucky, FAST)]
    results = [
        measure_language(seeds_of(*pairs, noise=1e-6, lang=lang), STEPS, True, CONFIG)
        for lang in ("de", "en", "fr", "sw", "yo")
    ]
    found = headline(results, CONFIG)["median_step_speedup"]
    pooled = pool(results, STEPS, CONFIG)
    assert found["ci"][0] <= found["value"] * (1 + 1e-6) <= found["ci"][1] * (1 + 2e-6)
    for low, high in (found["ci"], pooled.speed_up.ci):
        assert (high / low > 10) == (lucky == EARLY)
    assert found["value"] == pytest.approx(pooled.speed_up.value, rel=1e-3)


def test_intervals_of_three_seeds_hold_the_truth():
    """Nominal are 95 %; of 10 reports the worst that is likely is 7."""
    held = report_coverage(3, 1.5, SeedLaw(), languages=12, reports=10)
    assert held["language"] >= 0.9
    assert min(held["median"], held["pooled"], held["nats"]) >= 0.7
