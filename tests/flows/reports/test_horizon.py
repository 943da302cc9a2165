"""The speed-up by horizon: as if training had ended at each evaluated step."""

import html
import re

import numpy as np
import pytest
from loss_curves import CONFIG, result_of
from made_reports import make_report, say
from report_runs import edit_config, read_config

from mswitch.flows.reports.horizon import (
    LEAST_EVALUATIONS,
    extrapolate_doubling,
    last_doubling,
    measure_horizons,
)

STEPS = np.round(np.geomspace(100, 6400, 13))
#: What the losses in nats per token fall to.
FLOOR = 2.0


def law(steps):
    return FLOOR + 4 * steps**-0.3


def horizons_of(candidate, seeds=1):
    """Of six languages whose baseline follows the law, and whose candidate is given."""
    pairs = [(law(STEPS), candidate)] * seeds
    results = [
        result_of(lang, *pairs, noise=1e-9, steps=STEPS)
        for lang in ("de", "en", "fr", "sw", "yo", "zu")
    ]
    return measure_horizons(results, STEPS, CONFIG)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_candidate_twice_as_fast_is_so_at_every_horizon(seeds):
    found = horizons_of(law(2 * STEPS), seeds)
    assert [each["step"] for each in found] == [int(s) for s in STEPS[LEAST_EVALUATIONS - 1 :]]
    for each in found:
        assert each["median_step_speedup"]["value"] == pytest.approx(2, rel=0.01)
        assert each["pooled_step_speedup"] == pytest.approx(2, rel=0.01)
        assert each["languages"] == 6


def test_a_candidate_that_pulls_away_is_faster_the_later_one_looks():
    found = horizons_of(law(STEPS**1.2))
    values = [each["pooled_step_speedup"] for each in found]
    assert values == sorted(values)
    for each in found:  # t^1.2 = T, so that T / t = T^(1 - 1/1.2)
        assert each["pooled_step_speedup"] == pytest.approx(each["step"] ** (1 - 1 / 1.2), rel=0.02)
    doubled = extrapolate_doubling(found)
    assert (doubled["step"], doubled["since"]) == (12800, 3200)
    assert doubled["median_step_speedup"] == pytest.approx(12800 ** (1 - 1 / 1.2), rel=0.02)
    said = say("extrapolation", {**doubled, "median_step_speedup": 4.844})
    assert "it would be 4.8× after 12,800 steps. That is an extrapolation" in said


def test_nothing_is_extrapolated_from_a_bound_or_from_less_than_a_doubling():
    found = horizons_of(law(STEPS**1.2))
    assert extrapolate_doubling(found[-2:]) is None
    assert extrapolate_doubling([]) is None
    open_ended = {**found[-2]["median_step_speedup"], "range": [4.0, None]}
    bound = {**found[-2], "median_step_speedup": open_ended}
    assert extrapolate_doubling([*found[:-2], bound, found[-1]]) is None


def test_an_early_horizon_has_a_bound_where_a_run_of_its_length_may_measure_more(full):
    first = horizons_of(law(4 * STEPS))[0]
    assert first["pooled_censored"] == "lower"
    assert first["pooled_step_speedup"] < 3
    note = full.html.split('id="horizons-h"')[1].split("</figcaption>")[0]
    assert "if “&gt;” marks a bound here, it may measure more" in note


@pytest.mark.parametrize(
    "mixture", [{"max_epochs": 4.0}, {"tasks": {"a": {"mixture": {"max_epochs": 1.0}}}}]
)
def test_rates_that_depend_on_the_steps_are_told(mixture):
    free = {"max_epochs": None}
    for other in (free, {"tasks": {"a": {"mixture": free}}}, {}):
        assert "is not trained again" in say("horizon_note", "95", other)
    note = say("horizon_note", "95", mixture)
    assert "is not trained again" not in note
    assert "with max_epochs the rates of languages do: a shorter run would have seen" in note


def test_last_doubling_of_a_law():
    assert last_doubling(law(STEPS), STEPS) == pytest.approx(law(3200.0) - law(6400.0), rel=1e-6)
    # What was not evaluated before half of the steps is not known.
    assert last_doubling(law(STEPS[-2:]), STEPS[-2:]) is None


def test_each_horizon_has_a_row_and_a_point_and_the_last_is_the_report(full):
    summary, last = full.report["summary"], full.report["horizons"][-1]
    assert last["step"] == full.report["method"]["eval_steps"][-1]
    assert last["median_step_speedup"] == summary["median_step_speedup"]
    assert last["languages"] == summary["languages_in_headline"]
    pooled = summary["pooled"]
    assert last["pooled_step_speedup"] == pooled["step_speedup"]
    assert last["pooled_step_speedup_ci"] == pooled["step_speedup_ci"]
    assert (last["delta"], last["delta_ci"]) == (pooled["delta"], pooled["delta_ci"])
    horizons = full.report["horizons"]
    assert len(horizons) == len(full.report["method"]["eval_steps"]) - LEAST_EVALUATIONS + 1
    section = full.html.split('id="horizons-h"')[1].split("</section>")[0]
    assert section.count('<th scope="row">') == len(horizons)
    figure = (full.out / "horizons.svg").read_text()
    bounds = len(re.findall("<td>(?:&[lg]t;|at least|at most)", section))
    assert bounds > 0
    assert figure.count("<circle") == 2 * len(horizons) + 2 - bounds  # two of the key
    assert len(re.findall(r'<path class="[bc]" d="M[\d.]+ [\d.]+h8l-4 -?6z"/>', figure)) == bounds


def test_a_short_run_has_none(pair, tmp_path, monkeypatch, few):
    assert few.report["horizons"]
    monkeypatch.setattr("mswitch.flows.reports.horizon.LEAST_EVALUATIONS", 99)
    made = make_report(pair, tmp_path / "out")
    assert made.report["horizons"] == []
    assert "horizons-h" not in made.html
    assert not (made.out / "horizons.svg").exists()


def test_a_rate_that_falls_before_the_end_has_no_earlier_horizons(pair, tmp_path):
    for run in pair:
        edit_config(run, train={**read_config(run)["train"], "decay": 50})
    made = make_report(pair, tmp_path / "out")
    assert (made.report["horizons"], made.report["after_twice_the_steps"]) == ([], None)
    assert "horizons-h" not in made.html
    caution = made.report["summary"]["cautions"][0]
    assert caution.startswith("The learning rates of both models fell to zero over the last 50 ste")
    assert caution in html.unescape(made.html)
