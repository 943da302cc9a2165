"""Turn a class of settings into parameters of a flow; its form shows everyday fields first.

    @settings_flow("examples", "examples {name}")
    def examples(settings: ExamplesSettings) -> None: ...

A configuration class in `ExamplesSettings` is a group, which a form draws as tabs, closed at first.
Values of a group from a schedule or the API are merged with the deployment's defaults, field by
field.
"""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

from prefect import Flow, flow
from prefect.exceptions import CancelledRun, FailedRun
from prefect.logging import get_logger, get_run_logger
from prefect.states import Cancelled, Completed, Failed
from prefect.utilities.callables import parameter_docstrings
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from mswitch.flows.prefect.form_defaults import DEFAULTS, Parameters
from mswitch.flows.prefect.operators_toml import describe_problem
from mswitch.flows.prefect.owners import HOOKS
from mswitch.flows.prefect.run_names import make_namer
from mswitch.flows.stages.stage import read_value
from mswitch.pipelines.config_checks import check_value
from mswitch.pipelines.errors import UserError, as_user_error
from mswitch.pipelines.progress import lines_to, say

#: Prefix of each group's parameters: field `seed` of group `report` is parameter `report_seed`.
PREFIXES = {
    "changes": "changes_",
    "distillation": "distillation_",
    "evaluation": "evaluate_",
    "predictions": "predict_",
    "report": "report_",
    "vocabulary": "vocabulary_",
}
#: Default of parameters with old names. No parameter accepts it as a value.
NOT_GIVEN = ""


class JobCancelledError(UserError):
    """A person cancelled a job, or the flow run that followed it."""


class Leaf(NamedTuple):
    """A field of settings or of a group: its type with bounds, its value, and its description."""

    hint: Any
    value: Any
    text: str


def settings_flow(
    name: str, run_name: str | Callable[[], str], hooks: Mapping[str, Any] = HOOKS
) -> Callable[[Callable[[Any], str | None]], Flow[..., Any]]:
    """Make a flow of a function that takes one class of settings (see `with_settings`).

    `run_name` is a template of `make_namer`, or a function that names runs. `hooks` are Prefect's,
    by default those of flows that have jobs.
    """
    namer = make_namer(run_name) if isinstance(run_name, str) else run_name
    return lambda function: flow(name=name, flow_run_name=namer, **hooks)(with_settings(function))


def with_settings(function: Callable[[Any], str | None]) -> Callable[..., Any]:
    """Wrap a flow's function: replace its settings argument with a parameter per field or group.

    A text that it returns is the message of the state Completed. A user's error becomes a state
    Failed with one line as its message, and a cancelled job a state Cancelled.
    """
    settings = find_settings_class(function)

    @functools.wraps(function)
    def with_parameters(**values: Any) -> Any:
        try:
            with lines_to(lambda lines: get_run_logger().info("\n".join(lines))):
                said = function(make_settings(settings, values))
                return said if said is None else Completed(message=said)
        except JobCancelledError as error:
            return Cancelled(message=str(error))
        except Exception as error:
            refusal = as_user_error(error)
            if refusal is None:
                raise
            return Failed(message=str(refusal))

    default = settings()
    defaults = {name: leaf.value for name, leaf in list_top_level(default).items()}
    defaults |= dict.fromkeys(list_groups(default)) | dict.fromkeys(
        list_old_names(default), NOT_GIVEN
    )
    defaults |= dict.fromkeys(["defaults"] if settings in DEFAULTS else [])
    with_parameters.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in defaults.items()
        ]
    )
    return with_parameters


def find_settings_class(function: Callable[..., Any]) -> type:
    """Return the class of settings that a flow's function takes."""
    [parameter] = inspect.signature(inspect.unwrap(function)).parameters.values()
    return parameter.annotation


