"""Find tasks and mixtures in seqio's registry, check them, and preprocess from a known seed."""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.pipelines.vocabulary.model import VocabularyModel, remove_sentinels

FEATURES = ("inputs", "targets")
#: Seeds reserved for each shard.
_SEEDS = 10_000
#: Text that TensorFlow adds to the reason in an error message.
_OF_TENSORFLOW = re.compile(
    r"^\{\{.*?\}\} ?|Error in user-defined function passed to .*? iterator: \S+: |;? ?\[Op:\w+\].*$"
)


@dataclasses.dataclass(frozen=True)
class Registered:
    """A name in seqio's registry, which every process looks up itself.

    Attributes:
        name: name of a task or a mixture.
        module: module whose import registers it; "" for none.
        folder: folder of modules that are not installed.
    """

    name: str
    module: str = ""
    folder: str = ""

    def find(self) -> seqio.Task | seqio.Mixture:
        """Import the module and look the name up."""
        self._import_files()
        try:
            return seqio.get_mixture_or_task(self.name)
        except ValueError as error:
            names = (*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names())
            near = difflib.get_close_matches(self.name, names, n=1)
            hint = f"{self.module} does not register it" if self.module else "give --module"
            hint = f"did you mean {near[0]!r}?" if near else hint
            raise UserError(f"seqio has no task or mixture {self.name!r}: {hint}") from error

    def hash_module(self) -> str:
        """Hash the module and the files it imported from its folder, which define the task."""
        digest = hashlib.sha256()
        for path in self._import_files():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _import_files(self) -> tuple[Path, ...]:
        if not self.module:
            return ()
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        try:
            return _import_module(self.module)
        except Exception as error:
            raise UserError(
                f"--module {self.module}: cannot import it ({type(error).__name__}: {error})"
            ) from error


@functools.cache
def _import_module(module: str) -> tuple[Path, ...]:
    before = set(sys.modules)
    source = getattr(importlib.import_module(module), "__file__", None)
    if source is None:
        return ()
    brought = [sys.modules[name] for name in sys.modules.keys() - before]
    paths = {
        Path(file) for module_part in brought if (file := getattr(module_part, "__file__", None))
    }
    folder = Path(source).parent
    own = {path for path in paths if path.is_relative_to(folder)}
    # The folder may contain a virtual environment, whose packages do not define the task.
    own = {path for path in own if "site-packages" not in path.relative_to(folder).parts}
    return tuple(sorted(own | {Path(source)}))


def check_task(task: seqio.Task, vocabulary: VocabularyModel) -> None:
    """Check that examples of a task are inputs and targets in a vocabulary."""
    features = task.output_features
    if set(features) != set(FEATURES):
        kind = " (it is for decoders only)" if set(features) == {"targets"} else ""
        raise UserError(
            f"{task.name} has the features {', '.join(features)}{kind}: examples have inputs and "
            "targets"
        )
    for name, feature in features.items():
        if feature.rank != 1 or not feature.dtype.is_integer:
            raise UserError(f"{name} of {task.name} is not a list of ids: {feature}")
        model = getattr(feature.vocabulary, "sp_model", None)
        size = feature.vocabulary.vocab_size
        same = model is not None and remove_sentinels(model) == remove_sentinels(vocabulary.model)
        if not same or size != vocabulary.size:
            raise UserError(
                f"{name} of {task.name} has another vocabulary ({size:,} ids) than "
                f"{vocabulary.path} ({vocabulary.size:,} with its sentinels): give the task's, or "
                "register the task with this one (seqio.helpers.mixture_or_task_with_new_vocab)"
            )


def preprocess(
    task: seqio.Task,
    split: str,
    lengths: Lengths,
    *,
    shard: tuple[int, int] = (0, 1),
    draw: int = 0,
    take: int | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Yield a task's examples, unshuffled and without a cache; each shard has its own seeds.

    If a task draws nothing at random, its examples equal those of `get_dataset`.

    Inputs and targets are cut to `lengths`. `shard` is the number of a shard of the source, and the
    number of shards. `draw` seeds the steps after the task's cache; the seed of earlier steps is
    fixed. `take` is the number of examples of the source to use; by default all.
    """
    number, of = shard
    info = seqio.ShardInfo(number, of) if of > 1 else None
    by_name = {"inputs": lengths.inputs_length, "targets": lengths.targets_length}

    def seed_tensorflow(draw: int) -> int:
        seed = number * _SEEDS + draw
        tf.random.set_seed(seed)  # TensorFlow combines this seed with seqio's own seeds
        return seed

    try:
        before = seed_tensorflow(0)
        dataset = task.source.get_dataset(split=split, shuffle=False, shard_info=info)
        if take is not None:
            dataset = dataset.take(take)
        dataset = task.preprocess_precache(dataset, seed=before)
        dataset = task.preprocess_postcache(
            dataset, sequence_length=by_name, seed=seed_tensorflow(draw)
        )
        dataset = seqio.utils.trim_dataset(dataset, by_name, task.output_features)
        if missing := by_name.keys() - dataset.element_spec.keys():
            raise ValueError(f"the examples have no {min(missing)}")
        yield from dataset.as_numpy_iterator()
    except UserError:
        raise
    except Exception as error:  # preprocessors can raise anything
        reason = _OF_TENSORFLOW.sub("", str(error).strip().partition("\n")[0])
        raise UserError(
            f"{task.name}: {split} cannot be preprocessed ({type(error).__name__}: {reason}): "
            "repair the task or its files"
        ) from error
