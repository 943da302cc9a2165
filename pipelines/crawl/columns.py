"""Columns of JSON Lines and Parquet that a corpus keeps: their names, kinds and values."""

import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import COLUMN_MEANINGS

#: Arrow types of kept columns. Lists, objects, dates and others become text.
KINDS = ("bool", "int64", "float64", "string")
#: Kind of Parquet's lists and maps, not read because few bytes can expand to any number of values.
LIST = "list"
#: Entry of --keep that keeps all columns.
ALL = "all"
#: Key in a page's `columns`: the names of kept columns whose values were dropped.
LOST = "_lost"
MAX_VALUE_BYTES = 64 << 10
_MOST_COLUMNS = 256
_NAME = re.compile(r"[\w-]{1,100}")
#: Columns that a build itself writes, into the corpus or its intermediate files.
_OWN = {
    *COLUMN_MEANINGS, "band_keys", "characters", "lang_margin", "line_hashes", "lines", "marked",
    "marked_by", "own_line_keys", "timestamp_micros",
}  # fmt: skip


class Column(NamedTuple):
    """A column of the input that a corpus keeps.

    Attributes:
        path: path in a row, such as `metadata.dump`.
        kind: one of `KINDS`, or "" if nobody has looked into the input yet.
    """

    path: str
    kind: str = ""

    @property
    def name(self) -> str:
        """Column name in the corpus: dots become underscores, and a reserved name gets a prefix."""
        name = self.path.replace(".", "_")
        return f"input_{name}" if name in _OWN or name.startswith("_") else name


def parse_columns(entries: Sequence[str] | None) -> tuple[Column, ...]:
    """Parse columns given as `PATH` or `PATH=KIND`; skip the entry `all`."""
    columns = [Column(*entry.split("=", 1)) for entry in entries or () if entry != ALL]
    for column in columns:
        if column.kind not in ("", *KINDS):
            raise UserError(f"--keep {column.path}={column.kind}: choose {', '.join(KINDS)}")
        if not _NAME.fullmatch(column.name):
            raise UserError(
                f"--keep {column.path}: a name has letters, digits, `_`, `-` and dots, and at most "
                "100 of them: rename the column"
            )
    return tuple(columns)


def choose_columns(
    wanted: Sequence[str], kinds: Mapping[str, str], parts: Set[str], where: str
) -> tuple[str, ...]:
    """Return the entries `PATH=KIND` of the wanted columns, in the order of their names.

    Args:
        wanted: entries `PATH` or `PATH=KIND`; `all` means every column that can be kept; of
            columns with equal names, the first.
        kinds: kinds of the input's columns by path, or `LIST`.
        parts: paths that are parts of a page: `all` omits them.
        where: what has these columns, for errors.
    """
    columns = parse_columns(wanted)
    missing = [column.path for column in columns if column.path not in kinds]
    if missing:
        raise UserError(
            f"--keep, --language-from: {where} has no column {missing[0]}: choose among "
            f"{', '.join(kinds) or 'none'}"
        )
    lists = {path for path, kind in kinds.items() if kind == LIST}
    if unread := [column.path for column in columns if column.path in lists]:
        raise UserError(
            f"--keep, --language-from: {unread[0]} is a list in Parquet, which is not read: omit "
            "it, or convert the column to text or the files to JSON Lines"
        )
    named = {column.name: column for column in columns}
    for column in map(Column, sorted(kinds.keys() - parts - lists) if ALL in wanted else ()):
        if _NAME.fullmatch(column.name):
            named.setdefault(column.name, column)
    chosen = {column.path: column for column in (*columns, *named.values())}
    if len(chosen) > _MOST_COLUMNS:
        raise UserError(f"--keep: {len(chosen)} columns, at most {_MOST_COLUMNS}: name fewer")
    ordered = sorted(chosen.values(), key=lambda column: (column.name, column.path))
    return tuple(f"{column.path}={column.kind or kinds[column.path]}" for column in ordered)


def find_kind(value: Any) -> str:
    """Return the kind of a value of JSON; "" for null."""
    kinds = {bool: "bool", int: "int64", float: "float64", type(None): ""}
    return kinds.get(type(value), "string")


def join_kinds(kind: str, other: str) -> str:
    """Return the kind that can hold the values of both kinds."""
    if {kind, other} == {"int64", "float64"}:
        return "float64"
    return kind or other if kind == other or "" in (kind, other) else "string"


def convert_value(value: Any, kind: str) -> Any:
    """Convert a value to a kind; return None if it is null, too long, or not convertible."""
    if value is None:
        return None
    if kind in ("", "string"):
        return _write_text(value)
    if isinstance(value, bool) or kind == "bool":
        return value if isinstance(value, bool) and kind == "bool" else None
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value) if kind == "float64" else int(value)
    except (OverflowError, ValueError):
        return None
    whole = kind == "float64" or (number == value and -(1 << 63) <= number < 1 << 63)
    return number if whole else None


def _write_text(value: Any) -> str | None:
    try:
        if isinstance(value, bool | int | float | list | dict):
            value = json.dumps(value, ensure_ascii=False)
        elif not isinstance(value, str):
            value = value.isoformat() if hasattr(value, "isoformat") else str(value)
        return value if len(value.encode()) <= MAX_VALUE_BYTES else None
    except (RecursionError, ValueError):  # ValueError is also raised for half of a surrogate pair.
        return None
