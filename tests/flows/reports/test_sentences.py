"""How numbers and verdicts are worded."""

import re

import pytest

from mswitch.flows.reports import numbers, sentences


def test_numbers_are_written_for_readers():
    assert numbers.bounded(4.236) == "4.24×"
    assert numbers.bounded(1.0, "upper") == "<\N{NARROW NO-BREAK SPACE}1.00×"
    assert numbers.bounded(1000.0, "lower") == ">\N{NARROW NO-BREAK SPACE}1,000×"
    assert numbers.bounded(None) == "n/a"
    assert numbers.ratio(9.996) == "10.0"
    assert numbers.ratio(99.96) == "100"
    assert numbers.signed(-0.0004) == "−0.0004"
    assert (numbers.number(-0.011, 1), numbers.signed(1e-5, 1)) == ("−0.01", "0.0")
    assert numbers.number(0.0) == numbers.signed(-0.0) == "0.000"
    assert numbers.signed(0.1234) == "+0.123"
    assert numbers.signed(-0.1234) == "−0.123"
    assert (numbers.percent(-0.28), numbers.percent(-0.004)) == ("−28%", "−0.4%")
    assert numbers.large(582_400_000) == "582 million"
    assert numbers.large(999_600_000) == "1 billion"
    assert numbers.large(1.02e15) == "1.02 × 10¹⁵"
    assert numbers.large(40_096) == "40,096"


@pytest.mark.parametrize(
    ("ci", "reach", "value", "words_"),
    [
        ([2.0, 5.0], [3.0, 3.0], 3.0, "in 66.7% fewer steps .step speed-up 3.00×, 95%"),
        ([0.5, 0.8], [0.6, 0.6], 0.6, "b was slower"),
        ([0.8, 1.3], [1.1, 1.1], 1.1, "No clear difference"),
        (
            [0.8, 1.3],
            [1.004, 1.004],
            1.004,
            "No clear difference: .* the same number of steps .*1.00×, 95% interval 0.80 to 1.30",
        ),
        ([1.001, 1.003], [1.002, 1.002], 1.002, "No difference: .* the same number of steps"),
        ([0.996, 0.999], [0.998, 0.998], 0.998, "No difference: .* the same number of steps"),
        ([1.001, 1.2], [1.003, None], 1.003, "No clear difference: .* is more than 1.00×"),
        (None, [1.0, 1.0], 1.0, "Too few languages .* is 1.00×, the same number of steps, without"),
        ([1.0, 1.0], [0.0, 1.0], 1.0, "less than 1.00×.*same bound in 95% of resamples"),
        # A bound is not on the other side of 1 than what it bounds may be.
        ([1.08, 1.72], [0.0, 1.47], 1.47, "No clear difference: .* is less than 1.47×"),
        ([0.6, 0.9], [0.8, None], 0.8, "No clear difference: .* is more than 0.80×"),
        ([1.2, 1.7], [1.4, 1.5], 1.5, "in more than 28.6% fewer steps .* 1.40 to 1.50×, 95%"),
        ([0.9, 1.7], [0.97, 1.5], 1.5, "No clear difference: .* is 0.97 to 1.50× "),
        (
            [50.0, 90.0],
            [90.0, None],
            90.0,
            "in more than 98.9% fewer steps .step speed-up more than 90.0×",
        ),
    ],
)
def test_the_verdict_follows_the_interval(ci, reach, value, words_):
    summary = {
        "languages": 9,
        "languages_in_headline": 7,
        "confidence_percent": "95",
        "median_step_speedup": {
            "value": value, "ci": ci, "ci_censored": ("none", "none"), "range": reach
        },
    }  # fmt: skip
    verdict = sentences.verdict(summary, "a", "b")
    assert re.search(words_, verdict)
    assert "× fewer" not in verdict


def test_what_skewness_leaves_out_is_told():
    summary = {
        "languages": 30,
        "languages_under_minimum_documents": 0,
        "languages_on_a_plateau": 0,
        "improved": {"skewness": 1.52, "languages_after_holm": None},
    }
    [reason] = sentences.caution(summary, 1e12)
    assert "are skewed (+1.5 in the mean over languages)" in reason
    assert sentences.after_holm(summary["improved"]) == "no count after Holm’s correction"
    counted = {**summary["improved"], "languages_after_holm": 0}
    assert sentences.after_holm(counted) == "0 after Holm’s correction"
    for improved in (counted, None):
        assert sentences.caution({**summary, "improved": improved}, 1e12) == []


