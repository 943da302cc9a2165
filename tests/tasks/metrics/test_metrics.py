"""Metrics against the values of T5's and mT5's own tests, against peers, and their intervals."""

import itertools
import math
import sys

import numpy as np
import pytest
import sacrebleu
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.squad_and_wikiann import read_wikiann
from mswitch.tasks import metric_intervals
from mswitch.tasks.metric_intervals import score
from mswitch.tasks.metrics.classes import NEED_LABELS
from mswitch.tasks.metrics.registry import METRICS, as_seqio, make_metric
from mswitch.tasks.seqio.supervised import replace_target

REFERENCE = "this is a string"
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOOSE_ANSWERS = [["big moose", "hippo"], ["correct1"], ["correct2.1", "correct2.2"], ["a", "b"]]
MOOSE_PREDICTIONS = ["‘a big  Moose!‘", "wrong", "correct2.2", "c"]


def value(name, answers, predictions, labels=(), language="en"):
    answers = [[each] if isinstance(each, str) else each for each in answers]
    return make_metric(name, labels, language)(answers, predictions)


@pytest.mark.parametrize(
    ("name", "labels", "answers", "predictions", "expected"),
    [
        # Oracles of t5/evaluation/metrics_test.py.
        ("accuracy", (), "0021", "0121", 75),
        ("mean_multiclass_f1", "012", "0112", "0022", 400 / 9),
        ("f1", "01", "0110", "0122", 50),
        # By the definition: 100 (3 x 4 - 2 - 2 - 1) / sqrt((16 - 6) (16 - 6)).
        ("matthews", "012", "0021", "0121", 70),
        ("pearson", (), "02", "01", 100),
        ("spearman", (), "021", "012", 50),
        ("bleu_intl", (), [REFERENCE] * 2, [REFERENCE] * 2, 100),
        ("bleu_intl", (), [REFERENCE] * 2, ["", ""], 0),
        ("bleu_intl", (), [["", REFERENCE], [REFERENCE, ""]], [REFERENCE] * 2, 100),
        ("squad_f1", (), [["", REFERENCE], [REFERENCE]], [REFERENCE] * 2, 100),
        ("squad_em", (), [["", REFERENCE], [REFERENCE]], [REFERENCE] * 2, 100),
        ("squad_em", (), [[REFERENCE] * 2] * 2, ["", ""], 0),
        ("squad_f1", (), [["abc abd", "$$$$"]], ["abd"], 200 / 3),
        ("squad_em", (), [["abc abd", "$$$$"]], ["abd"], 0),
        ("squad_em", (), [["big moose", "hippo"], ["a"]], ["a big  Moose!", "b"], 50),
        ("squad_em", (), MOOSE_ANSWERS, MOOSE_PREDICTIONS, 25),
        ("squad_f1", (), MOOSE_ANSWERS, MOOSE_PREDICTIONS, 35),
        ("trivia_em", (), MOOSE_ANSWERS, MOOSE_PREDICTIONS, 50),
        ("trivia_f1", (), MOOSE_ANSWERS, MOOSE_PREDICTIONS, 50),
        *((rouge, (), [REFERENCE] * 2, [REFERENCE] * 2, 100) for rouge in ROUGE),
        *((rouge, (), [REFERENCE] * 2, ["", ""], 0) for rouge in ROUGE),
    ],
)
def test_values_of_t5(name, labels, answers, predictions, expected):
    found = value(name, list(answers), list(predictions), list(labels))
    assert found == pytest.approx(expected, rel=1e-6)


def of_groups(name, groups, answers, predictions, labels=()):
    metric = make_metric(name, labels)
    found = metric([[answer] for answer in answers], predictions, list(groups))
    targets = [
        {"answers": [answer.encode()], "group": group.encode()}
        for answer, group in zip(answers, groups, strict=True)
    ]
    values = [replace_target("", target, is_target=True) for target in targets]
    assert as_seqio(name, labels)(values, predictions) == {name: found}
    return found


def test_values_of_t5_by_group():
    """Its tests of deduplication and of MultiRC, whose groups are given with the targets."""
    assert of_groups("record_em", "aab", "110", "101") == 50
    assert of_groups("record_f1", "aab", "110", "011") == 0
    assert of_groups("f1", "aab", "110", "101", "01") == 50
    for predictions, expected in (("001", 0), ("010", 100), ("011", 50), ("000", 50)):
        assert of_groups("group_exact_match", "aab", "010", predictions) == expected


