"""Settings that identify an output; a field added later is omitted at its default value."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from mswitch.pipelines.own_tables import read_own_table


def identifying_settings(value: Any) -> Any:
    """Return a configuration as a table, without fields at their default.

    So outputs and runs keep their identity if a class gets a new field. Fields in first_fields.csv
    are always in the table, since hashes of earlier outputs include them.
    """
    if dataclasses.is_dataclass(value):
        return {name: identifying_settings(getattr(value, name)) for name in identifying(value)}
    if isinstance(value, Mapping):
        return {key: identifying_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identifying_settings(item) for item in value]
    return value


def identifying(config: Any) -> list[str]:
    """Return the names of the fields of a dataclass that identify an output."""
    kinds = [kind for kind in type(config).__mro__ if kind.__module__.startswith("mswitch.")]
    listed = next(
        (names for kind in kinds if (names := _read_first_fields().get(kind.__name__))), None
    )
    # A user's rule is identified by its source and by all fields that it declares.
    theirs = (kind for kind in type(config).__mro__ if kind not in kinds)
    own = {name for kind in theirs for name in vars(kind).get("__annotations__", {})}
    return [
        field.name
        for field in dataclasses.fields(config)
        if field.name in own
        or field.name in (listed or ())
        or getattr(config, field.name) != _get_default(field)
    ]


def _get_default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


@functools.cache
def _read_first_fields() -> dict[str, list[str]]:
    return {row["class"]: row["fields"].split() for row in read_own_table("first_fields.csv")}
