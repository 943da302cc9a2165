"""Register seqio tasks for a directory of supervised examples, with their metrics.

    import seqio
    from mswitch.tasks.seqio.supervised import register

    register("reviews")  # -> ["reviews.de", "reviews.sw", ...]
    task = seqio.get_mixture_or_task("reviews.sw")
    dataset = task.get_dataset({"inputs": 512, "targets": 128}, split="validation")

The tasks read the directory's own files. After `seqio.add_global_cache_dirs(["reviews"])`, the
files also work as seqio's cache: `use_cached=True`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.directory import TOKENS
from mswitch.pipelines.languages import find_language
from mswitch.pipelines.supervised.directory import FEATURES
from mswitch.tasks.batches.examples import VOCABULARY_PATH, open_examples
from mswitch.tasks.metrics.registry import as_seqio

_registered: dict[str, str] = {}


def register(directory: str | Path) -> list[str]:
    """Register `<task>.<lang>` for each language; a second call changes nothing.

    Args:
        directory: a finished directory of supervised examples, on a disk.

    Returns:
        The names of the tasks.
    """
    examples = open_examples(directory)
    if not examples.supervised:
        raise UserError(
            f"{directory} is corrupted text, not a supervised task: "
            "import mswitch.tasks.seqio.pretrain for it"
        )
    definition, where = examples.manifest["task"], str(Path(directory).resolve())
    vocabulary = seqio.SentencePieceVocabulary(f"{where}/{VOCABULARY_PATH}", extra_ids=0)
    features = {
        name: seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)
        for name in ("inputs", "targets")
    }
    names = []
    for lang, splits in examples.manifest["languages"].items():
        name = f"{definition['name']}.{find_language(lang).registry_name}"
        names.append(name)
        if _registered.get(name) == where:
            continue
        if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
            raise UserError(
                f"seqio has another {name!r} already: give the task in {directory} another name"
            )
        # `*` would also match the index beside a shard, which begins with the shard's name.
        files = {split: f"{where}/{name}/{split}.tfrecord-?????-of-?????" for split in splits}
        counts = {split: entry["records"] for split, entry in splits.items()}
        task = seqio.Task(
            name,
            source=seqio.TFExampleDataSource(
                files, _describe_features(), num_input_examples=counts
            ),
            output_features=features,
            preprocessors=[_cast, seqio.CacheDatasetPlaceholder()],
            postprocess_fn=replace_target,
            metric_fns=[
                as_seqio(metric, definition["labels"] or (), lang)
                for metric in definition["metrics"]
            ],
        )
        seqio.TaskRegistry.add_provider(name, task)
        _registered[name] = where
    return names


def _describe_features() -> Mapping[str, Any]:
    kinds = {"int32": tf.int64, "string": tf.string}
    return {
        name: tf.io.FixedLenSequenceFeature([], kinds[kind["dtype"]], allow_missing=True)
        if kind["shape"]
        else tf.io.FixedLenFeature([], kinds[kind["dtype"]])
        for name, kind in FEATURES.items()
    }


def _cast(dataset: tf.data.Dataset) -> tf.data.Dataset:
    names = [name for name, kind in FEATURES.items() if kind == TOKENS]
    return dataset.map(
        lambda row: {**row, **{name: tf.cast(row[name], tf.int32) for name in names}}
    )


def replace_target(text: str, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """Replace a target's text by all correct answers and the row's group.

    Return a prediction unchanged.
    """
    if not is_target:
        return text
    answers = [answer.decode() for answer in example["answers"]]
    return {"value": answers, "group": example["group"].decode()}
