"""Mixtures of tasks: corrupted text and supervised tasks, each with a mixture of languages.

    [tasks.mc4]
    directory = "examples"  # from `mswitch examples build`
    virtual = 2_620_000     # number of examples to count

    [tasks.reviews]
    directory = "reviews"   # from `mswitch examples supervised`
    cap = 65_536
    alpha = 0.3             # or any other field of `mswitch.tasks.batches.mixtures.Mixture`

Rates of tasks are T5's (Raffel et al. 2020, section 3.5.2), as in seqio's
`mixing_rate_num_examples`. The languages of a task share its rate, as in nested seqio mixtures. A
leaf is a language of a task, `reviews/sw`.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from mswitch.pipelines import storage
from mswitch.pipelines.capped_budget import normalise
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.batches.mixtures import FILE_SUFFIX, Mixture, is_number, parse_mixture

#: Name of the only task if a mixture names no tasks.
ALONE = ""
_NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True)
class WeightedTask:
    """Task weighted by `min(examples * scale, cap) ** (1 / task_temperature)`, or by a given rate.

    Attributes:
        directory: its examples.
        rate: its rate, instead of the following four; 0 leaves the task out.
        virtual: number of examples to count, instead of its own.
        cap: largest number of examples to count (T5's K).
        scale: factor on the examples, before the cap.
        task_temperature: flattens rates of tasks, after the cap; 1 is proportional to examples.
        mixture: sampling rates of its languages.
    """

    directory: str
    rate: Annotated[float, Ge(0)] | None = None
    virtual: Annotated[float, Ge(1)] | None = None
    cap: Annotated[float, Ge(1)] | None = None
    scale: Annotated[float, Gt(0)] = 1.0
    task_temperature: Annotated[float, Gt(0)] = 1.0
    mixture: Mixture = Mixture()  # noqa: RUF009, it is frozen

    def __post_init__(self) -> None:
        check_fields(self, "")
        others = (self.virtual, self.cap, self.scale, self.task_temperature)
        if self.rate is not None and others != (None, None, 1.0, 1.0):
            raise UserError("give a rate, or virtual, cap, scale and task_temperature, not both")

    def weight(self, records: int) -> float:
        """Return the task's weight, its share before normalising."""
        if self.rate is not None:
            return self.rate
        size = (self.virtual or records) * self.scale
        capped = size if self.cap is None else min(size, self.cap)
        return float(capped) ** (1 / self.task_temperature)


def name_leaf(task: str, lang: str) -> str:
    """Return the name of a leaf: `task/lang`, or `lang` if the mixture names no tasks."""
    return lang if task == ALONE else f"{task}/{lang}"


@dataclasses.dataclass(frozen=True)
class TaskMixture:
    """The tasks of a training, and their rates.

    Attributes:
        tasks: tasks by name, sorted.
    """

    tasks: Mapping[str, WeightedTask]

    @property
    def directories(self) -> tuple[str, ...]:
        """Examples directory of each task."""
        return tuple(task.directory for task in self.tasks.values())

    @property
    def definition(self) -> dict[str, Any]:
        """Identity of the mixture as JSON, without paths."""
        described = identifying_settings(self.tasks)
        if ALONE in described:
            return described[ALONE]["mixture"]
        for fields in described.values():
            del fields["directory"]
        return {"tasks": described}

    def compute_shares(self, records: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """Return the sampling rate of each task; the rates sum to 1.

        `records` counts training examples by task and language.
        """
        weights = {}
        for name, task in self.tasks.items():
            count = sum(records[name].get(lang, 0) for lang in task.mixture.members(records[name]))
            if task.rate != 0:
                weights[name] = task.weight(max(1, count))  # `rates` refuses tasks without records
        if not weights:
            raise UserError(f"rate is 0 for all of {', '.join(self.tasks)}: give one of them more")
        return normalise(weights)

    def rates(
        self, records: Mapping[str, Mapping[str, int]], budget: float | None = None
    ) -> dict[str, float]:
        """Return the sampling rate of each language of each task; rates sum to 1.

        Args:
            records: training examples by task and language.
            budget: examples of the whole training; only `max_epochs` needs it.
        """
        rates_by_leaf = {}
        for name, share in self.compute_shares(records).items():
            own = None if budget is None else budget * share
            try:
                if not any(records[name].values()):
                    _explain_splits(self.tasks[name].directory)
                rates = self.tasks[name].mixture.rates(records[name], own)
            except UserError as error:
                raise (error if name == ALONE else UserError(f"task {name}: {error}")) from error
            rates_by_leaf |= {name_leaf(name, lang): share * rate for lang, rate in rates.items()}
        return rates_by_leaf

    def list_exceeding(self, records: Mapping[str, Mapping[str, int]], budget: float) -> list[str]:
        """Return the tasks whose `max_epochs` cannot hold, because the training is too long."""
        return [
            name
            for name, share in self.compute_shares(records).items()
            if self.tasks[name].mixture.exceeds(records[name], budget * share)
        ]


def _explain_splits(directory: str) -> None:
    described = read_manifest(directory, "examples")["languages"].values()
    if splits := sorted({split for by_split in described for split in by_split} - {"train"}):
        raise UserError(
            f"{directory} only has {' and '.join(splits)} examples, for prediction or evaluation: "
            "build the task with training examples"
        )


def open_task_mixture(examples: str | Path, mixture: Mixture | None = None) -> TaskMixture:
    """Return the task mixture of an examples directory, or of a TOML file with several tasks.

    `mixture` has the sampling rates of the directory's languages.
    """
    if not str(examples).endswith(FILE_SUFFIX):
        alone = WeightedTask(str(examples), mixture=mixture or Mixture())
        return TaskMixture({ALONE: alone})
    if mixture not in (None, Mixture()):
        raise UserError(f"{examples} has a mixture for each task: leave --mixture out")
    return read_task_mixture(examples)


def read_task_mixture(path: str | Path) -> TaskMixture:
    """Read a TOML file with a table `[tasks.NAME]` for each task.

    A table has attributes of `WeightedTask` and, for its languages, of `Mixture`. Directories are
    relative to the file.
    """
    try:
        given = tomllib.loads(storage.read_bytes(path).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the tasks {path} ({error}): give a TOML file") from error
    tables = given.pop("tasks", None)
    if given or not isinstance(tables, dict) or not tables:
        raise UserError(f"{path}: give a table [tasks.NAME] for each task, and nothing else")
    folder = os.path.dirname(path)
    return TaskMixture(
        {name: _parse_task(name, tables[name], path, folder) for name in sorted(tables)}
    )


def _parse_task(name: str, table: Any, path: str | Path, folder: str) -> WeightedTask:
    where = f"{path}: task {name}"
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: use letters, digits, _, . and - for its name")
    if not isinstance(table, dict) or not isinstance(table.get("directory"), str):
        raise UserError(f'{where}: give it directory = "..."')
    numbers = [field.name for field in dataclasses.fields(WeightedTask)][1:-1]
    own = {name: table[name] for name in numbers if name in table}
    for field, value in own.items():
        if not is_number(value):
            raise UserError(f"{where}: {field} = {value!r} is not a number")
    directory = table["directory"]
    if storage.is_remote(folder) and not storage.is_remote(directory):
        directory = storage.join(folder, directory)
    elif not storage.is_remote(directory):
        directory = os.path.normpath(os.path.join(folder, directory))
    rest = {k: v for k, v in table.items() if k != "directory" and k not in own}
    mixture = parse_mixture(rest, where, numbers)
    try:
        return WeightedTask(directory, mixture=mixture, **own)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
