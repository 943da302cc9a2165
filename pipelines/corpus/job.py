"""Description of a build for its workers."""

import dataclasses
import pickle
import threading
from collections.abc import Mapping
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.recipe_source import RecipeSource
from mswitch.pipelines.corpus.removed import Records
from mswitch.pipelines.corpus.work_directory import WorkDirectory


@dataclasses.dataclass(frozen=True)
class Job:
    """Description of a corpus build, sent to every task; it is small even if blocklists are long.

    Attributes:
        work: intermediate files, including the lists of rules.
        config: see `CorpusConfig`.
        source: the source of a user's recipe.
        prepared: values of fields for workers, by step and field.
        removals: records of earlier removals, if the build adds to a corpus.
    """

    work: WorkDirectory
    config: CorpusConfig
    source: RecipeSource | None = None
    prepared: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    removals: Records = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe; each thread loads its own copy once and keeps it."""
        key = pickle.dumps(self)
        if getattr(_per_thread, "key", None) != key:
            _per_thread.recipe = self.config.load(self.source).change(self.prepared)
            _per_thread.key = key
        return _per_thread.recipe


_per_thread = threading.local()


def prepare_job(
    work: WorkDirectory,
    config: CorpusConfig,
    recipe: Recipe,
    source: RecipeSource | None = None,
    removals: Records = (),
) -> Job:
    """Make the work directory; let steps of the recipe store files for workers in it."""
    for kind in ("pages", "rules"):
        storage.make_directory(work.directory(kind))
    directory = work.directory("rules")
    prepared = {step.name: step.prepare(directory) for step in recipe.steps}
    return Job(work, config, source, prepared, removals)
