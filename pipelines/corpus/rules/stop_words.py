"""Function words of languages, if known; almost all running text in a language contains some.

`stop_words.csv` has about ten of each language's most frequent articles, pronouns, prepositions and
conjunctions. Lists of names, prices or keywords lack them. Chinese and Japanese ones are single
letters, as `words` cuts them without a segmenter.
"""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from mswitch.pipelines.corpus.rules.list_files import read_table
from mswitch.pipelines.corpus.rules.words import cut
from mswitch.pipelines.own_tables import read_own_table

STOP_WORDS = MappingProxyType(
    {row["lang"]: row["words"] for row in read_own_table("corpus/rules/stop_words.csv")}
)


@functools.cache
def hash_stop_words(words: str, *, whole: bool = False) -> np.ndarray:
    """Split stop words by `words.cut`, or only at spaces if `whole`; return sorted hashes."""
    found = cut([words])
    if not whole:
        return np.unique(found.hashes)
    spans = [match.span() for match in re.finditer(r"\S+", words.lower())]
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    return np.unique(found.characters.hash(starts, ends))


def read_stop_words(path: str) -> dict[str, str]:
    """Read stop words by language from a CSV (path or URL): lang, words (separated by spaces)."""
    lists: dict[str, str] = {}

    def take(lang: str, row: Mapping[str, str]) -> None:
        words = row["words"]
        lists[lang] = words if len(hash_stop_words(words)) else ""

    give = "lang and words, separated by spaces"
    read_table(path, "the stop words", take, give, columns=("words",))
    return lists
