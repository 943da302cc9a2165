"""Verdicts follow from intervals."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.reports.verdicts import judge, judge_pair

ENDS = st.lists(st.floats(-3, 3), min_size=2, max_size=2).map(sorted)
MARKS = st.sampled_from(["none", "lower", "upper"])
MIRRORED = {"none": "none", "lower": "upper", "upper": "lower"}
OTHER = {"better": "worse", "worse": "better", "unclear": "unclear"}


@given(ENDS)
def test_what_is_better_for_one_is_worse_for_the_other(ci):
    mirrored = [-end for end in reversed(ci)]
    assert judge(mirrored) == OTHER[judge(ci)]
    assert (judge(ci) == "unclear") == (ci[0] <= 0 <= ci[1])
    assert judge([end + 1 for end in ci], 1.0) == judge([end + 1 - 1 for end in ci])
    assert judge(None) == "too little"


@given(ENDS, MARKS, MARKS, MARKS)
def test_a_bound_proves_nothing_on_the_side_that_it_leaves_open(ci, mark, low, high):
    kind = judge(ci, mark=mark, ends=(low, high))
    if "upper" in (mark, low):
        assert kind != "better"
    if "lower" in (mark, high):
        assert kind != "worse"
    if kind in ("better", "worse") and 0 not in ci:
        assert kind == judge(ci)


@pytest.mark.parametrize(
    ("ci", "reach", "value", "words_"),
    [
        (
            [2.0, 5.0],
            [3.0, 3.0],
            3.0,
            "in 67% fewer steps, a speed-up of 3.0× .95%: 2.0 to 5.0; se",
        ),
        ([0.5, 0.8], [0.6, 0.6], 0.6, "“b” was slower: in the median of 7 languages, .* is 0.60× "),
        ([0.8, 1.3], [1.1, 1.1], 1.1, "No clear difference"),
        (
            [0.8, 1.3],
            [1.004, 1.004],
            1.004,
            "No clear difference: .* the same number of steps .*1.0× .95%: 0.80 to 1.3; seeds 1.2",
        ),
        ([1.001, 1.003], [1.002, 1.002], 1.002, "No difference: .* the same number of steps"),
        ([0.996, 0.999], [0.998, 0.998], 0.998, "No difference: .* the same number of steps"),
        (
            [1.001, 1.2],
            [1.003, None],
            1.003,
            "in at least 0.3% fewer steps, a speed-up of at least 1",
        ),
        (
            [1.01, 1.06],
            [1.04, 1.04],
            1.04,
            "in 4% fewer steps, a speed-up of 1.04× .95%: 1.01 to 1.1",
        ),
        (
            None,
            [1.0, 1.0],
            1.0,
            "Too little .* is 1.0×, the same number of steps, without",
        ),
        ([1.0, 1.0], [0.0, 1.0], 1.0, "at most 1.0× .95%: < 1.0 throughout"),
        # A bound is not on the other side of 1 than what it bounds may be.
        ([1.08, 1.72], [0.0, 1.47], 1.47, "No clear difference: .* is at most 1.5×"),
        ([0.6, 0.9], [0.8, None], 0.8, "No clear difference: .* is at least 0.80×"),
        ([1.2, 1.7], [1.4, 1.5], 1.5, "in 33% fewer steps, a speed-up of 1.5× .95%"),
        ([0.9, 1.7], [0.97, 1.5], 1.5, "No clear difference: .* is 1.5× "),
        ([50.0, 90.0], [90.0, None], 90.0, "in at least 99% fewer steps, .* of at least 90×"),
    ],
)
def test_the_verdict_follows_the_interval(ci, reach, value, words_):
    summary = {
        "languages": 9,
        "languages_in_headline": 7,
        "confidence_percent": "95",
        "median_step_speedup": {
            "value": value, "ci": ci, "ci_censored": ("none", "none"), "range": reach,
            "seeds": [1.23, None],
        },
    }  # fmt: skip
    verdict = judge_pair(summary, "a", "b")
    assert re.search(words_, verdict.replace("\N{NARROW NO-BREAK SPACE}", " "))
    assert "× fewer" not in verdict


@pytest.mark.parametrize(("seeds", "delta", "clear"), [
    ([], -0.04, False), ([], 0.04, False), ([], -0.15, True), ([1.5, 1.4], -0.04, True),
])  # fmt: skip
def test_one_seed_shows_nothing_that_another_seed_could_undo(seeds, delta, clear):
    figure = {"value": 1.5, "ci": [1.2, 1.7], "ci_censored": ("none", "none"), "range": [1.5, 1.5]}
    summary = {
        "languages": 9,
        "languages_in_headline": 7,
        "confidence_percent": "95",
        "median_step_speedup": {**figure, "seeds": seeds},
        "pooled": {"delta": delta},
    }
    verdict = judge_pair(summary, "a", "b")
    assert verdict.startswith("In the median" if clear else "No clear difference")
    assert clear != ("two seeds of one model can differ as much" in verdict)
