"""How files are read, and where rows have the text, URL, date and record id of a page."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError

#: Where each part of a page is looked for; the first that has a value counts. A dot leads into an
#: object: datatrove writes `metadata`.
STANDARD_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("text",),
        "url": ("url", "metadata.url", "id"),
        "timestamp": tuple(
            path for name in ("timestamp", "date", "dump") for path in (name, f"metadata.{name}")
        ),
        "record_id": ("record_id", "id"),
    }
)


class Reading(NamedTuple):
    """How files are read; `CorpusConfig` says what each of these is for.

    Attributes:
        max_record_bytes: larger records, lines and rows are rejected.
        drop_metadata_lines: whether lines of a text that look like headers of WARC are dropped.
        html_main_content: whether of HTML only the main content is taken.
        fields: where JSONL and Parquet have each part of a page; see `map_fields`.
    """

    max_record_bytes: int = 16 << 20
    drop_metadata_lines: bool = True
    html_main_content: bool = True
    fields: Mapping[str, Sequence[str]] = STANDARD_FIELDS


def map_fields(given: Sequence[str] | None) -> Mapping[str, tuple[str, ...]]:
    """Return `STANDARD_FIELDS`, with those that are mapped replaced.

    Args:
        given: entries such as `text=content` or `url=page.link`; where several name the same part,
            the first that has a value counts.
    """
    mapped: dict[str, tuple[str, ...]] = {}
    for entry in given or ():
        part, _, path = entry.partition("=")
        if part not in STANDARD_FIELDS or not path:
            raise UserError(
                f"--field {entry}: give NAME=FIELD, where NAME is {', '.join(STANDARD_FIELDS)} "
                "and FIELD is a field of the input, such as text=content"
            )
        mapped[part] = (*mapped.get(part, ()), path)
    return MappingProxyType({**STANDARD_FIELDS, **mapped})


def find_value(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value under a path such as `metadata.url`, None if there is none."""
    if path in fields:
        return fields[path]
    outer, _, inner = path.partition(".")
    nested = fields.get(outer)
    return find_value(nested, inner) if inner and isinstance(nested, Mapping) else None


def field_names(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's fields, and the paths of those within its objects."""
    names = []
    for name, value in row.items():
        inner = value if isinstance(value, Mapping) else ()
        names += [f"{name}.{field}" for field in inner] or [name]
    return names


def describe_missing(part: str, paths: Sequence[str], names: Sequence[str], wrong: str = "") -> str:
    """Say that a row has no value for a part of a page, the option to give, and its fields.

    Args:
        part: a key of `STANDARD_FIELDS`.
        paths: where it was looked for.
        names: the fields that there are.
        wrong: what is wrong with the one that was found, if one was.
    """
    found = ", ".join(names) or "none"
    what = wrong or f"no {' or '.join(paths)}"
    return f"{what}: map a field with --field {part}=NAME; the fields are {found}"
