"""How often equal models are called different, by the simulation of `make bench-statistics`."""

from functools import partial

import pytest
from interval_coverage import (
    draw_null,
    family_wise_error,
    figures_coverage,
    heavy,
    near_duplicates_error,
    normal,
    per_token,
    reported_p_value,
)


@pytest.mark.parametrize("noise", [normal, heavy, per_token])
@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_the_family_wise_error_is_kept(noise, deviation):
    draw = partial(draw_null, documents=8, deviation=deviation, noise=noise)
    assert family_wise_error(draw, reported_p_value, families=200) <= 0.07


@pytest.mark.parametrize("pairs", [5, 20])
def test_near_duplicates_count_once(pairs):
    apart, once = (
        near_duplicates_error(pairs, 0.0, clustered=clustered, families=200)
        for clustered in (False, True)
    )
    assert once <= 0.07
    assert apart >= 0.4


def test_intervals_over_few_languages_hold_the_truth_as_often_as_the_page_says():
    assert figures_coverage(5, reports=200) == pytest.approx((0.93, 0.83), abs=0.06)