def test_intervals_of_groups_that_count_as_one():
    answers, predictions = [["1"]] * 40, ["1", "0", *["1"] * 38]
    groups = [str(row // 4) for row in range(40)]
    assert score(make_metric("group_exact_match"), answers, predictions, groups).value == 90
    assert score(make_metric("exact_match"), answers, predictions, groups).value == 97.5
    assert score(make_metric("record_em"), answers, predictions, groups).value == 100


@pytest.mark.parametrize(
    ("prediction", "phrase", "named"),
    [
        *(("potato", "turnip", 0), ("turnip", "turnip", 1), ("the cat", "cat", 1)),
        *(("Bob's hat", "Bob", 0), ("Bob's hat", "Bob's hat", 1), ("potato", "Potato", 1)),
        *(("a potato", "my potato", 1), ("fuzzy bunny", "fuzzy hungry bunny", 1)),
        # What is no phrase names nobody.
        *(("", "cat", 0), (" ", "cat", 0), ("the", "cat", 0)),
    ],
)
def test_referents_of_t5s_tests(prediction, phrase, named):
    for label in (0, 1):
        found = value("wsc_accuracy", [[phrase, str(label)]], [prediction])
        assert found == 100 * (named == label)


def test_rouge_by_definition():
    answer, prediction = "the cat sat . it slept", "it slept . the cat ate"
    assert value("rouge1", [answer], [prediction]) == pytest.approx(80)
    assert value("rouge2", [answer], [prediction]) == pytest.approx(50)
    assert value("rougeL", [answer], [prediction]) == pytest.approx(40)
    # Sentences are held against each other, whatever their order.
    assert value("rougeLsum", [answer], [prediction]) == pytest.approx(80)
    assert value("rougeLsum", [["x", answer]], [prediction]) == pytest.approx(80)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    complaint = r"metric rouge1 needs the package rouge-score: pip install 'mswitch\[summaries\]'"
    with pytest.raises(UserError, match=complaint):
        make_metric("rouge1")


def test_many_groups_are_resampled_a_part_at_a_time(monkeypatch):
    statistics = np.random.default_rng(0).integers(0, 2, (200, 1)).astype(float)
    whole = metric_intervals._resample(statistics)
    monkeypatch.setattr(metric_intervals, "_MOST_WEIGHTS", 300 * 200)
    parts = metric_intervals._resample(statistics)
    assert np.array_equal(parts[:300], whole[:300])
    assert len(parts) == len(whole) == metric_intervals.RESAMPLES
    assert not np.array_equal(parts[300:400], parts[:100])
    assert parts.std() == pytest.approx(whole.std(), rel=0.1)


@pytest.mark.parametrize("name", ["accuracy", "exact_match", "group_exact_match", *NEED_LABELS])
def test_each_of_several_answers_is_right(name):
    answers = [["0", "1"], ["1"], ["0"]]
    assert value(name, answers, ["1", "1", "0"], ["0", "1"]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("language", "answer", "prediction", "em", "f1"),
    [
        ("es", "this unas a string", "this a string", 100, 100),
        ("en", "this the a string", "this string", 100, 100),
        ("de", "der Hund", "Hund", 100, 100),
        ("de", "der Hund", "the Hund", 0, 200 / 3),
        ("hi", "a b", "b", 0, 200 / 3),
        ("zh", "北京大学", "北京", 0, 200 / 3),
        ("zh", "北京,大学。", "北京大学", 100, 100),
    ],
)
def test_mlqa_by_language(language, answer, prediction, em, f1):
    assert value("mlqa_em", [answer], [prediction], language=language) == em
    assert value("mlqa_f1", [answer], [prediction], language=language) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answers", "predictions", "expected"),
    [
        (["PER: rick $$ PER: morty"], ["PER: morty $$ PER: rick"], 100),
        (["PER: rick $$ PER: morty"], ["PER: rick"], 200 / 3),
        (["PER: rick $$ PER: rick"], ["PER: rick"], 200 / 3),
        (["PER: rick"], ["LOC: rick"], 0),
        (["PER: rick"], ["PER: a: b $$ PER: rick"], 100),
        ([""], [""], 0),
        (["PER: a", "LOC: b"], ["PER: a", "LOC: c"], 50),
    ],
)
def test_spans(answers, predictions, expected):
    assert value("span_f1", answers, predictions) == pytest.approx(expected)


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Kind, first token and end of each entity of IOB2 tags, as CoNLL's evaluation has them."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            found.add((tags[start][2:], start, place))
            start = None
        if tag.startswith("B-"):
            start = place
    return found


@st.composite
def tagged(draw):
    """IOB2 tags: each entity begins with B and goes on with I of its kind."""
    kinds = st.sampled_from(["O", "PER", "LOC"])
    spans = draw(st.lists(st.tuples(kinds, st.integers(1, 3)), min_size=4, max_size=4))
    return [
        "O" if kind == "O" else f"{'I' if number else 'B'}-{kind}"
        for kind, length in spans
        for number in range(length)
    ]


@given(st.lists(st.tuples(tagged(), tagged()), min_size=1, max_size=5))
def test_spans_are_scored_as_entities_of_iob2(pairs):
    """On sentences without a token twice, where a span's text says where it is."""
    rows, hits, right, given_ = [], 0, 0, 0
    for pair in pairs:
        size = min(map(len, pair))
        texts = []
        for tags in (tags[:size] for tags in pair):
            lines = [f"w{place}\t{tag}\n" for place, tag in enumerate(tags)]
            [(_, sentence)] = read_wikiann(iter(enumerate(lines)))
            texts.append(sentence["spans"])
        rows.append(texts)
        wanted, found = (entities(tags[:size]) for tags in pair)
        hits, right, given_ = hits + len(wanted & found), right + len(wanted), given_ + len(found)
    answers, predictions = map(list, zip(*rows, strict=True))
    expected = 200 * hits / (right + given_) if right + given_ else 0
    assert value("span_f1", answers, predictions) == pytest.approx(expected)


def test_an_answer_that_is_no_number_is_minus_one():
    assert value("pearson", ["1", "asdf", "3"], ["1", "-1", "3"]) == pytest.approx(100)


# The tokenizers differ in `a-b` and `“`.
texts = st.lists(st.text("abc -“", max_size=12), min_size=1, max_size=8)


@given(st.data())
def test_as_sacrebleu(data):
    predictions = data.draw(texts)
    references = [data.draw(st.text("abc -“", min_size=1, max_size=12)) for _ in predictions]
    chrf = sacrebleu.corpus_chrf(predictions, [references]).score
    assert value("chrf", references, predictions) == pytest.approx(chrf)
    for name, tokenizer in (("bleu", "13a"), ("bleu_intl", "intl")):
        bleu = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenizer).score
        assert value(name, references, predictions) == pytest.approx(bleu)


