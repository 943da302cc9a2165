"""mT5's fine-tuning tasks in seqio, under mT5's names, for datasets prepared in a folder.

    import mswitch.tasks.seqio.finetune

    mswitch.tasks.seqio.finetune.register("vocabulary", "/data/tfds")
    seqio.get_mixture_or_task("mt5_xnli_zeroshot")

Names, texts, splits and versions of datasets come from google-research/multilingual-t5
(`multilingual_t5/tasks.py`). `tfds build` makes the folder elsewhere, with `xnli/1.1.0/` and so on.
Nothing is downloaded, and registering reads no dataset.

One mixture differs: mT5 registers `mt5_pawsx_translate_train_original` with the tasks of
`mt5_pawsx_translate_train`; here it has the original tasks, as its name says.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import find_code
from mswitch.pipelines.vocabulary.model import open_vocabulary
from mswitch.tasks.metrics.registry import as_seqio
from mswitch.tasks.seqio.mt5 import Mt5Task, list_mt5_mixtures, list_mt5_tasks
from mswitch.tasks.seqio.mt5_formats import Row
from mswitch.tasks.seqio.supervised import replace_target

_SPEC = {
    **{name: tf.TensorSpec([], tf.string) for name in ("inputs", "targets", "id", "group")},
    "answers": tf.TensorSpec([None], tf.string),
}


class PreparedSource(seqio.DataSource):
    """Source of a seqio task: rows of text from TFDS datasets that are prepared in a folder."""

    def __init__(self, task: Mt5Task, folder: str | Path):
        super().__init__(splits=tuple(task.splits))
        self._task, self._folder = task, Path(folder)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False, because a split is one shard."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """Return the split itself, as the only shard."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Count the examples of the datasets; a task may use only a part of them."""
        name = self._task.splits[split]
        return sum(builder.info.splits[name].num_examples for builder in self._open_builders(split))

    def get_dataset(
        self, split: str = "train", *_: object, shuffle: bool = False, **__: object
    ) -> tf.data.Dataset:
        """Return the rows in the order of the dataset; `shuffle` has no effect."""
        builders = self._open_builders(split)

        def rows() -> Iterator[Row]:
            for builder in builders:
                name = self._task.splits[split]
                read = builder.as_dataset(split=name)  # pyright: ignore[reportCallIssue]
                for example in read.as_numpy_iterator():
                    yield from self._task.rows(_decode_values(example))

        return tf.data.Dataset.from_generator(rows, output_signature=_SPEC)

    def _open_builders(self, split: str) -> list[tfds.core.DatasetBuilder]:
        builders = []
        for dataset in self._task.datasets:
            name, _, version = dataset.partition(":")
            folder = self._folder / name / version
            if not (folder / "dataset_info.json").is_file():
                there = sorted(
                    path.parent.name for path in folder.parent.glob("*/dataset_info.json")
                )
                raise UserError(
                    f"{self._task.name} needs {name}/{version} in {self._folder}, which has "
                    f"{' and '.join(there) if there else 'no version of it'}: prepare it with "
                    "`tfds build` on a machine with a network"
                )
            builder = tfds.builder_from_directory(folder)
            if self._task.splits[split] not in builder.info.splits:
                raise UserError(
                    f"{folder} has no split {self._task.splits[split]}: prepare it again"
                )
            builders.append(builder)
        return builders


def _decode_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _decode_values(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_decode_values(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value


_registered: dict[str, tuple[str, str]] = {}


def register(vocabulary: str | Path, tfds_dir: str | Path) -> list[str]:
    """Register mT5's tasks and mixtures; a second call with the same arguments changes nothing.

    Args:
        vocabulary: a vocabulary directory, or a SentencePiece model file such as mT5's.
        tfds_dir: the folder of prepared datasets.

    Returns:
        The names of tasks and mixtures.
    """
    opened, tasks, mixtures = (
        open_vocabulary(vocabulary),
        list(list_mt5_tasks()),
        list_mt5_mixtures(),
    )
    names = [*(task.name for task in tasks), *mixtures]
    where = opened.sha256, str(tfds_dir)
    if all(_registered.get(name) == where for name in names):
        return names
    taken = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()} & set(names)
    if taken:
        raise UserError(
            f"seqio has another {min(taken)!r} already: register these in a new process"
        )
    extra = 100 if opened.added else 0
    ids = seqio.SentencePieceVocabulary(opened.path, extra_ids=extra)
    features = {name: seqio.Feature(ids, add_eos=True) for name in ("inputs", "targets")}
    for task in tasks:
        lang = find_code(task.name.rpartition(".")[2]) or "en"
        made = seqio.Task(
            task.name,
            source=PreparedSource(task, tfds_dir),
            output_features=features,
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos_after_trim,
            ],
            postprocess_fn=replace_target,
            metric_fns=[as_seqio(metric, task.labels, lang) for metric in task.metrics],
        )
        seqio.TaskRegistry.add_provider(task.name, made)
    for name, members in mixtures.items():
        seqio.MixtureRegistry.add(name, list(members.items()))
    _registered.update(dict.fromkeys(names, where))
    return names
