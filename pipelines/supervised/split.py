"""Assigns examples to splits by a hash of their group, so that no group is in two splits.

A group is folded before it is hashed. So `Save $1 pages?` and `save pages` are one group, and all
its examples, in all languages, are in one split.
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

#: Percentage of groups in each split.
SHARES = {"train": 80, "validation": 10, "test": 10}
#: Code points from here on are not checked: only private or ancient scripts have punctuation there.
_LAST_MARK = 0x11000


_PARAMETERS = re.compile(r"\$\d+|\{\{[^{}]*\}\}|<[^<>]*>")


@functools.cache
def _map_punctuation() -> Mapping[int, str]:
    r"""Map punctuation marks to spaces, but not vowel signs of Indic scripts, unlike `\W`."""
    marks = (code for code in range(_LAST_MARK) if unicodedata.category(chr(code))[0] == "P")
    return dict.fromkeys(marks, " ")


def fold(text: str) -> str:
    """Lower the case of a text; remove punctuation, tags, and placeholders such as `$1`.

    If nothing is left, return the text.
    """
    folded = text.casefold()
    if "$" in folded or "{{" in folded or "<" in folded:
        folded = _PARAMETERS.sub(" ", folded)
    return " ".join(folded.translate(_map_punctuation()).split()) or text


def key64(text: str) -> int:
    """Return a stable number of 63 bits for a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def hash_group(group: str) -> str:
    """Return a group's key: the first 16 hex digits of the SHA-256 of `fold(group)`."""
    return hashlib.sha256(fold(group).encode()).hexdigest()[:16]


def choose_split(key: str) -> str:
    """Return the split of the examples of a group, given its key."""
    place = int(key, 16) % 100
    ends = itertools.accumulate(SHARES.values())
    return next(split for split, end in zip(SHARES, ends, strict=True) if place < end)


def mark_overlap(table: pa.Table, splits: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Mark each row whose keys also occur in an earlier split.

    `table` has columns `split`, `group_key`, `inputs_key`, `pair_key`; `splits` are in order.

    Returns:
        Bool [rows] each: whether `groups`, `inputs`, `pairs` of inputs and targets occur in such a
        split; and `rows`, whether groups or inputs do.
    """
    names = np.asarray(table["split"])
    columns = {"groups": "group_key", "inputs": "inputs_key", "pairs": "pair_key"}
    marked = {kind: np.zeros(len(names), bool) for kind in columns}
    for number, split in enumerate(splits):
        own, before = names == split, np.isin(names, splits[:number])
        for kind, column in columns.items():
            keys = table[column].to_numpy()
            marked[kind][own] = np.isin(keys[own], keys[before])
    return {"rows": marked["groups"] | marked["inputs"], **marked}


def count_overlap(
    table: pa.Table, marked: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count the rows marked by `mark_overlap`, by language and split; omit splits without any."""
    langs, splits = (np.asarray(table[name]) for name in ("lang", "split"))
    overlap: dict[str, dict[str, dict[str, int]]] = {}
    shared = marked["rows"]
    for lang, split in sorted({*zip(langs[shared], splits[shared], strict=True)}):
        here = (langs == lang) & (splits == split)
        counts = {kind: int((mask & here).sum()) for kind, mask in marked.items()}
        overlap.setdefault(lang, {})[split] = counts
    return overlap
