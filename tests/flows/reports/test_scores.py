"""The statistics of a pair of fine-tuned runs."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from metric_errors import errors, store, worlds
from scipy.special import ndtri, stdtrit
from tuned_runs import LABELS, right_of_ten, write_tuned, wrong

from mswitch.flows.reports.scores import Rows, measure_difference, measure_downstream_speed_up
from mswitch.flows.reports.tuned_runs import read_tuned_run
from mswitch.tasks.metric_intervals import score
from mswitch.tasks.metrics.registry import make_metric

TEN = {f"l{number}": 20 for number in range(10)}


def predicted(keys: Iterable[tuple[str, str]], right: Iterable[bool]) -> SimpleNamespace:
    """A model's run by what it has right of rows that have these languages and groups."""
    rows = [
        {"language": lang, "group": group, "answers": ["left"], "score": 0.0}
        | {"prediction": "left" if ok else "right"}
        for (lang, group), ok in zip(keys, right, strict=True)
    ]
    found = SimpleNamespace(table=pa.Table.from_pylist(rows))
    return SimpleNamespace(predictions={"": found}, task={"labels": LABELS})


def rows_of(tmp_path, *models, rows, **options) -> Rows:
    runs = [
        read_tuned_run(write_tuned(tmp_path / str(n), model, rows=rows, **options), "--run")
        for n, model in enumerate(models)
    ]
    return Rows([[run] for run in runs], "labels")


def test_a_difference_is_the_paired_t_test_of_groups_widened_as_hc3():
    """With one row a group the jackknife is s / sqrt(G) times sqrt(G / (G - 1))."""
    rng = np.random.default_rng(0)
    ours, theirs = (np.stack([rng.random(30) < p, np.ones(30)], axis=1) for p in (0.7, 0.5))
    found = measure_difference(make_metric("accuracy"), theirs, ours, np.ones(30))
    each = 100 * (ours - theirs)[:, 0]
    error = each.std(ddof=1) / np.sqrt(30) * np.sqrt(30 / 29)
    assert found.value == pytest.approx(each.mean())
    half = stdtrit(29, 0.975) * error
    assert found.ci == pytest.approx((each.mean() - half, each.mean() + half))
    over_seeds = measure_difference(make_metric("accuracy"), theirs, ours, np.ones(30), [1, 2, 6])
    half = np.hypot(half, stdtrit(2, 0.975) * np.std([1, 2, 6], ddof=1) / np.sqrt(3))
    assert over_seeds.ci == pytest.approx((each.mean() - half, each.mean() + half))


def test_a_class_that_disappears_is_no_certain_difference():
    """The label is the language: three rows of one wrong class halve macro-F1."""
    metric = make_metric("macro_f1", LABELS)
    answers = [["left"]] * 46
    texts = ["left"] * 46, ["left"] * 43 + ["right"] * 3
    sums = [metric.statistics(answers, each) for each in texts]
    found = measure_difference(metric, *sums, np.ones(46))
    assert found.value == pytest.approx(-51.7, abs=0.05)
    assert found.p_value == pytest.approx(0.25)  # 2 of 8 exchanges differ as much
    assert -100 == found.ci[0] < 0 < found.ci[1] < 100
    accuracy = make_metric("accuracy")
    some, all_ = (np.array([(hit, 1.0) for hit in hits]) for hits in ([0, 0, 0, 1, 0], [1] * 5))
    assert measure_difference(accuracy, all_, some, np.ones(5)).ci[0] == -100


@pytest.mark.parametrize("name", ["macro_f1", "macro_f1, language", "accuracy, language"])
@pytest.mark.parametrize("groups", [8, 30])
def test_equal_models_are_seldom_called_different_in_a_family(name, groups):
    metric, row = worlds()[name]
    held, called = errors(metric, store(metric, row, np.random.default_rng(0)), groups, families=3)
    assert held >= 0.93
    assert called <= 1 / 3


