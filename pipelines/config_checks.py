"""Checks of configuration classes by their annotations: bounds, choices, finite numbers.

    @dataclasses.dataclass(frozen=True)
    class Config:
        steps: Annotated[int, Ge(1)] = 100
        share: Annotated[float, Gt(0), Le(1)] = 0.5
        optimizer: Literal["adafactor", "adamw"] = "adafactor"

        def __post_init__(self):
            check_fields(self)

The annotations are those of annotated-types, so Pydantic and its forms read them too.
"""

import dataclasses
import functools
import math
import operator
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.errors import UserError

#: A whole number that a device stores in 32 bits.
Count = Annotated[int, Ge(1), Le(2**31 - 1)]

Share = Annotated[float, Ge(0), Le(1)]

_Bound = Ge | Gt | Le | Lt
_BOUNDS = {
    Ge: (operator.ge, "at least"),
    Gt: (operator.gt, "above"),
    Le: (operator.le, "at most"),
    Lt: (operator.lt, "below"),
}


def check_fields(config: Any, table: str | None = None) -> None:
    """Check the fields of a dataclass against their annotations; None always passes.

    Messages put `table` before a field: `quality` for `quality.min_words`, or "" if the message
    already has it. If `table` is None, they name options.
    """
    for name, (bounds, choices) in constraints(type(config)).items():
        option = f"--{name.replace('_', '-')}" if table is None else f"{table}.{name}".lstrip(".")
        _check(option, getattr(config, name), bounds, choices)


def check_value(option: str, value: Any, annotation: Any) -> None:
    """Check a value, as `check_fields` does."""
    _check(option, value, *_find_constraints(annotation))


def _check(option: str, value: Any, bounds: list[_Bound], choices: list[Any]) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{option} must be a finite number, not {value}")
    is_word = isinstance(value, str)  # bounds apply to numbers; text has only choices
    limits = [(*_BOUNDS[type(bound)], *dataclasses.astuple(bound)) for bound in bounds]
    if not is_word and not all(compare(value, limit) for compare, _, limit in limits):
        words = " and ".join(f"{name} {limit:,}" for _, name, limit in limits)
        raise UserError(f"{option} must be {words}, not {value}")
    if choices and (is_word or not bounds) and value not in choices:
        known = " or ".join([*map(str, choices), *(["a number"] if bounds else [])])
        raise UserError(f"{option} {value} is unknown: choose {known}")


def parse_value(name: str, text: str, annotation: Any) -> Any:
    """Parse a value by the annotation of its field; commas separate the values of a list."""
    kind = next(part for part in _list_parts(annotation) if part is not types.NoneType)
    element = get_args(kind)[0] if get_origin(kind) is tuple else None
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if element:
            return tuple(element(part) for part in text.split(",") if part)
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError) as error:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        expected = "numbers separated by commas" if element else words[kind]
        raise UserError(f"{name}={text}: give {expected}") from error


@functools.cache
def constraints(kind: type) -> dict[str, tuple[list[_Bound], list[Any]]]:
    """Return bounds and choices by field name."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _find_constraints(hints[field.name]) for field in dataclasses.fields(kind)}


def _find_constraints(hint: Any) -> tuple[list[_Bound], list[Any]]:
    parts = list(_list_parts(hint))
    bounds = [part for part in parts if isinstance(part, _Bound)]
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    return bounds, choices


def _list_parts(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Annotated, Union, types.UnionType):
        for part in get_args(hint):
            yield from _list_parts(part)
    else:
        yield hint
