"""Speed-ups and differences over several seeds: oracles, invariants, coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_coverage import seeds_coverage
from loss_curves import CONFIG, FAST, SLOW, STEPS, losses_from

from mswitch.flows.reports.final_difference import delta_over_seeds, measure_delta
from mswitch.flows.reports.headline import headline, measure_language, pool
from mswitch.flows.reports.intervals import resample_seeds, widened
from mswitch.flows.reports.speedup import (
    mean_losses,
    measure_speed_up,
    resample_curves,
    speed_up_over_seeds,
)


def found_over(seeds, *, confidence=0.95, resamples=400):
    """The speed-up of the seeds' losses."""
    return speed_up_over_seeds(
        STEPS,
        [losses.curves() for losses in seeds],
        [resample_curves(losses, resamples, 0) for losses in seeds],
        confidence,
        np.random.default_rng(0),
    )


def pairs_of(*curves):
    return [tuple(np.asarray(curve, float) for curve in pair) for pair in curves]


def value_of(*curves):
    return speed_up_over_seeds(STEPS, pairs_of(*curves), None, 0.95, np.random.default_rng(0))


#: Met at step 10, a speed-up of 1,000 over SLOW; never met; met at once.
EARLY, MISSED, AT_ONCE = [9, 3, 2, 2, 2], [9, 8, 7, 6, 5], [2, 2, 2, 2, 2]


def test_it_is_the_geometric_mean():
    found = value_of((SLOW, FAST), (SLOW, EARLY))
    assert found.value == pytest.approx(np.sqrt(10**1.5 * 1000))
    assert found.censored == "none"
    assert found.candidate_steps == pytest.approx(np.sqrt(10**2.5 * 10))
    assert found.baseline_steps / found.candidate_steps == pytest.approx(found.value)


@pytest.mark.parametrize(
    ("candidates", "censored"),
    [((FAST, MISSED), "upper"), ((AT_ONCE, FAST), "lower"), ((AT_ONCE, AT_ONCE), "lower")],
)
def test_a_bound_of_one_seed_is_a_bound_of_all(candidates, censored):
    found = value_of(*((SLOW, candidate) for candidate in candidates))
    assert found.censored == censored
    assert found.value is not None
    assert found.candidate_steps is None


def test_bounds_of_both_kinds_have_no_mean():
    found = value_of((SLOW, AT_ONCE), (SLOW, MISSED))
    assert (found.value, found.ci, found.censored) == (None, None, "none")
    rising = [3, 4, 5, 6, 7]
    assert value_of((SLOW, FAST), (rising, FAST)).value is None


def seeds_of(*curves, noise=0.05, documents=8, lang="de"):
    """Documents of 50 tokens under several seeds, with noise of each."""
    options = {"lang": lang, "documents": documents, "noise": noise, "tokens": 50}
    return [losses_from(*pair, **options, seed=seed) for seed, pair in enumerate(curves)]


def test_seeds_that_are_alike_give_what_one_gives():
    one = losses_from(SLOW, FAST, noise=0.3)
    drawn = resample_curves(one, 400, 0)
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


def test_a_seed_that_never_met_the_target_opens_the_interval_below():
    found = found_over(seeds_of((SLOW, FAST), (SLOW, MISSED)))
    assert found.ci_censored == ("upper", "upper")


def test_the_mean_of_losses_has_the_mean_of_curves():
    seeds = seeds_of((SLOW, FAST), (SLOW, EARLY), (FAST, SLOW))
    for model in (0, 1):
        mean = np.mean([losses.curves()[model] for losses in seeds], axis=0)
        np.testing.assert_allclose(mean_losses(seeds).curves()[model], mean)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_widening_keeps_the_centre_and_never_narrows(seeds, number):
    generator = np.random.default_rng(number)
    values = generator.normal(0, 0.3, (seeds, 1)) + generator.normal(0, 0.3, (1, 4000))
    found = resample_seeds(values, generator, 0.95)
    assert found.mean() == pytest.approx(values.mean(), abs=0.2 * found.std())
    # Drawn apart, seeds and documents are as good as uncorrelated.
    assert found.std() >= 0.97 * values.mean(axis=0).std()
    of_all = values.mean(axis=0)
    np.testing.assert_array_equal(widened(of_all, of_all, seeds, 0.95), of_all)


def test_of_many_seeds_it_is_the_plain_bootstrap():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(0, 1, (400, 1)), 4000, axis=1)
    assert resample_seeds(values, generator, 0.95).std() == pytest.approx(1 / 20, rel=0.1)


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


@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_the_interval_of_three_seeds_holds_the_truth(spread):
    """Nominal are 95 %."""
    assert seeds_coverage(3, spread, 30, 4.0, languages=100) >= 0.9
