"""Settings for reading files; finds the text, URL, date and record id of a page in a row."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from mswitch.pipelines.crawl.columns import Column
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.own_tables import read_own_table

#: Fields to search for each part of a page; the first field with a value counts. A dot leads to a
#: field within an object, such as datatrove's `metadata`.
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


class Form(NamedTuple):
    """Field names in the files of a published corpus.

    Attributes:
        name: name of the corpus.
        marks: fields that identify it; all must be present.
        fields: fields with parts of a page, if they differ from `STANDARD_FIELDS`.
        only: whether it must have no other fields.
    """

    name: str
    marks: frozenset[str]
    fields: Mapping[str, tuple[str, ...]]
    only: bool


#: Published corpora; a file is read like the first corpus whose fields fit it.
PUBLISHED = tuple(
    Form(
        row["name"],
        frozenset(row["marks"].split()),
        MappingProxyType({part: (row[part],) for part in STANDARD_FIELDS if row[part]}),
        row["only"] == "true",
    )
    for row in read_own_table("published_corpora.csv")
)
#: Beginning of the URL made for a row without one; the row's file and number follow.
MADE_URL = "file:///made/"


class Reading(NamedTuple):
    """Settings for reading files; `CorpusConfig` explains them.

    Attributes:
        max_record_bytes: larger records, lines and rows are rejected.
        drop_metadata_lines: whether to drop lines of text that look like WARC headers.
        html_main_content: whether to take only the main content of HTML.
        fields: fields of JSONL and Parquet with each part of a page; see `map_fields`.
        keep: further columns of JSONL and Parquet to keep.
        unread: columns of the file that cannot be read; if `keep` names one, its values are lost.
        made_url: beginning of the URL made for a row without one.
        form: published corpus whose fields the file has, or "".
    """

    max_record_bytes: int = 16 << 20
    drop_metadata_lines: bool = True
    html_main_content: bool = True
    fields: Mapping[str, Sequence[str]] = STANDARD_FIELDS
    keep: Sequence[Column] = ()
    unread: Collection[str] = ()
    made_url: str = MADE_URL
    form: str = ""

    def recognize(self, names: Iterable[str]) -> "Reading":
        """Return settings for reading a file whose fields are `names`.

        If the fields are those of a corpus in `PUBLISHED`, find the parts of a page in its fields,
        except parts that the user mapped.
        """
        # A path such as `a.b.c` shows that there are objects `a` and `a.b`.
        outer = (itertools.accumulate(name.split("."), "{}.{}".format) for name in names)
        present = set(itertools.chain.from_iterable(outer))
        for form in PUBLISHED:
            if form.marks <= present and not (form.only and present - form.marks):
                own = {part for part in form.fields if self.fields[part] == STANDARD_FIELDS[part]}
                # Not all rows may have this corpus's fields. So also search `STANDARD_FIELDS`.
                paths = {
                    part: tuple(dict.fromkeys((*form.fields[part], *STANDARD_FIELDS[part])))
                    for part in own
                }
                return self._replace(form=form.name, fields={**self.fields, **paths})
        return self


def map_fields(given: Sequence[str] | None) -> Mapping[str, tuple[str, ...]]:
    """Return the input fields of each part of a page: the user's, else `STANDARD_FIELDS`.

    Args:
        given: entries such as `text=content` or `url=page.link`; if several name the same part, the
            first field with a value counts.
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
    """Return the value at a path such as `metadata.url`, or None."""
    if path in fields:
        return fields[path]
    outer, _, inner = path.partition(".")
    nested = fields.get(outer)
    return find_value(nested, inner) if inner and isinstance(nested, Mapping) else None


def list_field_names(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's fields, and the paths of fields within its objects."""
    names = []
    for name, value in row.items():
        inner = value if isinstance(value, Mapping) else ()
        names += [f"{name}.{field}" for field in inner] or [name]
    return names


def describe_missing(part: str, paths: Sequence[str], names: Sequence[str], wrong: str = "") -> str:
    """Return the error message for a row that lacks a usable URL, text or other part.

    `part` is a key of `STANDARD_FIELDS`. The fields `paths` were searched; `names` are the row's
    fields; `wrong` is the problem with a field that exists, or "".
    """
    fields = ", ".join(names) or "none"
    problem = wrong or f"no {' or '.join(paths)}"
    return f"{problem}: map a field with --field {part}=NAME; the fields are {fields}"
