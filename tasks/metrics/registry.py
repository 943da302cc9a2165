"""Metrics of supervised tasks: plain Python and NumPy.

    make_metric("accuracy")([["1"], ["0"]], ["1", "1"])  # 50.0

Definitions follow T5 and mT5 (`t5.evaluation.metrics`, `multilingual_t5`), but all values are from
0 to 100 (mT5 prints `span_f1` from 0 to 1). Two are ours: `macro_f1` omits classes that do not
occur (T5's is `mean_multiclass_f1`), and `bleu` tokenizes by language (T5's is `bleu_intl`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mswitch.pipelines.errors import UserError
from mswitch.tasks.metrics.classes import CLASS_METRICS, NEED_LABELS
from mswitch.tasks.metrics.metric import Maker, Metric
from mswitch.tasks.metrics.texts import TEXT_METRICS


def make_metric(name: str, labels: Sequence[str] = (), language: str = "en") -> Metric:
    """Make the metric called `name`.

    `labels` is the closed set of targets, for metrics of classes. `language` is the mC4 code of the
    answers, on which articles and tokens depend.
    """
    if name not in METRICS:
        raise UserError(f"metric {name!r} is unknown: choose among {', '.join(METRICS)}")
    if name in NEED_LABELS and not labels:
        raise UserError(f"metric {name} needs the closed set of targets: give the task `labels`")
    return METRICS[name](list(labels), language)


def as_seqio(
    name: str, labels: Sequence[str] = (), language: str = "en"
) -> Callable[[Sequence[Any], Sequence[str]], dict[str, float]]:
    """Return a `metric_fn` for a seqio task; it makes the metric only when called.

    A row's targets are a text, several texts, or `{"value": texts, "group": text}`.
    """

    def metric_fn(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
        grouped = [each if isinstance(each, Mapping) else {"value": each} for each in targets]
        values = [each["value"] for each in grouped]
        answers = [[each] if isinstance(each, str) else list(each) for each in values]
        groups = [each.get("group") or f"row {row}" for row, each in enumerate(grouped)]
        return {name: make_metric(name, labels, language)(answers, predictions, groups)}

    return metric_fn


METRICS: dict[str, Maker] = {**CLASS_METRICS, **TEXT_METRICS}
