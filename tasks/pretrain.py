"""seqio tasks `mc4.<lang>` and mixture `mc4`, under mT5's names; importing this registers them.

Languages that mC4 lacks (Croatian, Bosnian, Serbian in Latin letters) have tasks `mswitch.<lang>`,
and the mixture `mswitch` has them beside the 107 of `mc4`.

    import seqio, tasks.pretrain
    seqio.add_global_cache_dirs(["runs/demo/examples"])
    dataset = seqio.get_mixture_or_task("mc4").get_dataset(
        sequence_length={"inputs": 1024, "targets": 256}, split="train", use_cached=True)

Registering reads no file. A task has a split where the examples directory has it, so the mixture
works with any set of languages.
"""

from collections.abc import Sequence

import seqio
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.examples.shards import task_name
from pipelines.languages import languages, mc4_codes
from tasks.cache import cached_records
from tasks.preprocessors import corrupt_spans
from tasks.rates import ALPHA
from tasks.vocabulary import ExamplesVocabulary

MIXTURE = "mc4"
EVERY_LANGUAGE = "mswitch"
VOCABULARY = ExamplesVocabulary()
#: EOS is there already or is added after corruption, never by seqio's trimming.
FEATURES = {
    name: seqio.Feature(vocabulary=VOCABULARY, add_eos=True, dtype=tf.int32)
    for name in ("inputs", "targets")
}


class ExamplesSource(seqio.DataSource):
    """Says which splits the examples directory has; the examples themselves come from the cache."""

    def __init__(self, task: str):
        super().__init__(splits=())
        self._task = task

    @property
    def splits(self) -> Sequence[str]:
        """The splits in the cache directories now."""
        return tuple(cached_records(self._task))

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Seqio shards the cache by file or by example."""
        return False

    def num_input_examples(self, split: str) -> int | None:
        """Records of a split, or None."""
        return cached_records(self._task).get(split)

    def list_shards(self, split: str) -> Sequence[str]:
        """Refuse: only the cache has shards."""
        raise self._not_cached(split)

    def get_dataset(self, split: str = "train", *_: object, **__: object) -> tf.data.Dataset:
        """Refuse: there is no other source than the cache.

        Raises:
            UserError: always.
        """
        raise self._not_cached(split)

    def _not_cached(self, split: str) -> UserError:
        return UserError(
            f"{self._task} ({split}) is read from an examples directory only: "
            "call get_dataset(..., use_cached=True)"
        )


class ExamplesTask(seqio.Task):
    """A task that may have no split at all, where seqio's own raises an error."""

    @property
    def splits(self) -> Sequence[str]:
        """The splits in the cache directories now."""
        return self.source.splits


def mixing_rate(task: seqio.Task) -> float:
    """Training records ** 0.3, as mT5; validation records where a language has no training text."""
    records = cached_records(task.name)
    return float(records.get("train", records.get("validation", 0))) ** ALPHA


def register() -> None:
    """Register the tasks and the mixtures; a second call changes nothing."""
    for lang in languages():
        name = task_name(lang)
        if name not in seqio.TaskRegistry.names():
            task = ExamplesTask(
                name,
                source=ExamplesSource(name),
                output_features=FEATURES,
                preprocessors=[seqio.CacheDatasetPlaceholder(required=True), corrupt_spans],
                metric_fns=[],
            )
            seqio.TaskRegistry.add_provider(name, task)
    for mixture, codes in ((MIXTURE, mc4_codes()), (EVERY_LANGUAGE, tuple(languages()))):
        if mixture not in seqio.MixtureRegistry.names():
            seqio.MixtureRegistry.add(mixture, [(task_name(lang), mixing_rate) for lang in codes])


register()
