"""How numbers and verdicts are worded."""

import re

import pytest
from made_reports import say

from mswitch.flows.reports import numbers, sentences


def test_numbers_are_written_for_readers():
    assert numbers.bounded(4.236) == "4.2×"
    assert numbers.bounded(1.0, "upper") == "<\N{NARROW NO-BREAK SPACE}1.0×"
    assert numbers.bounded(1000.0, "lower") == ">\N{NARROW NO-BREAK SPACE}1,000×"
    assert numbers.bounded(None) == "n/a"
    shown = [numbers.ratio(value) for value in (0.338, 0.96, 0.996, 1.004, 1.04, 1.06, 9.94, 9.96)]
    assert shown == ["0.34", "0.96", "1.0", "1.0", "1.04", "1.1", "9.9", "10"]
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


def test_what_chance_and_holm_say_of_clear_differences():
    improved = {
        "languages_after_holm": 12,
        "languages_worse_after_holm": 0,
        "most_by_chance": 6,
        "count_p_value": 0.0,
    }
    said = say("by_chance", improved, 1)
    assert said == (
        "by chance at most 6 are clearly better, or worse (p < 0.001); 12 better and 0 worse after "
        "Holm’s correction"
    )
    untested = {**improved, "languages_after_holm": None, "languages_worse_after_holm": None}
    said = say("by_chance", {**untested, "count_p_value": 0.0421}, 3)
    assert said.endswith("(p = 0.042); Holm’s correction: not testable with 3 seeds")
    assert say("by_chance", untested, 1).endswith("not testable, differences are skewed")
    assert say("by_chance", untested, 8).endswith("seeds are few or differences are skewed")
    said = say("by_chance", {**untested, "count_p_value": None}, 2)
    assert said == "chance and Holm’s correction: not testable with 2 seeds"


def test_a_baseline_is_said_to_have_stopped_only_where_a_test_says_so():
    summary = {"languages": 30, "languages_under_minimum_documents": 0}
    summary |= {"near_duplicates": None, "validation_documents": 300}
    assert sentences.caution({**summary, "languages_that_worsened": 0}, 1e12) == []
    [reason] = sentences.caution({**summary, "languages_that_worsened": 2}, 1e12)
    assert reason.startswith("In 2 languages the baseline was clearly better at half of its steps")


def test_languages_at_a_bound_have_a_note():
    note = say("bounds_note", {"none": 3, "lower": 1, "upper": 2}, "b")
    assert note == (
        "In 2 languages b never reached the target (counted as 1.0×); in 1 language b was there at "
        "its first evaluation (counted as there)."
    )
    assert say("bounds_note", {"none": 3, "lower": 0, "upper": 0}, "b") == ""


def test_a_share_says_what_bounds_leave_open_and_of_none_or_all_has_no_interval():
    assert sentences.share_interval([0.1, 0.25]) == "10 to 25%"
    assert sentences.share_interval([0.0, 0.0]) is None
    assert sentences.share_interval(None) is None
    known = {"value": 0.13, "range": [0.13, 0.13]}
    assert say("fourfold_scope", known) == "of these languages"
    found = say("fourfold_scope", {**known, "range": [0.13, 0.4]})
    assert found == "of these languages; of some only a bound is known, so it may be up to 40%"


def test_a_pooled_speed_up_of_one_says_what_it_means():
    pooled = {
        "languages": 6,
        "documents": 40,
        "step_speedup": 0.9951,
        "step_speedup_ci": [0.9, 1.1],
        "step_speedup_ci_censored": ["none", "none"],
        "censored": "none",
        "step_speedup_seeds": [],
        "confidence_percent": "95",
    }
    said = "the step speed-up is 1.0×, the same number of steps (95%: 0.90 to 1.1)"
    assert say("pooled_sentence", pooled, "a", 5).endswith(said)
    never = {**pooled, "step_speedup": 1.0, "censored": "upper", "step_speedup_seeds": [0.7, 2.06]}
    said = "is at most 1.0× (95%: 0.90 to 1.1; seeds 0.70, 2.1)"
    assert say("pooled_sentence", never, "a", 5).endswith(said)
    undefined = {**pooled, "step_speedup": None}
    said = "not defined, because a was never better than at its first evaluation"
    assert say("pooled_sentence", undefined, "a", 5).endswith(said)
    assert say("pooled_sentence", None, "a", 5).endswith("text")  # the page adds the full stop


@pytest.mark.parametrize(
    ("ci", "reach", "value", "shown", "interval"),
    [
        ([2.0, 5.0], [3.0, 3.0], 3.0, "3.0×", "2.0 to 5.0"),
        ([1.0, 1.0], [0.0, 1.0], 1.0, "at most 1.0×", "< 1.0 throughout"),
        ([0.9, 1.0], [0.0, 1.0], 1.0, "at most 1.0×", "0.90 to 1.0"),
        ([50.0, 90.0], [90.0, None], 90.0, "at least 90×", "50 to 90"),
        (None, [0.0, 1.0], 1.0, "at most 1.0×", None),
        # As a mean is where some languages are at a lower bound and others at an upper one.
        ([2.0, 5.0], [1.0, None], 3.0, "3.0×", "2.0 to 5.0"),
        # As a median is that few languages at a bound move.
        ([1.4, 2.1], [1.2, 1.606], 1.606, "1.6×", "1.4 to 2.1"),
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
        ((1.0, 1.33), ("upper", "none"), "< 1.0 to 1.3"),
        ((0.4, 0.4), ("upper", "upper"), "< 0.40 throughout"),
        ((0.4, 3.0), ("none", "lower"), "0.40 to > 3.0"),
        ((0.5, 3.0), ("upper", "lower"), "< 0.50 to > 3.0"),
        ((1.0, 1.0), ("none", "none"), "1.0 to 1.0"),
    ],
)
def test_an_end_that_is_a_bound_says_so(ci, marks, shown):
    shown = re.sub("([<>]) ", "\\1\N{NARROW NO-BREAK SPACE}", shown)
    assert numbers.speed_up_interval(ci, marks) == shown


def test_weights_take_the_place_of_alpha():
    mixture = {"weights": {"de": 3.0, "sw": 1.0}, "alpha": 0.3, "max_epochs": None}
    assert say("mixture", mixture) == "weights = de 3.0, sw 1.0"
