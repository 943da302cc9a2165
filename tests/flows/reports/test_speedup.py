"""Oracles of the speed-up statistics: curves whose crossings are known by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loss_curves import CONFIG, FAST, SLOW, STEPS, losses_from
from scipy.stats import skew, t, ttest_1samp

from mswitch.flows.reports.headline import measure_language
from mswitch.flows.reports.intervals import document_weights, language_generator, margin, t_test
from mswitch.flows.reports.speedup import (
    LanguageLosses,
    isotonic_fit,
    isotonic_fits,
    log_speed_ups,
    measure_delta,
    measure_speed_up,
    percentile_interval,
    resample_curves,
)


def speed_up_of(baseline, candidate, steps=STEPS):
    curves = (np.asarray(baseline, float), np.asarray(candidate, float))
    return measure_speed_up(steps, curves, None, 0.95)


@pytest.mark.parametrize(
    ("baseline", "candidate", "value", "censored", "steps"),
    [
        # The candidate falls from 4 at step 100 to 2 at step 1000, so meets 3 at 10^2.5.
        ([9, 8, 6, 4, 3], [8, 6, 4, 2, 1], 10**1.5, "none", (10_000, 10**2.5)),
        # A crossing at an evaluation is that step.
        ([9, 8, 6, 4, 3], [8, 6, 3, 2, 1], 100, "none", (10_000, 100)),
        # The baseline's best is reached at step 100 and kept; the candidate reaches it at the end.
        ([9, 5, 3, 3, 3], [9, 8, 7, 5, 3], 0.01, "none", (100, 10_000)),
        # 3.0, 3.4 pool to 3.2, first met by the baseline itself at step 1000.
        ([9, 8, 6, 3.0, 3.4], [8, 6, 3.2, 2, 1], 10, "none", (1000, 100)),
        # Already better at the first evaluation: a lower bound.
        ([9, 8, 6, 4, 3], [2.9, 2, 2, 1, 1], 10_000, "lower", (10_000, None)),
        # Never reached: an upper bound.
        ([9, 8, 6, 4, 3], [9, 8, 7, 6, 5], 1, "upper", (10_000, None)),
        # A baseline that never improved has no speed-up.
        ([3, 4, 5, 6, 7], [3, 2, 2, 2, 2], None, "none", (None, None)),
    ],
)
def test_a_target_is_first_met_in_log_step(baseline, candidate, value, censored, steps):
    found = speed_up_of(baseline, candidate)
    assert (found.value, found.censored) == (value and pytest.approx(value), censored)
    met = tuple(step and pytest.approx(step) for step in steps)
    assert (found.baseline_steps, found.candidate_steps) == met


def test_a_plateau_is_no_speed_up():
    # Overfitting: hardly better and no faster. Dividing the last step would say 100.
    overfitted = np.array([9, 5, 3, 3.2, 3.4])
    found = speed_up_of(overfitted, overfitted - 0.01)
    assert 1 < found.value < 1.1


@given(st.lists(st.floats(0.1, 10), min_size=10, max_size=10), st.floats(0.01, 100))
@settings(deadline=None)
def test_a_positive_factor_on_all_losses_changes_nothing(values, factor):
    baseline, candidate = np.round(values[:5], 2), np.round(values[5:], 2)
    before, after = (speed_up_of(scale * baseline, scale * candidate) for scale in (1.0, factor))
    assert after.censored == before.censored
    if before.value is None:
        assert after.value is None
    else:
        assert after.value == pytest.approx(before.value, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 16))
@settings(deadline=None, max_examples=50)
def test_vectorised_fits_are_scipys(seed, count):
    curves = np.random.default_rng(seed).normal(3, 1, (20, count))
    curves[::2] = np.round(curves[::2])  # ties
    expected = np.array([isotonic_fit(curve) for curve in curves])
    found = isotonic_fits(curves)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert (np.diff(found, axis=1) <= 0).all()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_identical_runs_give_exactly_one(seed):
    generator = np.random.default_rng(seed)
    curve = np.sort(generator.uniform(1, 9, 5))[::-1] + generator.normal(0, 0.8, 5)
    curve = np.maximum(curve, 0.1)
    if isotonic_fit(curve)[0] <= isotonic_fit(curve)[-1] * (1 + 1e-9):
        return
    losses = losses_from(curve, curve, noise=0.3, seed=seed)
    same = dataclasses.replace(losses, candidate=losses.baseline)
    drawn = resample_curves(same, 200, 0)
    found = measure_speed_up(STEPS, same.curves(), drawn, 0.95)
    assert (found.value, found.censored, found.ci) == (1.0, "none", (1.0, 1.0))
    delta = measure_delta(same, 0.95)
    assert (delta.value, delta.ci, delta.p_value) == (0.0, None, 1.0)


def interval_of(*pairs):
    """The interval whose resamples are the given curves, the estimate the first of them."""
    curves = (np.array(pairs[0][0], float), np.array(pairs[0][1], float))
    resampled = tuple(np.array([pair[model] for pair in pairs], float) for model in (0, 1))
    found = measure_speed_up(STEPS, curves, resampled, 0.8)
    return found.ci, found.ci_censored


PLATEAU = [9, 8, 3, 3, 3]
#: Met at step 1,000: a speed-up of 0.1.
LATE = (PLATEAU, [9, 8, 7, 3, 2])
#: Met at step 10: a speed-up of 10.
EARLY = (PLATEAU, [9, 3, 2, 2, 2])
MISSED = (PLATEAU, [9, 8, 7, 6, 5])
AT_ONCE = (PLATEAU, [2, 2, 2, 2, 2])


@pytest.mark.parametrize(
    ("resamples", "ends", "marks"),
    [
        ([LATE] + [EARLY] * 10 + [MISSED], (0.1, 10), ("none", "none")),
        ([LATE] * 2 + [EARLY] * 8 + [MISSED] * 2, (0.1, 10), ("upper", "none")),
        ([EARLY] * 9 + [MISSED] * 3, (1, 10), ("upper", "none")),
        ([LATE] * 2 + [MISSED] * 10, (0.1, 1), ("upper", "upper")),
        ([LATE] * 6 + [AT_ONCE] * 6, (0.1, 100), ("none", "lower")),
    ],
)
def test_resamples_at_a_bound_may_lie_anywhere_beyond_it(resamples, ends, marks):
    """Those that missed the target, at 1, would hide the ones that met it late."""
    assert interval_of(*resamples) == (pytest.approx(ends), marks)


def test_a_bound_below_what_others_met_hides_nothing():
    """These met it at once on another baseline."""
    quick = ([9, 3, 3, 3, 3], [2, 2, 2, 2, 2])
    slow = ([9, 8, 7, 6, 3], [9, 2.9, 2.9, 2.9, 2.9])
    (low, high), marks = interval_of(*[quick] * 2, *[slow] * 10)
    assert marks == ("lower", "lower")
    assert low == pytest.approx(10)
    assert high > 500


def test_whatever_the_bounds_stand_for_the_interval_is_right():
    generator = np.random.default_rng(5)
    for _ in range(500):
        chance = generator.dirichlet([1, 2, 1])
        codes = generator.choice([-1, 0, 1], 45, p=chance)
        values = np.where(codes == -1, 0.0, generator.normal(0, 1, 45))
        (low, high), marks = percentile_interval(values, codes == -1, codes == 1, 0.8)
        truth = np.exp(np.sort(values + codes * generator.exponential(1, 45)))
        slack = 1 + 1e-12
        assert truth[4] <= low * slack if marks[0] == "upper" else low <= truth[4] * slack
        assert truth[-5] >= high / slack if marks[1] == "lower" else high >= truth[-5] / slack


def test_document_order_does_not_matter():
    losses = losses_from([9, 8, 6, 4, 3], [8, 6, 4, 2, 1], noise=0.3, documents=7)
    order = np.random.default_rng(1).permutation(7)
    of_documents = ("tokens", "target_bytes", "baseline", "candidate")
    changes = {name: getattr(losses, name)[order] for name in of_documents}
    shuffled = dataclasses.replace(losses, **changes)
    for one, other in zip(losses.curves(), shuffled.curves(), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.integers(2, 4))
@settings(deadline=None, max_examples=25)
def test_copies_of_all_documents_change_no_interval(seed, documents, times):
    """They are one cluster with their original, which has the sum of their tokens and losses."""
    losses = losses_from(SLOW, FAST, noise=0.3, documents=documents, seed=seed)
    of_documents = ("tokens", "target_bytes", "baseline", "candidate")
    copies = {name: np.concatenate([getattr(losses, name)] * times) for name in of_documents}
    copied = dataclasses.replace(losses, **copies)
    summed = copied.sum_clusters(np.tile(np.arange(documents), times))
    assert (summed.documents, summed.clusters) == (times * documents, documents)
    found, wanted = (measure_language([each], STEPS, True, CONFIG) for each in (summed, losses))
    assert found.has_interval == wanted.has_interval == (documents >= 5)
    for one, other in ((found.delta, wanted.delta), (found.speed_up, wanted.speed_up)):
        assert one.value == pytest.approx(other.value)
        assert one.ci == pytest.approx(other.ci)
    assert found.delta.p_value == pytest.approx(wanted.delta.p_value)
    if documents >= 5:
        apart = measure_language([copied], STEPS, True, CONFIG).delta
        assert np.ptp(apart.ci) < np.ptp(found.delta.ci)


def test_resampling_equals_a_plain_loop():
    losses = losses_from([9, 8, 6, 4, 3], [8, 6, 4, 2, 1], noise=0.3, documents=6)
    baseline, candidate = resample_curves(losses, 25, seed=7)
    weights = document_weights(6, 25, language_generator("de", 7))
    assert (weights.sum(axis=1) == 6).all()
    values, codes, _, _ = log_speed_ups(
        np.log(STEPS), isotonic_fits(baseline), isotonic_fits(candidate)
    )
    for draw in range(25):
        rows = np.repeat(np.arange(6), weights[draw].astype(int))
        tokens = losses.tokens[rows].sum()
        one = losses.baseline[rows].sum(axis=0) / tokens
        other = losses.candidate[rows].sum(axis=0) / tokens
        np.testing.assert_allclose(baseline[draw], one, rtol=1e-9)
        np.testing.assert_allclose(candidate[draw], other, rtol=1e-9)
        alone = speed_up_of(one, other)
        assert alone.value == pytest.approx(np.exp(values[draw]), rel=1e-6)
        assert alone.censored == {-1: "upper", 0: "none", 1: "lower"}[int(codes[draw])]


def test_long_languages_are_resampled_in_parts(monkeypatch):
    losses = losses_from([9, 8, 6, 4, 3], [8, 6, 4, 2, 1], noise=0.3, documents=40)
    whole = resample_curves(losses, 100, 0)
    monkeypatch.setattr("mswitch.flows.reports.speedup.WEIGHT_CELLS", 400)
    for one, other in zip(resample_curves(losses, 100, 0), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_error_is_what_leaving_out_one_document_changes():
    losses = losses_from(SLOW, FAST, documents=9, noise=0.3)
    found = measure_delta(losses, 0.9)
    moves = []
    for left_out in range(9):
        rows = np.arange(9) != left_out
        sums = [nats[rows, -1].sum() for nats in (losses.baseline, losses.candidate)]
        moves.append((sums[1] - sums[0]) / losses.tokens[rows].sum() - found.value)
    error = math.sqrt(sum(move**2 for move in moves))
    freedom = losses.tokens.sum() ** 2 / (losses.tokens**2).sum() - 1
    assert found.ci == pytest.approx(t.interval(0.9, freedom, found.value, error))
    assert found.p_value == pytest.approx(2 * t.sf(abs(found.value) / error, freedom))


def test_with_equal_lengths_the_test_is_students_a_little_wider():
    generator = np.random.default_rng(5)
    tokens = np.full(12, 50)
    baseline = generator.uniform(100, 200, (12, 5))
    candidate = baseline - generator.normal(8, 10, (12, 5))
    losses = LanguageLosses("de", tokens, tokens, baseline, candidate)
    differences = (candidate - baseline)[:, -1] / 50
    student = ttest_1samp(differences, 0)
    expected = 2 * t.sf(abs(student.statistic) * math.sqrt(11 / 12), 11)
    found = measure_delta(losses, 0.95)
    assert found.p_value == pytest.approx(expected)
    assert found.skewness == pytest.approx(skew(differences, bias=False) / math.sqrt(12))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(5, 40),
    st.floats(0.5, 0.99),
    st.lists(st.floats(-0.2, 0.2), max_size=4),
)
@settings(deadline=None, max_examples=50)
def test_the_interval_excludes_zero_where_the_test_rejects(seed, documents, confidence, of_seeds):
    losses = losses_from([3, 2.5], [3, 2.4], documents=documents, noise=0.2, seed=seed)
    found = measure_delta(losses, confidence, of_seeds)
    assert (found.ci[0] > 0 or found.ci[1] < 0) == (found.p_value < 1 - confidence)
    just = measure_delta(losses, 1 - found.p_value, of_seeds)
    assert min(map(abs, just.ci)) == pytest.approx(0, abs=1e-9)


def test_squares_of_the_margins_of_documents_and_seeds_add_up():
    losses = losses_from(SLOW, FAST, documents=9, noise=0.3)
    alone, found = measure_delta(losses, 0.9), measure_delta(losses, 0.9, [1.0, 1.5, 1.1])
    reach = t.ppf(0.95, 2) * np.std([1.0, 1.5, 1.1], ddof=1) / math.sqrt(3)
    assert found.ci[1] - found.value == pytest.approx(math.hypot(alone.ci[1] - alone.value, reach))
    # No luck of seeds makes it surer than documents alone.
    assert measure_delta(losses, 0.9, [1.0, 1.0 + 1e-9]).p_value >= alone.p_value > 0


def test_one_long_document_proves_nothing():
    """It has 98 % of the tokens, and the others cannot tell how much it varies."""
    tokens = np.array([4900, 20, 20, 20, 20, 20])
    candidate = tokens * np.array([2.0, 2.9, 2.8, 2.9, 2.8, 2.9])
    losses = LanguageLosses("de", tokens, tokens, 3.0 * tokens[:, None], candidate[:, None])
    found = measure_delta(losses, 0.95)
    assert found.value == pytest.approx(-0.9828)
    assert (found.ci, found.p_value) == (None, 1.0)


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_documents_that_all_differ_alike_have_no_interval(gain):
    losses = losses_from(SLOW, np.subtract(SLOW, gain))
    found = measure_delta(losses, 0.95)
    assert found.value == pytest.approx(-gain)
    assert (found.ci, found.p_value, found.skewness) == (None, 1.0, None)
    by_seeds = measure_delta(losses, 0.95, [-gain - 0.1, -gain + 0.1])
    assert by_seeds.ci[1] - by_seeds.value == pytest.approx(t.ppf(0.975, 1) * 0.1)
    assert by_seeds.p_value == pytest.approx(2 * t.sf(gain / 0.1, 1))
    assert by_seeds.skewness is None


@given(
    st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1, 1e6)), min_size=2, max_size=3),
    st.floats(-10, 10),
)
@example([(0.03, 2.8612625322502754), (0.02, 2)], -0.05)
@settings(deadline=None, max_examples=300)
def test_a_p_value_is_that_of_the_interval_which_ends_at_zero(errors, value):
    """Quantiles of p as small as a float can be are not finite for some degrees of freedom."""
    found = t_test(value, errors, 0.95, scale=1.0)
    assert 0 <= found.p_value <= 1
    alone = [2 * t.sf(abs(value) / error, freedom) for error, freedom in errors]
    assert found.p_value >= max(alone) * (1 - 1e-6) or max(alone) < 1e-90
    if 1e-90 < found.p_value < 1:
        assert margin(errors, found.p_value / 2) == pytest.approx(abs(value), rel=1e-6, abs=1e-9)
