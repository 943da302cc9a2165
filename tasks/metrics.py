"""Metrics of supervised tasks: plain Python and NumPy.

A metric is two functions: statistics of each row, and the value of their sum, so that a bootstrap
resamples sums instead of texts (`tasks.intervals`).

    make_metric("accuracy")([["1"], ["0"]], ["1", "1"])  # 50.0

Names and definitions are those of T5 and mT5 (`t5.evaluation.metrics`, `multilingual_t5`), with
values from 0 to 100 throughout (mT5 prints `span_f1` from 0 to 1). chrF and BLEU are sacreBLEU's.
"""

import collections
import dataclasses
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError

Floats = NDArray[np.float64]
#: What is right of each row: one text or several.
Answers = Sequence[Sequence[str]]

#: Languages that write no spaces between words, whose BLEU counts characters.
_UNSPACED = ("ja", "km", "lo", "my", "th")
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",  # as in MLQA's script, whose first alternative never matches
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric over rows, the higher the better.

    Attributes:
        name: as in a task's `metrics`.
        statistics: gives [rows, S] of the answers and predictions.
        value: gives [...], from 0 to 100, of sums [..., S].
        signature: what a reader needs to get the same value elsewhere, or "".
    """

    name: str
    statistics: Callable[[Answers, Sequence[str]], Floats]
    value: Callable[[Floats], Floats]
    signature: str = ""

    def __call__(self, answers: Answers, predictions: Sequence[str]) -> float:
        """The value over all rows."""
        return float(self.value(self.statistics(answers, predictions).sum(axis=0)))


def make_metric(name: str, labels: Sequence[str] = (), language: str = "en") -> Metric:
    """Make the metric called `name`.

    Args:
        name: one of `METRICS`.
        labels: the closed set of targets, for metrics of classes.
        language: mC4 code of the answers, on which articles and tokens depend.

    Raises:
        UserError: there is no such metric, or it needs labels.
    """
    if name not in METRICS:
        raise UserError(f"metric {name!r} is unknown: choose among {', '.join(METRICS)}")
    if name in _OF_CLASSES and not labels:
        raise UserError(f"metric {name} needs the closed set of targets: give the task `labels`")
    return METRICS[name](list(labels), language)


def as_seqio(metric: Metric) -> Callable[[Sequence[Any], Sequence[str]], dict[str, float]]:
    """The metric as a `metric_fn` of a seqio task: targets are a text or several for each row."""

    def metric_fn(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
        answers = [[each] if isinstance(each, str) else list(each) for each in targets]
        return {metric.name: metric(answers, predictions)}

    return metric_fn


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """100 times the quotient, 0 where there is nothing to divide by."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, 100 * numerator / safe, 0.0)


def _mean(sums: Floats) -> Floats:
    return _ratio(sums[..., 0], sums[..., 1])


def _mean_of(name: str, row: Callable[[Sequence[str], str], float]) -> Metric:
    """The mean over rows of a number from 0 to 1."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        return np.array([(row(a, p), 1.0) for a, p in zip(answers, predictions, strict=True)])

    return Metric(name, statistics, _mean)


def _accuracy(labels: list[str], language: str) -> Metric:
    return _mean_of("accuracy", lambda answers, prediction: float(prediction == answers[0]))


def _exact_match(labels: list[str], language: str) -> Metric:
    return _mean_of("exact_match", lambda answers, prediction: float(prediction in answers))


def _class_counts(labels: list[str], answers: Answers, predictions: Sequence[str]) -> Floats:
    """Of each row: hits, answers and predictions by class, then hits and rows. Shape [N, 3 K + 2].

    A prediction that is no label counts for no class.
    """
    classes = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(predictions), 3 * len(labels) + 2))
    for row, answer, prediction in zip(counts, answers, predictions, strict=True):
        right, given = classes[answer[0]], classes.get(prediction)
        row[len(labels) + right] = 1
        if given is not None:
            row[2 * len(labels) + given] = 1
        if right == given:
            row[right] = row[-2] = 1
        row[-1] = 1
    return counts


def _macro_f1(labels: list[str], language: str) -> Metric:
    """Mean of the F1 of each class that there is, T5's `mean_multiclass_f1`."""

    def value(sums: Floats) -> Floats:
        hits, right, given = np.split(sums[..., :-2], 3, axis=-1)
        occurring = right + given > 0
        total = _ratio(2 * hits, right + given).sum(axis=-1)
        return total / np.maximum(occurring.sum(axis=-1), 1)

    return Metric("macro_f1", lambda a, p: _class_counts(labels, a, p), value)


def _f1(labels: list[str], language: str) -> Metric:
    """F1 of the second of two classes; what is no label counts as the wrong one, as in T5."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        wrong = {labels[0]: labels[1], labels[1]: labels[0]}
        valid = [
            given if given in wrong else wrong[answer[0]]
            for answer, given in zip(answers, predictions, strict=True)
        ]
        return _class_counts(labels, answers, valid)[:, [1, 3, 5]]

    if len(labels) != 2:
        raise UserError(f"metric f1 is for two labels, and the task has {len(labels)}: macro_f1")
    return Metric("f1", statistics, lambda s: _ratio(2 * s[..., 0], s[..., 1] + s[..., 2]))


def _matthews(labels: list[str], language: str) -> Metric:
    """Matthews' correlation for any number of classes; what is no label is one class more."""

    def value(sums: Floats) -> Floats:
        _, right, given = np.split(sums[..., :-2], 3, axis=-1)
        hits, rows = sums[..., -2], sums[..., -1]
        invalid = rows - given.sum(axis=-1)
        squares = (given**2).sum(axis=-1) + invalid**2
        spread = (rows**2 - squares) * (rows**2 - (right**2).sum(axis=-1))
        covariance = hits * rows - (right * given).sum(axis=-1)
        return 100 * covariance / np.sqrt(np.where(spread > 0, spread, np.inf))

    return Metric("matthews", lambda a, p: _class_counts(labels, a, p), value)


