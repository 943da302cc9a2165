"""Splits that do not leak: by a hash of what examples have in common.

A group is folded before it is hashed: `Save $1 pages?` and `save pages` are one group, all of whose
examples, in all languages, are in one split.
"""

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Of 100 groups, so many are of each split.
SHARES = {"train": 80, "validation": 10, "test": 10}
#: Where there is punctuation: of later planes only private or ancient scripts have some.
_LAST_MARK = 0x11000


_PARAMETERS = re.compile(r"\$\d+|\{\{[^{}]*\}\}|<[^<>]*>")


@functools.cache
def _punctuation() -> Mapping[int, str]:
    r"""A space for each mark. Not `\W`, which has the vowel signs of Indic scripts."""
    marks = (code for code in range(_LAST_MARK) if unicodedata.category(chr(code))[0] == "P")
    return dict.fromkeys(marks, " ")


def fold(text: str) -> str:
    """What is left of a text without case, punctuation, tags and parameters; itself if nothing."""
    folded = text.casefold()
    if "$" in folded or "{{" in folded or "<" in folded:
        folded = _PARAMETERS.sub(" ", folded)
    return " ".join(folded.translate(_punctuation()).split()) or text


def key64(text: str) -> int:
    """A stable number of 63 bits for a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_key(group: str) -> str:
    """The name of a folded group: 16 hex digits of its SHA-256."""
    return hashlib.sha256(fold(group).encode()).hexdigest()[:16]


def split_of(key: str) -> str:
    """The split that a group's name puts its examples into."""
    place = int(key, 16) % 100
    ends = itertools.accumulate(SHARES.values())
    return next(split for split, end in zip(SHARES, ends, strict=True) if place < end)


def overlapping(table: pa.Table, splits: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Mark the rows of which a split that is named before their own has something.

    Args:
        table: columns `split`, `group_key`, `inputs_key`, `pair_key`.
        splits: in the order in which a split is held against those before it.

    Returns:
        [rows] each: `groups`, `inputs`, `pairs` of inputs and targets, and `rows` that have a group
        or inputs of such a split.
    """
    names = np.asarray(table["split"])
    columns = {"groups": "group_key", "inputs": "inputs_key", "pairs": "pair_key"}
    marked = {what: np.zeros(len(names), bool) for what in columns}
    for number, split in enumerate(splits):
        own, before = names == split, np.isin(names, splits[:number])
        for what, column in columns.items():
            keys = table[column].to_numpy()
            marked[what][own] = np.isin(keys[own], keys[before])
    return {"rows": marked["groups"] | marked["inputs"], **marked}


def count_overlap(
    table: pa.Table, marked: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count what `overlapping` marks, by language and split; those without are absent."""
    langs, splits = (np.asarray(table[name]) for name in ("lang", "split"))
    found: dict[str, dict[str, dict[str, int]]] = {}
    shared = marked["rows"]
    for lang, split in sorted({*zip(langs[shared], splits[shared], strict=True)}):
        here = (langs == lang) & (splits == split)
        counts = {what: int((mask & here).sum()) for what, mask in marked.items()}
        found.setdefault(lang, {})[split] = counts
    return found