def test_signatures_name_the_tokenizer():
    for language, tokenizer in (("de", "13a"), ("zh", "zh"), ("th", "char")):
        assert f"tok:{tokenizer}|" in make_metric("bleu", language=language).signature
        assert "tok:intl|" in make_metric("bleu_intl", language=language).signature


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_correlations_as_scipy(pairs):
    right, given_ = np.array(pairs, float).T
    if len(set(right)) < 2 or len(set(given_)) < 2:
        return
    answers, predictions = [str(x) for x in right], [str(y) for y in given_]
    expected = scipy.stats.spearmanr(right, given_).statistic
    assert value("spearman", answers, predictions) == pytest.approx(100 * expected, abs=1e-6)
    expected = scipy.stats.pearsonr(right, given_).statistic
    assert value("pearson", answers, predictions) == pytest.approx(100 * expected, abs=1e-6)


labels = st.sampled_from(["a", "b", "c", "?"])


@given(st.lists(st.tuples(st.sampled_from("abc"), labels), min_size=1, max_size=30))
def test_macro_f1_by_definition(pairs):
    scores = []
    for label in "abc":
        hits = sum(right == given == label for right, given in pairs)
        right = sum(right == label for right, _ in pairs)
        guessed = sum(given == label for _, given in pairs)
        if right + guessed:
            scores.append(2 * hits / (right + guessed))
    answers, predictions = map(list, zip(*pairs, strict=True))
    assert value("macro_f1", answers, predictions, "abc") == pytest.approx(100 * np.mean(scores))


def test_t5s_mean_of_f1_counts_a_class_that_does_not_occur():
    """As scikit-learn's `fbeta_score(labels=range(3), average="macro")`, which T5 calls."""
    answers, predictions = list("0011"), list("0011")
    assert value("mean_multiclass_f1", answers, predictions, "012") == pytest.approx(200 / 3)
    assert value("macro_f1", answers, predictions, "012") == 100


@pytest.mark.parametrize("name", ["f1", "macro_f1", "mean_multiclass_f1", "matthews"])
@pytest.mark.parametrize("prediction", ["0", "1", "<unk>", "x"])
def test_a_row_whose_answer_is_not_published_does_not_count(name, prediction):
    answers, predictions = list("01101"), list("01011")
    known = value(name, answers, predictions, "01")
    assert 0 < known < 100
    with_unknown = [*answers, "<unk>"], [*predictions, prediction]
    assert value(name, *with_unknown, "01") == pytest.approx(known)
    assert value(name, ["<unk>"] * 2, [prediction] * 2, "01") == 0