def _number(text: str) -> float:
    """The number a text is; -1 for any other text, as in T5."""
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if np.isfinite(number) else -1.0


def _correlation(name: str, transform: Callable[[Floats], Floats]) -> Metric:
    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        x = transform(np.array([_number(answer[0]) for answer in answers]))
        y = transform(np.array([_number(prediction) for prediction in predictions]))
        # A correlation is the same whatever is subtracted, and sums of squares stay exact.
        x, y = x - x.mean(), y - y.mean()
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(sums: Floats) -> Floats:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = (n * xx - x * x) * (n * yy - y * y)
        return 100 * (n * xy - x * y) / np.sqrt(np.where(spread > 1e-12, spread, np.inf))

    return Metric(name, statistics, value)


def _ranks(values: Floats) -> Floats:
    """Ranks, ties in the middle; resamples keep those of all rows."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[numbers]


def _pearson(labels: list[str], language: str) -> Metric:
    return _correlation("pearson", lambda values: values)


def _spearman(labels: list[str], language: str) -> Metric:
    return _correlation("spearman", _ranks)


def _spans(text: str) -> list[tuple[str, str]]:
    """The spans of `PER: rick $$ LOC: earth`; a part that is none is left out, as in mT5."""
    parts = [part.split(":") for part in text.split(" $$ ")]
    return [(part[0].strip(), part[1].strip()) for part in parts if len(part) == 2]


def _span_f1(labels: list[str], language: str) -> Metric:
    """F1 over spans of all rows; a span counts as often as it is there."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        rows = []
        for answer, prediction in zip(answers, predictions, strict=True):
            right, given = map(collections.Counter, (_spans(answer[0]), _spans(prediction)))
            rows.append(((right & given).total(), right.total(), given.total()))
        return np.array(rows, float)

    return Metric("span_f1", statistics, lambda s: _ratio(2 * s[..., 0], s[..., 1] + s[..., 2]))


def _normalize_squad(text: str) -> str:
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(_ARTICLES["en"], " ", text).split())


def _normalize_mlqa(text: str, language: str) -> str:
    text = "".join(
        char
        for char in text.lower()
        if char not in string.punctuation and unicodedata.category(char)[0] != "P"
    )
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if language == "zh":  # characters of Chinese are words
        text = re.sub(r"([\u4e00-\u9fa5])", r" \1 ", text)
    return " ".join(text.split())


def _word_f1(answer: str, prediction: str) -> float:
    right, given = collections.Counter(answer.split()), collections.Counter(prediction.split())
    same = (right & given).total()
    return 2 * same / (right.total() + given.total()) if same else 0.0


def _answering(name: str, normalize: Callable[[str], str], exact: bool) -> Metric:
    """Of a question with several answers, the best counts."""

    def row(answers: Sequence[str], prediction: str) -> float:
        given = normalize(prediction)
        normal = [normalize(answer) for answer in answers]
        if exact:
            return float(given in normal)
        return max(_word_f1(answer, given) for answer in normal)

    return _mean_of(name, row)


def _mlqa(name: str, language: str, exact: bool) -> Metric:
    return _answering(name, lambda text: _normalize_mlqa(text, language), exact)


def _of_sacrebleu(name: str, measure: Any) -> Metric:
    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        most = max(map(len, answers))
        # A row with fewer references than others has None for the rest.
        streams = [[dict(enumerate(row)).get(i) for row in answers] for i in range(most)]
        return np.array(measure._extract_corpus_statistics(list(predictions), streams), float)

    def value(sums: Floats) -> Floats:
        scores = [
            measure._compute_score_from_stats([round(count) for count in row]).score
            for row in sums.reshape(-1, sums.shape[-1])
        ]
        return np.array(scores).reshape(sums.shape[:-1])

    measure.num_refs = -1  # as many as a row has
    return Metric(name, statistics, value, str(measure.get_signature()))


def _chrf(labels: list[str], language: str) -> Metric:
    from sacrebleu.metrics.chrf import CHRF

    return _of_sacrebleu("chrf", CHRF())


def _bleu(labels: list[str], language: str) -> Metric:
    from sacrebleu.metrics.bleu import BLEU

    # Its tokenizers for Japanese and Korean are packages, that of FLORES is downloaded.
    tokenizer = "zh" if language == "zh" else "char" if language in _UNSPACED else "13a"
    return _of_sacrebleu("bleu", BLEU(tokenize=tokenizer, force=True))


#: Makes each metric of the labels and the language.
METRICS: dict[str, Callable[[list[str], str], Metric]] = {
    "accuracy": _accuracy,
    "exact_match": _exact_match,
    "macro_f1": _macro_f1,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "chrf": _chrf,
    "bleu": _bleu,
    "span_f1": _span_f1,
    "squad_em": lambda labels, language: _answering("squad_em", _normalize_squad, True),
    "squad_f1": lambda labels, language: _answering("squad_f1", _normalize_squad, False),
    "mlqa_em": lambda labels, language: _mlqa("mlqa_em", language, True),
    "mlqa_f1": lambda labels, language: _mlqa("mlqa_f1", language, False),
}
_OF_CLASSES = ("macro_f1", "f1", "matthews")
