"""How often equal models are called different, by the simulation of `make bench-statistics`."""

import numpy as np
import pytest
from interval_coverage import (
    draw_null,
    family_wise_error,
    figures_coverage,
    heavy,
    linearised_p_value,
    normal,
    per_token,
    reported_p_value,
)

from flows.report.speedup import measure_delta


@pytest.mark.parametrize("noise", [normal, heavy, per_token])
@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_the_family_wise_error_is_kept(noise, deviation):
    error = family_wise_error(8, deviation, noise, reported_p_value, families=200)
    assert error <= 0.07


def test_a_linearised_error_does_not_keep_it():
    error = family_wise_error(8, 1.0, normal, linearised_p_value, families=40)
    assert error > 0.3


@pytest.mark.parametrize("documents", [5, 8])
@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_equal_models_are_seldom_called_better(documents, deviation):
    """Nominal are 2.5 %; the percentile bootstrap has 8 to 9 % with five documents."""
    generator = np.random.default_rng(0)
    nulls = [draw_null(generator, documents, deviation, normal) for _ in range(2000)]
    intervals = [measure_delta(losses, 0.95).ci for losses in nulls]
    assert sum(ci is not None and ci[1] < 0 for ci in intervals) <= 0.035 * 2000


def test_intervals_over_few_languages_hold_the_truth_as_often_as_the_page_says():
    assert figures_coverage(5, reports=200) == pytest.approx((0.93, 0.83), abs=0.06)
