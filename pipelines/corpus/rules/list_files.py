"""Reads a user's lists (bad words, blocklists, evaluation sets)."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import any_code

#: Code, in a column of languages, for all languages that have no row of their own.
ALL = "*"


def list_remote_files(url: str) -> dict[str, int]:
    """Return the sizes of all files below a URL by path, relative to the URL."""
    if set(url) & set("*?["):
        raise UserError(f"{url} is a pattern: give each list, or the directory, without *, ? or [")
    sizes = storage.file_sizes(url.rstrip("/"))
    # Omit the empty objects that some tools make for folders.
    return {path: size for path, size in sizes.items() if path and not path.endswith("/")}


@contextlib.contextmanager
def open_list(path: str | Path, title: str) -> Iterator[BufferedReader]:
    """Open a list, or a temporary local copy of a remote list; errors call it `title`."""
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(storage.fetch(path))
            file = stack.enter_context(open(local, "rb"))
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UserError(
                f"cannot read {title} {storage.hide_secrets(path)} ({' '.join(reason.split())}): "
                "give a file that exists and can be read"
            ) from error
        yield file


def read_table(
    path: str | Path,
    title: str,
    take: Callable[[str, Mapping[str, str]], None],
    expected: str,
    *,
    columns: Sequence[str],
    all_languages: bool = False,
) -> None:
    """Read a CSV whose column `lang` has a code in each row; refuse a CSV without rows.

    Args:
        path: path or URL of the file.
        title: description of the file in errors.
        take: gets code and row; a KeyError, TypeError or ValueError refuses the file.
        expected: description of the expected columns in errors.
        columns: names that the first line must have, besides `lang`.
        all_languages: allow `ALL` as a code.
    """
    with open_list(path, title) as file:
        rows, taken = csv.DictReader(TextIOWrapper(file, encoding="utf-8-sig")), 0
        try:
            if missing := {"lang", *columns} - {*(rows.fieldnames or ())}:
                raise ValueError(f"no header with {', '.join(sorted(missing))}")
            for row in rows:
                is_all = all_languages and row["lang"] == ALL
                lang = ALL if is_all else any_code(row["lang"])
                if lang is None:
                    raise ValueError(f"unknown language {row['lang']!r}")
                if None in row or None in row.values():
                    raise ValueError(f"not {len(rows.fieldnames or ())} cells")
                take(lang, row)
                taken += 1
            if not taken:
                raise ValueError("no row after the header")
        except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
            shown = storage.hide_secrets(path)
            raise UserError(f"{shown}, line {rows.line_num}: {error!r}: give {expected}") from error