def test_scores_over_seeds_are_over_the_rows_of_all(tmp_path):
    rights = ((3, 5, 7), (6, 7, 8))
    models = [
        [
            read_tuned_run(
                write_tuned(tmp_path / f"{m}{seed}", right_of_ten(n), rows=TEN, seed=seed), ""
            )
            for seed, n in enumerate(of_model)
        ]
        for m, of_model in enumerate(rights)
    ]
    found = Rows(models, "labels").measure("accuracy", paired=True)
    average = found.average
    assert [each.value for each in average.models] == pytest.approx([50, 70])
    np.testing.assert_allclose(average.seeds, 10.0 * np.array(rights))
    difference = average.difference(0, 1)
    assert difference.value == pytest.approx(20)
    # Squares of margins add up: of groups, and of the mean of three seeds, 30, 20 and 10.
    of_groups = ndtri(0.975) * (average.drawn[1] - average.drawn[0]).std()
    margin = np.hypot(of_groups, stdtrit(2, 0.975) * 10 / np.sqrt(3))
    assert difference.ci == pytest.approx((20 - margin, 20 + margin))
    for scores in found.languages.values():
        assert (scores["rows"], scores["groups"]) == (20, 20)
        assert [each["value"] for each in scores["models"]] == pytest.approx([50, 70])
        assert scores["difference"]["value"] == pytest.approx(20)


def test_what_cannot_be_judged_has_no_interval():
    accuracy = make_metric("accuracy")
    right, none = np.ones((4, 2)), np.stack([np.zeros(4), np.ones(4)], axis=1)
    few = measure_difference(accuracy, none, right, np.ones(4))
    assert (few.value, few.ci, few.p_value) == (100, None, None)
    # All groups differ by the same amount.
    same = measure_difference(accuracy, np.repeat(none, 2, 0), np.repeat(right, 2, 0), np.ones(8))
    assert (same.value, same.ci, same.p_value) == (100, None, 1.0)
    # One group outweighs the others.
    sizes = np.array([1000.0, 1, 1, 1, 1, 1])
    sums = np.stack([sizes * 0.5, sizes], axis=1)
    one = measure_difference(accuracy, sums, sums * [1.2, 1], sizes)
    assert (one.ci, one.p_value) == (None, 1.0)


@pytest.mark.parametrize("metric", ["group_exact_match", "record_em"])
def test_groups_that_count_once_weigh_alike(metric):
    """A question with many answers is one question: sizes of groups change nothing."""

    def difference(sizes, name):
        keys = [("en", str(group)) for group, size in enumerate(sizes) for _ in range(size)]
        models = [
            [predicted(keys, [int(group) % every != 0 for _, group in keys])] for every in (2, 3)
        ]
        return next(iter(Rows(models, "").measure(name, paired=True).languages.values()))

    one_row_each = difference([1] * 40, "accuracy")
    assert one_row_each["difference"]["ci"] is not None
    several = difference([500, *[3] * 39], metric)
    assert several["difference"] == one_row_each["difference"]
    assert several["p_value"] == one_row_each["p_value"]


