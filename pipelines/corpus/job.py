"""What workers need to know of a build: where it is, its settings, and its recipe."""

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
    """What every task of a build is given; small, however long its lists are.

    Attributes:
        work: intermediate files, among them the lists of rules.
        config: see `CorpusConfig`.
        source: the source of a user's recipe.
        prepared: fields of steps as workers need them, by step and field.
        removals: records of what was taken out of the corpus that is added to.
    """

    work: WorkDirectory
    config: CorpusConfig
    source: RecipeSource | None = None
    prepared: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    removals: Records = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe; each thread has its own, and keeps it from call to call."""
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
    """Make a work directory, in which steps of the recipe store what their workers read."""
    for kind in ("pages", "rules"):
        storage.make_directory(work.directory(kind))
    directory = work.directory("rules")
    prepared = {step.name: step.prepare(directory) for step in recipe.steps}
    return Job(work, config, source, prepared, removals)
