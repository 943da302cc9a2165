"""Croatian, Bosnian and Serbian in Latin letters, told apart by spelling and words.

They are close enough that identifiers by character n-grams mix them up (CLD3 calls Latin-script
Serbian Bosnian). What separates them is known from grammars: the reflex of old *yat* (ekavian
`vreme`, `mesto` in Serbian; ijekavian `vrijeme`, `mjesto` in the others), pronouns (`tko` or `ko`,
`šta`), the future tense (`bit će` or `biće`), `da` with the present tense for the infinitive,
months, loanwords (`-izirati` or `-izovati`) and everyday lexis. `south_slavic_cues.csv` lists them
with the languages that use each.

Limits: Serbian is found by ekavian forms, so ijekavian Serbian and Montenegrin count as Bosnian;
Bosnian has few forms to itself and is what shares forms with both neighbours, so on short text it
is the weakest of the three.
"""

import functools
import math
import re
from typing import NamedTuple

from mswitch.pipelines.corpus.rules.list_files import own_table

LANGUAGES = ("bs", "hr", "sr-Latn")
#: How much likelier a cue is in a language that uses it, per unit of weight.
_ODDS = 4.0
#: Further hits of the same line of cues say little more: a page repeats its words.
_MOST_HITS = 3


class Cue(NamedTuple):
    """A line of the table: words (as one pattern), who uses them, how much they weigh."""

    languages: frozenset[str]
    weight: float
    pattern: re.Pattern[str]


@functools.cache
def cues() -> tuple[Cue, ...]:
    """The table, compiled."""
    return tuple(
        Cue(
            frozenset(row["languages"].split()),
            float(row["weight"]),
            re.compile(rf"\b(?:{row['pattern']})\b"),
        )
        for row in own_table("south_slavic_cues.csv")
    )


def probabilities(text: str) -> dict[str, float]:
    """Return how likely each of LANGUAGES is for a text known to be in one of them.

    Every language starts equal; each hit of a cue multiplies the odds of those that use it.
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
