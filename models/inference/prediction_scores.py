"""Score predictions, language by language, as JSON and as a table."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mswitch.pipelines.corpus.stats import align
from mswitch.tasks.metric_intervals import score
from mswitch.tasks.metrics.registry import make_metric


def score_predictions(table: pa.Table, task: Mapping[str, Any]) -> dict[str, Any]:
    """Score predictions by the metrics of their task.

    Args:
        table: predictions with `language`, `group`, `answers`, `prediction`.
        task: the `task` of a supervised manifest.

    Returns:
        `languages`: for each language and metric, the value, its interval, rows and groups. For a
        closed set also `majority`, the value of always answering the commonest answer of all rows.
        `in_mean` (False) if the language does not count (`Metric.is_averaged`). `mean`: for each
        metric the mean over languages, None if none counts. `all`: for a closed set, the same as
        for a language over all rows. `invalid`: number of predictions that are not labels. `rows`.
    """
    labels = task["labels"]
    rows = table.select(["language", "group", "answers", "prediction"]).to_pylist()
    counts = collections.Counter(row["answers"][0] for row in rows)
    majority = max(labels, key=counts.__getitem__) if labels else None

    def score_rows(own_rows: Sequence[Mapping[str, Any]], lang: str) -> dict[str, dict[str, Any]]:
        answers, groups, predictions = (
            [row[name] for row in own_rows] for name in ("answers", "group", "prediction")
        )
        values = {}
        for name in task["metrics"]:
            metric = make_metric(name, labels or (), lang)
            values[name] = dataclasses.asdict(score(metric, answers, predictions, groups))
            if majority is not None:
                values[name]["majority"] = metric(answers, [majority] * len(own_rows), groups)
            if lang and not metric.is_averaged(answers):
                values[name]["in_mean"] = False
        return values

    by_language: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_language.setdefault(row["language"], []).append(row)
    languages = {lang: score_rows(own, lang) for lang, own in sorted(by_language.items())}
    return {
        "languages": languages,
        "mean": {name: _average(languages, name, "value") for name in task["metrics"]},
        # Only labels have a score over all languages, because metrics of text depend on the
        # language.
        "all": score_rows(rows, "") if labels else None,
        "invalid": sum(row["prediction"] not in labels for row in rows) if labels else 0,
        "rows": len(rows),
    }


def _average(languages: Mapping[str, Any], metric: str, key: str) -> float | None:
    scores = [entry[metric] for entry in languages.values()]
    values = [score[key] for score in scores if score.get("in_mean", True)]
    return float(np.mean(values)) if values else None


def format_scores(scores: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Format the result of `score_predictions` as a table; a task's own metrics follow."""
    languages = scores["languages"]
    closed = any("majority" in entry[name] for entry in languages.values() for name in metrics)
    head = ["language", "rows"]
    for name in metrics:
        head += [name, *(["majority"] if closed else [])]
    lines = [head]
    scores_by_row = {**languages, "all": scores["all"]} if scores["all"] else languages
    for lang, entry in scores_by_row.items():
        line = [lang, f"{entry[metrics[0]]['rows']:,}"]
        for name in metrics:
            value = entry[name]
            interval = "" if value["low"] is None else f" [{value['low']:.1f}, {value['high']:.1f}]"
            line += [f"{value['value']:.1f}{interval}"]
            line += [f"{value['majority']:.1f}"] if closed else []
        lines.append(line)
    mean = ["mean", ""]
    for name in metrics:
        for key in ("value", *(["majority"] if closed else [])):
            value = _average(languages, name, key)
            mean += ["n/a" if value is None else f"{value:.1f}"]
    lines.append(mean)
    shown = [align(lines, text_columns={0})]
    shown += [
        f"{name} (the task's own): {value:.6g}"
        for name, value in sorted(scores.get("seqio", {}).items())
        if isinstance(value, float)  # omit texts, which may contain a model's output
    ]
    return "\n".join(shown)