def test_a_share_says_what_bounds_leave_open_and_of_none_or_all_has_no_interval():
    assert sentences.share_interval([0.1, 0.25]) == "10 to 25%"
    assert sentences.share_interval([0.0, 0.0]) is None
    assert sentences.share_interval(None) is None
    known = {"value": 0.13, "range": [0.13, 0.13]}
    assert sentences.fourfold_scope(known) == "of these languages"
    found = sentences.fourfold_scope({**known, "range": [0.13, 0.4]})
    assert found == "of these languages; of some only a bound is known, so it may be up to 40%"


def test_a_pooled_speed_up_of_one_says_what_it_means():
    pooled = {
        "languages": 6,
        "documents": 40,
        "step_speedup": 0.9951,
        "step_speedup_ci": [0.9, 1.1],
        "step_speedup_ci_censored": ["none", "none"],
        "censored": "none",
        "confidence_percent": "95",
    }
    said = "the step speed-up is 1.00×, the same number of steps (95% interval 0.90 to 1.10)"
    assert sentences.pooled_sentence(pooled, "a", 1).endswith(said)
    never = {**pooled, "step_speedup": 1.0, "censored": "upper"}
    assert "is less than 1.00× (95%" in sentences.pooled_sentence(never, "a", 1)
    undefined = {**pooled, "step_speedup": None}
    said = "not defined, because a was never better than at its first evaluation"
    assert sentences.pooled_sentence(undefined, "a", 1).endswith(said)
    said += ", or seeds are at opposite bounds"
    assert sentences.pooled_sentence(undefined, "a", 2).endswith(said)


@pytest.mark.parametrize(
    ("ci", "reach", "value", "shown", "interval"),
    [
        ([2.0, 5.0], [3.0, 3.0], 3.0, "3.00×", "2.00 to 5.00"),
        ([1.0, 1.0], [0.0, 1.0], 1.0, "< 1.00×", "< 1.00 throughout"),
        ([0.9, 1.0], [0.0, 1.0], 1.0, "< 1.00×", "0.90 to 1.00"),
        ([50.0, 90.0], [90.0, None], 90.0, "> 90.0×", "50.0 to 90.0"),
        (None, [0.0, 1.0], 1.0, "< 1.00×", None),
        # As a mean is where some languages are at a lower bound and others at an upper one.
        ([2.0, 5.0], [1.0, None], 3.0, "3.00×", "2.00 to 5.00"),
        # As a median is that few languages at a bound move.
        ([1.4, 2.1], [1.6, 1.606], 1.606, "1.60 to 1.61×", "1.40 to 2.10"),
        ([1.4, 2.1], [1.601, 1.604], 1.604, "1.60×", "1.40 to 2.10"),
    ],
)
def test_a_figure_that_is_a_bound_says_so(ci, reach, value, shown, interval):
    figure = {"value": value, "ci": ci, "ci_censored": None, "range": reach}
    thin = "\N{NARROW NO-BREAK SPACE}"
    made = sentences.figure_words(figure)
    assert made == re.sub("([<>]) ", f"\\1{thin}", shown)
    made = sentences.figure_interval(figure)
    assert made == (interval and interval.replace("< ", f"<{thin}"))


@pytest.mark.parametrize(
    ("ci", "marks", "shown"),
    [
        ((1.0, 1.33), ("upper", "none"), "< 1.00 to 1.33"),
        ((0.4, 0.4), ("upper", "upper"), "< 0.40 throughout"),
        ((0.4, 3.0), ("none", "lower"), "0.40 to > 3.00"),
        ((0.5, 3.0), ("upper", "lower"), "< 0.50 to > 3.00"),
        ((1.0, 1.0), ("none", "none"), "1.00 to 1.00"),
    ],
)
def test_an_end_that_is_a_bound_says_so(ci, marks, shown):
    shown = re.sub("([<>]) ", "\\1\N{NARROW NO-BREAK SPACE}", shown)
    assert numbers.speed_up_interval(ci, marks) == shown


def test_weights_take_the_place_of_alpha():
    mixture = {"weights": {"de": 3.0, "sw": 1.0}, "alpha": 0.3, "max_epochs": None}
    assert sentences.mixture(mixture) == "weights = de 3.0, sw 1.0"