def test_scores_are_those_of_the_metrics_and_the_mean_counts_languages_once(tmp_path):
    rows = {"de": 30, "sw": 10, "yo": 20, "fi": 20, "th": 20}
    models = right_of_ten(5), right_of_ten(8)
    found = rows_of(tmp_path, *models, rows=rows, per_group=2).measure("macro_f1", paired=True)
    assert [*found.languages] == sorted(rows)
    for lang, scores in found.languages.items():
        answers = [[LABELS[n % 3]] for n in range(rows[lang])]
        groups = [str(n // 2) for n in range(rows[lang])]
        metric = make_metric("macro_f1", LABELS)
        for model, of_model in zip(models, scores["models"], strict=True):
            texts = [model(lang, n, a[0]) for n, a in enumerate(answers)]
            assert of_model["value"] == score(metric, answers, texts, groups).value
        assert scores["groups"] == rows[lang] // 2
        assert scores["majority"] == metric(answers, ["left"] * len(answers))
        ours, theirs = (each["value"] for each in scores["models"])
        assert scores["difference"]["value"] == pytest.approx(theirs - ours)
    for index in (0, 1):
        mean = np.mean([s["models"][index]["value"] for s in found.languages.values()])
        assert found.average.models[index].value == pytest.approx(mean)
    assert found.data["everything"]["rows"] == 100
    ours, theirs = (each["value"] for each in found.data["everything"]["models"])
    assert theirs > ours


def test_the_difference_of_means_is_drawn_jointly(tmp_path):
    """Languages are of very different difficulty, and one model is a little better in each."""

    def model(better: int):
        return lambda lang, row, answer: (
            answer if row % 10 < int(lang[1:]) % 8 + better else wrong(answer)
        )

    average = (
        rows_of(tmp_path, model(1), model(2), rows=TEN).measure("accuracy", paired=True).average
    )
    difference = average.difference(0, 1)
    assert difference.value == pytest.approx(10)
    low, high = average.models[0].ci
    assert difference.ci[0] > 0
    assert high - low > 2 * (difference.ci[1] - difference.ci[0])
    assert average.difference(1, 0).value == pytest.approx(-10)


def share(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def average_of(
    chances: Sequence[Sequence[np.ndarray]],
    groups: Sequence[Sequence[str]],
    rng: np.random.Generator,
):
    """The average of models that are right with such chances, on three rows of each group."""
    keys = [(f"{lang:02}", group) for lang, names in enumerate(groups) for group in [*names] * 3]
    models = []
    for of_model in chances:
        each = np.concatenate([np.tile(of_lang, 3) for of_lang in of_model])
        models.append([predicted(keys, rng.random(len(keys)) < each)])
    return Rows(models, "").average("accuracy")


def held(truth: tuple[float, float], average) -> np.ndarray:
    """Whether the intervals of the first model and of the difference hold the truth."""
    intervals = average.models[0].ci, average.difference(0, 1).ci
    return np.array([low <= at <= high for at, (low, high) in zip(truth, intervals, strict=True)])


def by_language(rng: np.random.Generator, languages: int, groups: int) -> list[np.ndarray]:
    """Chances [languages, groups] of both models to be right, which differ by language."""
    hard = rng.normal(0, 1, (languages, 1)) + rng.normal(0, 1, (languages, groups))
    return [share(hard), share(hard + rng.normal(0.3, 0.3, (languages, 1)))]


def by_group(rng: np.random.Generator, languages: int, groups: int) -> list[np.ndarray]:
    """Translations of a row are one group, as in XNLI: hard in one language, hard in all."""
    hard = rng.normal(0, 1, (1, groups)) + rng.normal(0, 0.5, (languages, groups))
    return [share(hard), share(hard + rng.normal(0.3, 1, (1, groups)))]


@pytest.mark.parametrize(
    ("draw", "whole", "groups", "times", "least"),
    [
        (by_language, (200_000, 1), [[f"{n}/{g}" for g in range(8)] for n in range(20)], 100, 92),
        # Not spread as Student's t requires, the intervals of means hold it in 176 of the 200.
        (by_language, (200_000, 1), [[f"{n}/{g}" for g in range(8)] for n in range(5)], 200, 184),
        # Drawn in each language apart, the intervals hold it in 46 and 49 of the 60.
        (by_group, (1, 500_000), [[f"pair {group}" for group in range(30)]] * 12, 60, 54),
    ],
)
def test_the_interval_of_a_mean_holds_the_truth(draw, whole, groups, times, least):
    baseline, candidate = draw(np.random.default_rng(0), *whole)
    truth = 100 * baseline.mean(), 100 * (candidate - baseline).mean()
    size = len(groups), len(groups[0])
    rngs = [np.random.default_rng(seed + 1) for seed in range(times)]
    found = sum(held(truth, average_of(draw(rng, *size), groups, rng)) for rng in rngs)
    assert (found >= least).all()


def test_a_language_without_groups_in_a_resample_keeps_its_score():
    """Five languages have one of the sixth's groups, and a third of the resamples lack it."""
    groups = [["0"]] * 5 + [[str(group) for group in range(40)]]
    chances = [np.ones(1)] * 5 + [np.zeros(40)]
    average = average_of([chances], groups, np.random.default_rng(0))
    assert average.models[0].value == pytest.approx(100 * 5 / 6)
    assert np.isfinite(average.drawn).all()
    low, high = average.models[0].ci
    assert low < average.models[0].value < high


def test_correlations_below_zero_are_in_their_intervals(tmp_path):
    models = right_of_ten(1), right_of_ten(10)
    average = rows_of(tmp_path, *models, rows={"de": 30, "sw": 30}).average("matthews")
    assert average.models[0].value < -20
    assert average.difference(0, 1).value > 120
    for found in (average.models[0], average.difference(0, 1)):
        assert found.ci[0] < found.value < found.ci[1]


def test_few_languages_are_not_drawn(tmp_path):
    two = rows_of(tmp_path / "two", right_of_ten(5), rows={"de": 20, "sw": 20}).average("accuracy")
    assert two.models[0].value == 50
    assert two.models[0].ci[0] < 50 < two.models[0].ci[1]
    few = rows_of(tmp_path / "few", right_of_ten(5), rows={"de": 20, "sw": 4}).average("accuracy")
    assert few.models[0].ci is None
    assert few.difference(0, 0).ci is None


def test_holm_judges_languages_together(tmp_path):
    """One language is better by far; another one is, at its own 5 %, by chance."""

    def candidate(lang: str, row: int, answer: str) -> str:
        improved = {"l0": 4, "l1": 6}.get(lang)
        right = row % 2 == 0 or (improved is not None and row % improved == 1)
        return answer if right else wrong(answer)

    rows = {f"l{number}": 40 for number in range(20)}
    baseline = lambda lang, row, answer: answer if row % 2 == 0 else wrong(answer)  # noqa: E731
    found = rows_of(tmp_path, baseline, candidate, rows=rows).measure("accuracy", paired=True)
    assert found.languages["l1"]["p_value"] < 0.05
    clear = [lang for lang, scores in found.languages.items() if scores["clear_after_holm"]]
    assert clear == ["l0"]


def test_the_worst_rows_come_first_and_of_those_the_surest(tmp_path):
    rows = rows_of(tmp_path, right_of_ten(6), rows={"de": 20})
    [found] = rows.worst("accuracy", 3).values()
    assert [number % 10 >= 6 for number in found] == [True] * 3
    sureness = [-0.1 * (number % 7) for number in found]
    all_wrong = sorted((-0.1 * (n % 7) for n in range(20) if n % 10 >= 6), reverse=True)
    assert sureness == pytest.approx(all_wrong[:3])


def test_a_downstream_speed_up_is_that_of_the_steps_to_the_same_score(tmp_path):
    steps = [100, 200, 400, 800]

    def other_rows(count: int):
        return lambda lang, row, answer: answer if (row + 5) % 10 < count else wrong(answer)

    models = [right_of_ten(count) for count in (2, 4, 6, 8)]
    models += [other_rows(count) for count in (4, 8, 9, 9)]
    average = rows_of(tmp_path, *models, rows=TEN).average("accuracy")
    found = measure_downstream_speed_up(steps, average)
    assert found.value == pytest.approx(4)
    assert (found.baseline_steps, found.candidate_steps) == pytest.approx((800, 200))
    low, high = found.ci
    assert 1 < low < 4 < high
    worse = rows_of(tmp_path / "worse", *models[:4], *models[:3], models[2], rows=TEN)
    bound = measure_downstream_speed_up(steps, worse.average("accuracy"))
    assert (bound.value, bound.censored) == (1, "upper")