class _RefusalsInOneLine(logging.Filter):
    """Drops the tracebacks that Prefect logs if a function returns a state Failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None:
            record.exc_info = None
        return kind is None or not issubclass(kind, FailedRun | CancelledRun)


for _name in ("flow_runs", "task_runs", "engine"):
    get_logger(_name).addFilter(_RefusalsInOneLine())


@functools.cache
def describe(documented: Any) -> Mapping[str, str]:
    """Return a docstring's texts of arguments or attributes, including texts of base classes."""
    described: dict[str, str] = {}
    for kind in reversed(getattr(documented, "__mro__", (documented, object))[:-1]):
        # Prefect's parser reads only the section `Args`.
        text = inspect.cleandoc(kind.__doc__ or "").replace("Attributes:\n", "Args:\n")
        described |= parameter_docstrings(text)
    return {name: " ".join(text.split()) for name, text in described.items()}


def list_fields(settings: Any, prefix: str = "") -> dict[str, Leaf]:
    """Return all fields by dotted name, such as `name` and `training.steps`."""
    hints, texts = get_type_hints(type(settings), include_extras=True), describe(type(settings))
    all_leaves: dict[str, Leaf] = {}
    for field in dataclasses.fields(settings):
        value = read_value(settings, field)
        if dataclasses.is_dataclass(value):
            all_leaves |= list_fields(value, f"{field.name}.")
        else:
            all_leaves[prefix + field.name] = Leaf(
                hints[field.name], value, texts.get(field.name, "")
            )
    return all_leaves


def flatten_name(place: str) -> str:
    """Return the parameter name of a dotted field name: `report.seed` becomes `report_seed`."""
    group, _, field = place.rpartition(".")
    return PREFIXES.get(group, "") + field


def list_top_level(settings: Any) -> dict[str, Leaf]:
    """Return the top-level parameters of a form; fields in `settings.everyday` come first."""
    all_leaves = list_fields(settings)
    others = [place for place in all_leaves if "." not in place and place not in settings.everyday]
    return {flatten_name(place): all_leaves[place] for place in (*settings.everyday, *others)}


def list_groups(settings: Any) -> dict[str, dict[str, Leaf]]:
    """Return the fields of each group of a form, except fields at the top of the form."""
    by_group: dict[str, dict[str, Leaf]] = {}
    for place, leaf in list_fields(settings).items():
        group, _, field = place.rpartition(".")
        if group and place not in settings.everyday:
            by_group.setdefault(group, {})[field] = leaf
    return by_group


def list_old_names(settings: Any) -> dict[str, str]:
    """Map flat parameter names of earlier releases to the dotted names of today's fields."""
    places = (place for place in list_fields(settings) if place not in settings.everyday)
    return {flatten_name(place): place for place in places if "." in place}


def make_settings(kind: type, values: Mapping[str, Any]) -> Any:
    """Make settings from values of parameters; other parameters have their defaults.

    Raises:
        UserError: a parameter is unknown, or its value is wrong.
    """
    defaults = DEFAULTS.get(kind, {"": kind()})
    chosen = values.get("defaults") or next(iter(defaults))
    if chosen not in defaults:
        raise UserError(f"defaults {chosen!r} are unknown: choose {' or '.join(defaults)}")
    settings = defaults[chosen]
    known, groups, old = list_fields(settings), list_groups(settings), list_old_names(settings)
    places = {flatten_name(place): place for place in known}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name in groups:
            given |= {f"{name}.{field}": own_value for field, own_value in (value or {}).items()}
        elif name != "defaults" and (name not in old or value != NOT_GIVEN):
            given.setdefault(places.get(name, name), value)
    if renamed := [name for name in old if values.get(name, NOT_GIVEN) != NOT_GIVEN]:
        new = ", ".join(f"{name} as {old[name]}" for name in renamed)
        say("settings", f"give {new}: only this release accepts the old names")
    changes: dict[str, dict[str, Any]] = {}
    for place, value in given.items():
        if place not in known:
            raise UserError(f"{place} is unknown: choose among {', '.join(known)}")
        group, _, field = place.rpartition(".")
        changes.setdefault(group, {})[field] = _convert(place, value, known[place].hint)
    own = changes.pop("", {})
    own |= {group: _replace(getattr(settings, group), of) for group, of in changes.items()}
    return _replace(settings, own)


