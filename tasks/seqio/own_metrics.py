"""Score predictions by a seqio task's own `postprocess_fn` and metrics.

Metrics get the same arguments as from `seqio.Evaluator`: the task's examples, with targets and
predictions as text.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.tasks.seqio.registered import Registered, preprocess


def make_example_id(split: str, shard: int, row: int, draw: int | None = None) -> str:
    """Return an example's id: split, shard, row in the shard and preprocessing seed if not None."""
    return f"{split}-{shard:05}:{row}" + ("" if draw is None else f"#{draw}")


def split_metrics(task: seqio.Task) -> tuple[list[Any], int]:
    """Return a task's metrics that take predictions, and the number of its other metrics."""
    try:
        metrics = list(task.metric_objs)
    except ValueError as error:
        raise UserError(f"{task.name}: {error}") from error
    wanted = [
        metric
        for metric in metrics
        if isinstance(metric, seqio.metrics.CollectingMetric)
        and getattr(metric, "model_output_type", None) == seqio.metrics.ModelOutputType.PREDICTION
    ]
    return wanted, len(metrics) - len(wanted)


def find_task(described: Mapping[str, Any], folder: str) -> seqio.Task:
    """Find the task that a manifest names.

    `described` has the task's `name` and `module`; `folder` has modules that are not installed.
    """
    with contextlib.suppress(RuntimeError):  # raised if TensorFlow has already started
        tf.config.set_visible_devices([], "GPU")  # JAX needs the GPU's memory
    name, module = described["name"], described["module"]
    try:
        task = Registered(name, module, folder).find()
    except UserError as error:
        raise UserError(
            f"{name} has metrics of its own, and {error}: run this in the folder of {module}, or "
            "give --no-own-metrics"
        ) from error
    assert isinstance(task, seqio.Task)
    return task


def measure(
    task: seqio.Task,
    split: str,
    lengths: Lengths,
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, float | str | None]:
    """Score predictions by a task's own metrics.

    Inputs and targets were cut to `lengths`. `rows` have `id`, `targets` and `prediction`.

    Returns:
        Numbers (None if not finite) and texts by name.
    """
    by_id = {row["id"]: row for row in rows}
    numbers = {name.partition("#")[2] for name in by_id}
    draws = [int(number) if number else None for number in sorted(numbers)]
    of = len(task.source.list_shards(split))
    examples, predictions = [], []
    for draw in draws:
        for number in range(of):
            preprocessed_examples = preprocess(
                task, split, lengths, shard=(number, of), draw=draw or 0
            )
            for place, example in enumerate(preprocessed_examples):
                row = by_id.get(make_example_id(split, number, place, draw))
                if row is not None and _has_same_targets(example, row):
                    examples.append(example)
                    predictions.append(row["prediction"])
    if len(examples) < len(rows):
        raise UserError(
            f"{task.name} yields {len(examples):,} of the {len(rows):,} {split} examples that were "
            "made from it: make them again (mswitch examples from-task)"
        )
    values: dict[str, float | str | None] = {}
    targets = None
    for metric in split_metrics(task)[0]:
        try:
            made = metric.from_model_output(
                examples, np.array(predictions, object), task.output_features
            )
            results, outputs = made.actual_compute(
                examples, task.output_features, "targets", targets
            )
        except Exception as error:  # metrics can raise anything
            raise UserError(
                f"a metric of {task.name} fails ({type(error).__name__}: {error}): repair it, or "
                "give --no-own-metrics"
            ) from error
        targets = outputs["targets"]
        for name, value in results.items():
            if name in values:
                raise UserError(f"two metrics of {task.name} return {name!r}: rename one")
            values |= _to_json(name, value)
    return values


def _has_same_targets(example: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    text = example.get("targets_pretokenized")
    return not isinstance(text, bytes) or text.decode("utf-8", "replace") == row["targets"]


def _to_json(name: str, value: Any) -> dict[str, float | str | None]:
    """Map a metric's name to its value for JSON; omit values that are pictures or sounds."""
    value = getattr(value, "textdata", getattr(value, "value", value))
    if isinstance(value, bytes | str):
        return {name: value.decode() if isinstance(value, bytes) else value}
    try:
        number = float(value)
    except (TypeError, ValueError):
        return {}
    return {name: number if math.isfinite(number) else None}
