"""seqio tasks `mc4.<lang>` and mixture `mc4`, under mT5's names; importing this registers them.

    import seqio, mswitch.tasks.seqio.pretrain
    seqio.add_global_cache_dirs(["runs/demo/examples"])
    dataset = seqio.get_mixture_or_task("mc4").get_dataset(
        sequence_length={"inputs": 1024, "targets": 256}, split="train", use_cached=True)

Languages that mC4 lacks (Croatian, Bosnian, Serbian in Latin letters) have tasks `mswitch.<lang>`.
The mixture `mswitch` has them and the 107 of `mc4`. All `mswitch.tasks.batches.mixtures.mixtures()`
are registered under their names (`mc4.script.Cyrl`, `mc4.unimax.1`). Your own needs one line:

    pretrain.register_mixture("slavic", Mixture(families=("Slavic",), max_epochs=4))

Registering reads no file. A task has a split if the examples directory has it, so the mixture works
with any set of languages.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Sequence

import seqio
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import any_code, languages, name_task, parse_codes
from mswitch.tasks.batches.mixtures import MT5_BUDGET, Mixture, mixtures
from mswitch.tasks.seqio.cache import count_cached_records, list_examples_directories
from mswitch.tasks.seqio.preprocessors import corrupt_spans
from mswitch.tasks.seqio.vocabulary import ExamplesVocabulary

# Mixtures have tasks of all known languages: do not log those that a directory lacks.
_LACKING = re.compile(r"Task (mc4|mswitch)\.\w+ has no '\w+' split, skipping")
logging.getLogger("absl").addFilter(lambda record: not _LACKING.match(record.getMessage()))

VOCABULARY = ExamplesVocabulary()
#: Examples already have an EOS, or get it after corruption; seqio's trimming never adds one.
FEATURES = {
    name: seqio.Feature(vocabulary=VOCABULARY, add_eos=True, dtype=tf.int32)
    for name in ("inputs", "targets")
}


class ExamplesSource(seqio.DataSource):
    """A seqio data source that only lists splits; seqio reads the examples from its cache."""

    def __init__(self, task: str):
        super().__init__(splits=())
        self._task = task

    @property
    def splits(self) -> Sequence[str]:
        """Splits that the cache directories have now."""
        return tuple(count_cached_records(self._task))

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False, because seqio shards the cache by file or by example."""
        return False

    def num_input_examples(self, split: str) -> int | None:
        """Count the records of a split; None if it does not exist."""
        return count_cached_records(self._task).get(split)

    def list_shards(self, split: str) -> Sequence[str]:
        """Raise a UserError, because only the cache has shards."""
        raise self._make_error(split)

    def get_dataset(self, split: str = "train", *_: object, **__: object) -> tf.data.Dataset:
        """Raise a UserError, because seqio reads these examples only with `use_cached=True`."""
        raise self._make_error(split)

    def _make_error(self, split: str) -> UserError:
        return UserError(
            f"{self._task} ({split}) is read from an examples directory only: "
            "call get_dataset(..., use_cached=True)"
        )


class ExamplesTask(seqio.Task):
    """A task that may have no splits; seqio's own class would raise an error."""

    @property
    def splits(self) -> Sequence[str]:
        """Splits that the cache directories have now."""
        return self.source.splits


def _count_records(lang: str) -> int:
    records = count_cached_records(name_task(lang))
    return records.get("train", records.get("validation", 0))


@functools.lru_cache(maxsize=1024)
def _compute_capped_rates(name: str, _directories: tuple[str, ...]) -> dict[str, float]:
    """Compute rates of a registered mixture with a cap; they depend on all languages together."""
    mixture, budget = _registered[name]
    records = {lang: _count_records(lang) for lang in mixture.members()}
    return mixture.rates(records, budget)


def _make_rate(name: str, lang: str) -> Callable[[seqio.Task], float]:
    """Return a rate function for a language of a registered mixture; it counts records lazily."""
    mixture, _ = _registered[name]

    def rate(_: seqio.Task) -> float:
        if mixture.max_epochs is None:
            return mixture.weight(lang, _count_records(lang))
        return _compute_capped_rates(name, tuple(map(str, list_examples_directories()))).get(
            lang, 0.0
        )

    return rate


_registered: dict[str, tuple[Mixture, int]] = {}


def register_mixture(name: str, mixture: Mixture, budget: int = MT5_BUDGET) -> None:
    """Register a mixture; a second call with the same arguments changes nothing.

    Args:
        name: its name for seqio; letters, digits, `.`, `_`.
        mixture: the languages that take part.
        budget: sequences of the whole training; only `max_epochs` needs it.
    """
    if _registered.get(name) == (mixture, budget):
        return
    if name in seqio.MixtureRegistry.names() or name in seqio.TaskRegistry.names():
        raise UserError(f"seqio has another {name!r} already: choose another name")
    _registered[name] = mixture, budget
    seqio.MixtureRegistry.add(
        name, [(name_task(lang), _make_rate(name, lang)) for lang in mixture.members()]
    )


def register(codes: Iterable[str] = ()) -> None:
    """Register the tasks and the mixtures; a second call changes nothing.

    Args:
        codes: codes that `mswitch.pipelines.languages` lacks, such as `ast-Latn`; a corpus has
            them if its recipe names them. For a mixture with them, `register_mixture` one that
            names them.
    """
    for lang in (*languages(), *parse_codes(codes, any_code)):
        name = name_task(lang)
        if name not in seqio.TaskRegistry.names():
            task = ExamplesTask(
                name,
                source=ExamplesSource(name),
                output_features=FEATURES,
                preprocessors=[seqio.CacheDatasetPlaceholder(required=True), corrupt_spans],
                metric_fns=[],
            )
            seqio.TaskRegistry.add_provider(name, task)
    for name, mixture in mixtures().items():
        register_mixture(name, mixture)


register()