def _replace(config: Any, changes: Mapping[str, Any]) -> Any:
    values = {field.name: read_value(config, field) for field in dataclasses.fields(config)}
    return type(config)(**{**values, **changes})


def _convert(place: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        check_value(place, value, hint)
        raise UserError(describe_problem(error, place)) from error


def list_form_values(settings: Any) -> dict[str, Any]:
    """Return the values of a form's top-level parameters, converted for JSON."""
    return {name: to_jsonable_python(leaf.value) for name, leaf in list_top_level(settings).items()}


def make_form_schema(settings: Any, defaults: str = "") -> dict[str, Any]:
    """Return the parameters' JSON schema, which Prefect draws well in a form.

    If a flow has several such settings, `defaults` is their name. Forms do not draw this parameter.
    """
    definitions: dict[str, Any] = {}
    schema = _make_form(settings, definitions)
    if defaults:
        schema["patternProperties"]["^defaults$"] = {"enum": list(DEFAULTS[type(settings)])}
    return {**schema, "definitions": definitions}


def _make_form(settings: Any, definitions: dict[str, Any], changed: str = "") -> dict[str, Any]:
    """Return the schema of parameters, and add their groups to `definitions`.

    `changed` is the parameter that holds these settings. Their deployment's defaults are unknown,
    so none are shown.
    """
    properties = {}
    for name, leaf in list_top_level(settings).items():
        properties[name] = _draw_field(name, leaf, default=not changed)
        for mark in get_args(leaf.hint):
            if isinstance(mark, Parameters):
                definitions[name] = _make_form(mark.settings(), definitions, name)
                for given in mark.given:
                    del definitions[name]["properties"][given]
                properties[name] = _draw_tabs(name, leaf.text, name)
    texts = describe(type(settings))
    for group, fields in list_groups(settings).items():
        drawn = {
            name: _draw_field(name, leaf, default=not changed) for name, leaf in fields.items()
        }
        definition = f"{changed}.{group}".lstrip(".")
        definitions[definition] = _make_object(drawn)
        properties[group] = _draw_tabs(group, texts[group], definition)
    old = list_old_names(settings)
    return _make_object(properties) | {
        "patternProperties": {f"^({'|'.join(old)})$": {}} if old else {}
    }


def _make_object(properties: dict[str, Any]) -> dict[str, Any]:
    # A database may store the properties in another order.
    for position, drawn in enumerate(properties.values()):
        drawn["position"] = position
    return {
        "type": "object",
        "title": "Change",
        "properties": properties,
        "additionalProperties": False,
    }


def _draw_tabs(name: str, text: str, definition: str) -> dict[str, Any]:
    closed = {"type": "object", "title": "Defaults", "properties": {}}
    opened = {"$ref": f"#/definitions/{definition}"}
    # `then` makes the server check the group's fields, and its error names the invalid field.
    # With `$ref` in place of `then`, the form would open the group and send its defaults.
    tabs = {"anyOf": [closed, opened], "if": True, "then": opened}
    return {**_describe_field(name, text), **tabs}


def _draw_field(name: str, leaf: Leaf, *, default: bool) -> dict[str, Any]:
    """Return the schema of a field; if its default is None, an empty field means None."""
    schema = TypeAdapter(leaf.hint).json_schema()
    kinds = schema.pop("anyOf", [])
    if leaf.value is None or not default:
        kinds = [kind for kind in kinds if kind.get("type") != "null"]
    schema |= {"anyOf": kinds} if len(kinds) > 1 else dict(*kinds)
    if default and leaf.value is not None:
        schema["default"] = to_jsonable_python(leaf.value)
    return {**schema, **_describe_field(name, leaf.text)}


def _describe_field(name: str, text: str) -> dict[str, str]:
    title = name.strip("_").replace("_", " ").capitalize()
    return {"title": title, "description": text[:1].upper() + text[1:]}