def rows_of(shares, groups_of, seed):
    rng = np.random.default_rng(seed)
    right = [rng.random(groups_of) < share for share in shares]
    predictions = ["1" if each else "0" for each in itertools.chain(*right)]
    groups = [str(g) for g, _ in enumerate(shares) for _ in range(groups_of)]
    return [["1"]] * len(predictions), predictions, groups


def test_interval_covers_the_truth_where_rows_come_in_groups():
    rng = np.random.default_rng(0)
    metric, covered, naive = make_metric("accuracy"), [], []
    for trial in range(200):
        answers, predictions, groups = rows_of(rng.beta(4, 2, 60), 10, trial)
        result = score(metric, answers, predictions, groups)
        covered.append(result.low <= 100 * 4 / 6 <= result.high)
        if trial < 50:
            alone = score(metric, answers, predictions, list(map(str, range(600))))
            naive.append(alone.low <= 100 * 4 / 6 <= alone.high)
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.85  # rows of a document are not independent of each other


def test_an_interval_has_its_value_in_it_where_classes_are_rare():
    """A third of the classes is missing in a resample, which makes its macro-F1 lower."""
    rng = np.random.default_rng(0)
    classes = [str(number) for number in range(100)]
    answers = [[each] for each in sorted(classes * 3)]
    predictions = [
        answer if rng.random() < 0.82 else classes[rng.integers(100)] for [answer] in answers
    ]
    groups = [str(number // 5) for number in range(300)]
    metric = make_metric("macro_f1", classes)
    result = score(metric, answers, predictions, groups)
    assert result.low < result.value < result.high


def test_all_right_has_an_interval_below_100():
    answers, predictions, groups = rows_of([1.0] * 20, 1, 0)
    result = score(make_metric("accuracy"), answers, predictions, groups)
    assert result.value == 100
    assert (result.low, result.high) == pytest.approx((83.9, 100), abs=0.05)


@pytest.mark.parametrize("count", range(5, 40))
def test_none_right_has_an_interval_that_begins_with_zero(count):
    answers, predictions, groups = rows_of([0.0] * count, 1, 0)
    result = score(make_metric("accuracy"), answers, predictions, groups)
    assert (result.value, f"{result.low:.1f}") == (0, "0.0")
    assert result.high > 5


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_a_correlation_below_zero_is_in_its_interval(name):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 200)
    given = np.where(rng.random(200) < 0.6, 1 - right, right)
    answers, groups = [[str(each)] for each in right], list(map(str, range(200)))
    metric = make_metric(name, ["0", "1"])
    result = score(metric, answers, list(map(str, given)), groups)
    assert -30 < result.low < result.value < result.high < 5
    for share, wrong in ((100, right), (-100, 1 - right)):
        result = score(metric, answers, list(map(str, wrong)), groups)
        assert result.value == pytest.approx(share)
        assert (result.low, result.high) == (None, None)


def test_few_groups_have_no_interval():
    result = score(make_metric("accuracy"), [["1"]] * 8, ["1"] * 8, list("aabbccdd"))
    assert (result.value, result.low, result.high, result.groups) == (100, None, None, 4)


def test_in_seqio():
    metric_fn = as_seqio("squad_f1")
    assert metric_fn([["a b", "b"], "c"], ["b", "c"]) == {"squad_f1": 100}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_is_100_for_the_answers(name):
    answers = ["1", "2", "1"] if name in NEED_LABELS else ["1: a b c d", "2: e"]
    if name in ("pearson", "spearman"):
        answers = ["1", "2", "4"]
    predictions = answers
    if name == "wsc_accuracy":
        answers = [[answer, "1"] for answer in answers]
    found = value(name, answers, predictions, ["1", "2"])
    assert math.isclose(found, 100)


def test_refusals():
    with pytest.raises(UserError, match="'rouge' is unknown: choose among accuracy"):
        make_metric("rouge")
    with pytest.raises(UserError, match="macro_f1 needs the closed set of targets"):
        make_metric("macro_f1")
    with pytest.raises(UserError, match="f1 is for two labels, and the task has 3"):
        make_metric("f1", "abc")
    with pytest.raises(UserError, match="wsc_accuracy needs two answers per row"):
        value("wsc_accuracy", [["cat"]], ["cat"])
