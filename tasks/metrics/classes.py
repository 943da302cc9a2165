"""Metrics of labels and numbers."""

from collections.abc import Callable, Sequence

import numpy as np

from mswitch.pipelines.errors import UserError
from mswitch.tasks.metrics.metric import (
    Answers,
    Floats,
    Maker,
    Metric,
    OfGroup,
    compute_ratio,
    make_mean,
)


def _make_share_right(name: str, of_group: OfGroup = "sum") -> Maker:
    """Define accuracy: the share of right rows.

    If `of_group` is `min`, it is the share of groups with only right rows.
    """
    metric = make_mean(name, lambda answers, given: float(given in answers), of_group)
    return lambda labels, language: metric


def _count_classes(labels: list[str], answers: Answers, predictions: Sequence[str]) -> Floats:
    """Count, for each row and class, correct predictions, true answers and all predictions.

    The result is [N, 3 K + 2] for N rows and K classes. The last columns count correct predictions
    and rows of all classes. The answer of a row is the predicted one if that is right, else its
    first. A prediction that is not a label counts for no class. A row whose answer is not a label,
    as in a test split with unpublished labels, does not count at all.
    """
    classes = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(predictions), 3 * len(labels) + 2))
    for row, answer, prediction in zip(counts, answers, predictions, strict=True):
        counted = prediction if prediction in answer else answer[0]
        right, given = classes.get(counted), classes.get(prediction)
        if right is None:
            continue
        row[len(labels) + right] = 1
        if given is not None:
            row[2 * len(labels) + given] = 1
        if right == given:
            row[right] = row[-2] = 1
        row[-1] = 1
    return counts


def _make_macro_f1(labels: list[str], language: str) -> Metric:
    """Make macro-F1: the mean F1 of the classes that occur in answers or predictions."""

    def value(sums: Floats) -> Floats:
        hits, right, given = np.split(sums[..., :-2], 3, axis=-1)
        occurring = right + given > 0
        total = compute_ratio(2 * hits, right + given).sum(axis=-1)
        return total / np.maximum(occurring.sum(axis=-1), 1)

    return Metric("macro_f1", lambda a, p: _count_classes(labels, a, p), value, jumps=True)


def _make_mean_multiclass_f1(labels: list[str], language: str) -> Metric:
    """Make T5's mean F1 of all classes; a class that does not occur counts as 0."""

    def value(sums: Floats) -> Floats:
        hits, right, given = np.split(sums[..., :-2], 3, axis=-1)
        return compute_ratio(2 * hits, right + given).mean(axis=-1)

    return Metric("mean_multiclass_f1", lambda a, p: _count_classes(labels, a, p), value)


def _make_f1(labels: list[str], language: str) -> Metric:
    """Make T5's binary F1 metric, of the second of two labels.

    A prediction that is not a label counts as the wrong label.
    """

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        wrong = {labels[0]: labels[1], labels[1]: labels[0]}
        valid = [
            given if given in wrong else wrong.get(answer[0], given)
            for answer, given in zip(answers, predictions, strict=True)
        ]
        return _count_classes(labels, answers, valid)[:, [1, 3, 5]]

    if len(labels) != 2:
        raise UserError(
            f"metric f1 is for two labels, and the task has {len(labels)}: use macro_f1"
        )
    return Metric("f1", statistics, lambda s: compute_ratio(2 * s[..., 0], s[..., 1] + s[..., 2]))


def _make_matthews(labels: list[str], language: str) -> Metric:
    """Make Matthews' correlation for any number of classes; any other text is one more class."""

    def value(sums: Floats) -> Floats:
        _, right, given = np.split(sums[..., :-2], 3, axis=-1)
        hits, rows = sums[..., -2], sums[..., -1]
        invalid = rows - given.sum(axis=-1)
        squares = (given**2).sum(axis=-1) + invalid**2
        spread = (rows**2 - squares) * (rows**2 - (right**2).sum(axis=-1))
        covariance = hits * rows - (right * given).sum(axis=-1)
        return 100 * covariance / np.sqrt(np.where(spread > 0, spread, np.inf))

    return Metric("matthews", lambda a, p: _count_classes(labels, a, p), value, least=-100.0)


def _parse_number(text: str) -> float:
    """Parse a number; return -1 for any other text, as in T5."""
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if np.isfinite(number) else -1.0


def _make_correlation(name: str, transform: Callable[[Floats], Floats]) -> Metric:
    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        x = transform(np.array([_parse_number(answer[0]) for answer in answers]))
        y = transform(np.array([_parse_number(prediction) for prediction in predictions]))
        # Subtracting the mean does not change a correlation, and keeps sums of squares exact.
        x, y = x - x.mean(), y - y.mean()
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(sums: Floats) -> Floats:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = (n * xx - x * x) * (n * yy - y * y)
        return 100 * (n * xy - x * y) / np.sqrt(np.where(spread > 1e-12, spread, np.inf))

    return Metric(name, statistics, value, least=-100.0)


def _compute_ranks(values: Floats) -> Floats:
    """Compute ranks over all rows, once for all resamples; equal values get their mean rank."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[numbers]


def _make_pearson(labels: list[str], language: str) -> Metric:
    return _make_correlation("pearson", lambda values: values)


def _make_spearman(labels: list[str], language: str) -> Metric:
    return _make_correlation("spearman", _compute_ranks)


CLASS_METRICS: dict[str, Maker] = {
    "accuracy": _make_share_right("accuracy"),
    "exact_match": _make_share_right("exact_match"),
    # In MultiRC, a group is one question with all its answers.
    "group_exact_match": _make_share_right("group_exact_match", "min"),
    "macro_f1": _make_macro_f1,
    "mean_multiclass_f1": _make_mean_multiclass_f1,
    "f1": _make_f1,
    "matthews": _make_matthews,
    "pearson": _make_pearson,
    "spearman": _make_spearman,
}
NEED_LABELS = ("macro_f1", "mean_multiclass_f1", "f1", "matthews")
