"""Parameters of flows: the fields of configuration classes, one by one, as Prefect shows them.

    @flow(name="examples")
    @flat
    def examples(settings: ExamplesSettings) -> None: ...

The flow has a parameter for every field of `ExamplesSettings` and of the configuration classes in
it, with the description from its docstring, its bounds and choices, and its default. Prefect's form
and API so refuse what `mswitch.pipelines.config_checks.check_fields` refuses. A rule that concerns
several fields is checked when the classes are made, before the flow does anything.
"""

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_type_hints

from prefect.exceptions import CancelledRun, FailedRun
from prefect.logging import get_logger, get_run_logger
from prefect.states import Cancelled, Failed
from pydantic import Field
from pydantic.fields import FieldInfo

from mswitch.flows.stages.stage import value_of
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import lines_to

#: What the parameters of a configuration class are of.
GROUPS = {
    "CorpusConfig": "Corpus",
    "EvaluateConfig": "Evaluation",
    "ExamplesConfig": "Examples",
    "PredictConfig": "Predictions",
    "ReportConfig": "Report",
    "TrainConfig": "Training",
    "TuningConfig": "Training",
    "VocabularyConfig": "Vocabulary",
}
#: The field of a flow's settings whose own fields are parameters without a prefix.
CONFIG = "config"
#: What a person sets from day to day, in the order of forms, which show it on their first screen.
EVERYDAY = (
    *("name", "run", "tasks", "corpus", "examples", "pair", "inputs", "sample", "dump"),
    *("profile", "languages", "min_validation_documents", "badwords", "append", "runner"),
    *("vocabulary_file", "vocabulary_size", "inputs_length", "baseline", "candidate"),
    *("candidates", "seeds", "steps", "batch_size", "seed", "mixture", "mixtures", "launcher"),
    "max_cost_usd",
)


class JobCancelledError(UserError):
    """A person cancelled a job, or the flow run that followed it."""


def flat(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Give a flow's function, which takes one configuration class, a parameter for each field.

    What the user got wrong becomes a state Failed with the one line as its message; of a job that
    was cancelled, Cancelled.
    """
    [parameter] = inspect.signature(function).parameters.values()
    settings = parameter.annotation

    @functools.wraps(function)
    def flattened(**values: Any) -> Any:
        try:
            with lines_to(lambda lines: get_run_logger().info("\n".join(lines))):
                return function(configured(settings, values))
        except JobCancelledError as error:
            return Cancelled(message=str(error))
        except Exception as error:
            refusal = as_user_error(error)
            if refusal is None:
                raise
            return Failed(message=str(refusal))

    signature = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field, annotation=hint)
            for name, hint, field in parameters_of(settings)
        ]
    )
    flattened.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return flattened


class _RefusalsInOneLine(logging.Filter):
    """Leaves out the tracebacks that Prefect logs of a state Failed that was returned."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None:
            record.exc_info = None
        return kind is None or not issubclass(kind, FailedRun | CancelledRun)


for _name in ("flow_runs", "task_runs", "engine"):
    get_logger(_name).addFilter(_RefusalsInOneLine())


def parameters_of(settings: type) -> list[tuple[str, Any, FieldInfo]]:
    """Return name, type and description of each parameter that a class of settings has.

    What is for every day comes first, then what else is the flow's own. Titles of a configuration's
    further fields begin with it, such as `Evaluation: dtype`. They are not grouped in Prefect's
    way, by nested models: what a schedule or a call of the API sets replaces a deployment's
    parameters one by one, and would replace a group as a whole.
    """
    found = {one[0]: one for one in _flatten(settings(), "", "")}
    first = [found.pop(name) for name in everyday(found)]
    for name, _, field in first:
        field.title = _words(name)
    return first + sorted(found.values(), key=lambda one: ": " in (one[2].title or ""))


def everyday(names: Collection[str]) -> list[str]:
    """Those of a flow's parameters that are for every day; `seed` only of a single training."""
    other = "" if "steps" in names and "seeds" not in names else "seed"
    return [name for name in EVERYDAY if name in names and name != other]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _flatten(default: Any, prefix: str, group: str) -> Iterator[tuple[str, Any, FieldInfo]]:
    hints = get_type_hints(type(default), include_extras=True)
    docs = attribute_docs(type(default))
    for field in dataclasses.fields(default):
        value = value_of(default, field)
        if dataclasses.is_dataclass(value):
            kind = type(value).__name__
            yield from _flatten(value, _inner(prefix, field.name), GROUPS.get(kind, kind))
        else:
            text = docs[field.name]
            description = text[0].upper() + text[1:]
            yield (
                f"{prefix}{field.name}",
                hints[field.name],
                Field(
                    default=value,
                    description=description,
                    title=": ".join(filter(None, [group, _words(field.name)])),
                ),
            )


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the `Attributes:` of Google-style docstrings, with those of what a class extends."""
    docs: dict[str, str] = {}
    for one in reversed(cls.__mro__[:-1]):
        docs |= entries(one.__doc__ or "", "Attributes:")
    return docs


def entries(text: str, section: str) -> dict[str, str]:
    """Return the entries of a section of a Google-style docstring, which is its last."""
    found = inspect.cleandoc(text).partition(f"{section}\n")[2]
    parts = re.split(r"^    (\w+): ", found, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(description.split())
        for name, description in zip(parts[::2], parts[1::2], strict=True)
    }


def configured(settings: type, values: Mapping[str, Any]) -> Any:
    """Make the settings that values of parameters mean; what is not given has its default."""
    return _replaced(settings(), values, "")


def _replaced(default: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changes = {}
    for field in dataclasses.fields(default):
        value, name = value_of(default, field), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replaced(value, values, _inner(prefix, field.name))
        else:
            given = values.get(name, value)
            # A parameter that is not given may come as its description.
            changes[field.name] = given.default if isinstance(given, FieldInfo) else given
    return dataclasses.replace(default, **changes)


def flat_values(settings: Any) -> dict[str, Any]:
    """The values of parameters that mean these settings, as JSON has them."""
    values = {name: field.default for name, _, field in _flatten(settings, "", "")}
    return {name: list(of) if isinstance(of, tuple) else of for name, of in values.items()}


def _inner(prefix: str, name: str) -> str:
    return prefix if name == CONFIG else f"{prefix}{name}_"
