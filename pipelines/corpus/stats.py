"""Statistics of a published corpus."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.ledger import describe_drops
from mswitch.pipelines.languages import UNDETERMINED, find_language
from mswitch.pipelines.outputs import read_json_object, read_manifest
from mswitch.pipelines.records import SPLITS


def load_stats(corpus: str | Path) -> dict[str, Any]:
    """Return the `stats.json` of a published corpus."""
    read_manifest(corpus, "corpus")
    return read_json_object(storage.join(corpus, "stats.json"))


def add_up(value: Any, other: Any) -> Any:
    """Add the numbers of two JSON values of equal form; keep what only one value has."""
    if value is None or other is None or isinstance(value, str):
        return other if value is None else value
    if isinstance(value, Mapping):
        return {
            key: add_up(value.get(key), other.get(key)) for key in dict.fromkeys([*value, *other])
        }
    if isinstance(value, Sequence):
        return [add_up(*rows) for rows in zip(value, other, strict=True)]
    return value + other


def sum_languages(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per language of a `stats.json`, largest in bytes first.

    A row has lang, name, train and validation (documents of that split), documents, characters,
    bytes, and dropped (pages by reason, if their language was known).
    """
    dropped = stats.get("dropped_languages", {})
    rows = []
    for lang, splits in stats["languages"].items():
        total: collections.Counter[str] = collections.Counter()
        for split in splits.values():
            total.update(split)
        rows.append(
            {
                "lang": lang,
                "name": "undetermined" if lang == UNDETERMINED else find_language(lang).name,
                **{split: splits.get(split, {}).get("documents", 0) for split in SPLITS},
                **{key: total[key] for key in ("documents", "characters", "bytes")},
                "dropped": dropped.get(lang, {}),
            }
        )
    return sorted(rows, key=lambda row: (-row["bytes"], row["lang"]))


def format_stats(corpus: str | Path) -> str:
    """Return the statistics of a corpus as two tables: languages, and stages with drops."""
    stats = load_stats(corpus)
    rows = sum_languages(stats)
    columns = ["lang", "name", "train", "validation", "characters", "bytes"]
    table = [[*columns, "dropped"]]
    table += [
        [*(_format_cell(row[name]) for name in columns), _format_drops(row["dropped"])]
        for row in rows
    ]
    totals = (_format_cell(sum(row[name] for row in rows)) for name in columns[2:])
    table.append(["total", f"{len(rows)} languages", *totals, ""])
    stages = [["stage", "in", "out", "dropped"]]
    for stage in [*stats["stages"], {"name": "(lines)", **stats["lines"]}]:
        counts = (_format_cell(stage["in"]), _format_cell(stage["out"]))
        stages.append([stage["name"], *counts, _format_drops(stage["dropped"])])
    return align(table, text_columns={0, 1, 6}) + "\n\n" + align(stages, text_columns={0, 3})


def _format_drops(dropped: Mapping[str, int]) -> str:
    return describe_drops(dropped) or "-"


def _format_cell(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def align(table: Sequence[Sequence[str]], text_columns: Iterable[int]) -> str:
    """Format a table with columns of equal width; text is left, numbers are right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = set(text_columns)
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
