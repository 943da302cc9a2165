"""Distinguishes Croatian, Bosnian and Serbian in Latin letters by spelling and words.

Identifiers by character n-grams confuse them (CLD3 calls Latin-script Serbian Bosnian). Grammars
name the differences: the reflex of old *yat* (ekavian `vreme` in Serbian; ijekavian `vrijeme` in
the others), pronouns (`tko` or `ko`), the future tense (`bit će` or `biće`), `da` with the present
tense for the infinitive, months, loanwords (`-izirati` or `-izovati`) and everyday words.
`south_slavic_cues.csv` lists the differences with the languages that use each.

Limits: ekavian forms identify Serbian, so ijekavian Serbian and Montenegrin count as Bosnian.
Bosnian has few forms of its own and shares forms with both neighbours, so its results on short text
are the worst of the three.
"""

import functools
import math
import re
from typing import NamedTuple

from mswitch.pipelines.own_tables import read_own_table

LANGUAGES = ("bs", "hr", "sr-Latn")
#: If a text contains a word typical of some languages, the languages' odds are multiplied by
#: `_ODDS` to the power of the word's weight.
_ODDS = 4.0
#: Count at most this many matches of a cue, because a page repeats its words.
_MOST_HITS = 3


class Cue(NamedTuple):
    """Pattern of words typical of some languages, and its weight as evidence."""

    languages: frozenset[str]
    weight: float
    pattern: re.Pattern[str]


@functools.cache
def cues() -> tuple[Cue, ...]:
    """Read south_slavic_cues.csv and compile its patterns of typical words."""
    return tuple(
        Cue(
            frozenset(row["languages"].split()),
            float(row["weight"]),
            re.compile(rf"\b(?:{row['pattern']})\b"),
        )
        for row in read_own_table("corpus/rules/south_slavic_cues.csv")
    )


def probabilities(text: str) -> dict[str, float]:
    """Return the probability of each of LANGUAGES, for a text known to be in one of them.

    All languages start equal; each hit of a cue multiplies the odds of languages that use it.
    """
    lowered = text.lower()
    points: dict[str, float] = dict.fromkeys(LANGUAGES, 0.0)
    for cue in cues():
        hits = min(_MOST_HITS, sum(1 for _ in cue.pattern.finditer(lowered)))
        for language in cue.languages:
            points[language] += cue.weight * hits
    best = max(points.values())
    odds = {language: _ODDS ** (value - best) for language, value in points.items()}
    total = math.fsum(odds.values())
    return {language: value / total for language, value in odds.items()}
