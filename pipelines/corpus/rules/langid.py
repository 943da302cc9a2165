"""Language identification by CLD2, by CLD3 where it is in doubt, and by the script.

CLD3 alone (mC4's way, `langid_mc4`) is sure of itself on text in languages it has no
label for, and loses Croatian, Bosnian and Latin-script Serbian. CLD2 knows 60 languages more, and
says how many points per kB a text scores in its best language. That figure is what separates a
language from its unlisted relatives: for one language it is nearly the same in software messages
and in legal prose, and relatives reach about half of it. `language_policy.csv` has it per language,
with who decides. docs/explain/language-identification.md has the measurements.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import gcld3

from mswitch.pipelines.corpus.rules import south_slavic
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.rules.list_files import own_table
from mswitch.pipelines.corpus.rules.text_script import main_script, script_counts, share_in_script
from mswitch.pipelines.languages import UNDETERMINED, languages
from mswitch.pipelines.records import Page

#: Why a text is undetermined; "" where its language is known.
Reason = Literal[
    "",
    "no_guess",
    "low_confidence",
    "few_points",
    "identifiers_disagree",
    "other_language",
    "script_mismatch",
]
#: CLD2's codes where they differ from mC4's. Nynorsk is Norwegian, traditional Chinese is Chinese.
_CLD2_CODES = {"jw": "jv", "tl": "fil", "zh-Hant": "zh", "nn": "no"}
#: What CLD2 refuses: control characters and code points that are not characters.
_REFUSED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)

#: CLD3 gives no answer for shorter text.
MIN_BYTES = 100
#: How much of a text the identifiers look at: of a longer one, three pieces (`sample`). The South
#: Slavic cues, which are rare, look at three times as much.
MAX_CHARACTERS = 3_000
#: Lowest share of letters in the language's own script.
MIN_SCRIPT_SHARE = 0.5
#: Lowest share of a language's usual CLD2 points that counts. Unlisted relatives reach 0.3 to 0.6,
#: text in the language 0.75 and more; the value leaves room for pages less tidy than those it was
#: chosen on.
MIN_POINTS_SHARE = 0.6
#: How much of a text must be in one language for CLD2 to decide alone.
MIN_CLD2_PERCENT = 90
#: With more points in any language, text is not one that CLD2 lacks.
ROMANISED_POINTS = 450
#: Weight of each identifier's own label beside the South Slavic cues.
AGREEMENT_ODDS = 1.5


@dataclasses.dataclass(frozen=True)
class LanguagePolicy:
    """One row of language_policy.csv.

    Attributes:
        decided_by: `cld2`, or both together where it is in doubt; `cld3` where CLD2 has no label
            for the language; `cues` (`mswitch.pipelines.corpus.rules.south_slavic`).
        cld3_probability: lowest probability with which CLD3's label counts.
        cld2_points: CLD2's usual points per kB for text in this language.
    """

    decided_by: str
    cld3_probability: float
    cld2_points: float


@functools.cache
def language_policies() -> Mapping[str, LanguagePolicy]:
    """The table, by code of languages.csv; every language has a row."""
    return MappingProxyType(
        {
            row["code"]: LanguagePolicy(
                row["decided_by"], float(row["cld3_probability"]), float(row["cld2_points"])
            )
            for row in own_table("language_policy.csv")
        }
    )


class Identification(NamedTuple):
    """The language of a text, and what else was considered.

    Attributes:
        lang: a code of languages.csv, or `und`.
        score: from 0 to 1, by who decided: the share of the language's usual CLD2 points, CLD3's
            probability, or the cues' probability. For `und`, that of `second`.
        second: the best label that was not given, which for `und` is the best guess; a code of
            languages.csv or one of CLD2's other codes; "" if there is none.
        second_score: its score, as above.
        script: the text's main script.
        reason: why the language is `und`, or "".
    """

    lang: str
    score: float
    second: str
    second_score: float
    script: str
    reason: Reason


class Guess(NamedTuple):
    """What one identifier says.

    Attributes:
        lang: a code of languages.csv or another of CLD2's; "" if it has no guess.
        share: CLD3's probability, CLD2's share of the text, or the cues' probability.
        points: CLD2's points per kB of text.
        reliable: whether CLD2 calls its answer reliable.
    """

    lang: str
    share: float
    points: float = 0.0
    reliable: bool = True


NO_GUESS = Guess("", 0.0, reliable=False)


def cld2_guesses(text: str, *, latin: bool) -> list[Guess]:
    """Return CLD2's guesses, at least one, that for most of the text first.

    Args:
        text: anything that UTF-8 can encode; what CLD2 refuses is replaced by spaces.
        latin: whether the text is mostly in Latin script, which tells Serbian's two forms apart.
    """
    import pycld2

    try:
        reliable, _, found = pycld2.detect(text, isPlainText=True, bestEffort=True)
    except pycld2.error:  # cheaper than looking for what it refuses in every text
        cleaned = _REFUSED.sub(" ", text)
        reliable, _, found = pycld2.detect(cleaned, isPlainText=True, bestEffort=True)
    guesses = [
        Guess(_code(code, latin), percent / 100, points, reliable)
        for _, code, percent, points in found
        if code != "un"
    ]
    return guesses or [NO_GUESS]


def sample(text: str, characters: int) -> str:
    """Return a text or, of a longer one, its beginning, middle and end: `characters` in all."""
    if len(text) <= characters:
        return text
    piece = characters // 3
    last = len(text) - piece
    return "\n".join(text[start : start + piece] for start in (0, last // 2, last))


class TwoIdentifiers:
    """Labels text with the codes of languages.csv. An instance serves one thread at a time."""

    def __init__(self):
        self._cld3 = gcld3.NNetLanguageIdentifier(
            min_num_bytes=MIN_BYTES, max_num_bytes=4 * MAX_CHARACTERS
        )
        self._policies = language_policies()

    def identify(self, text: str) -> Identification:
        """Return the language of `text`, or `und` and why."""
        seen = sample(text, MAX_CHARACTERS).encode("utf-8", "replace").decode()
        counts = script_counts(seen)
        script = main_script(counts)
        cld2, *others = cld2_guesses(seen, latin=script == "Latn")
        choice, second, reason = self._decide(cld2, seen, script, text)
        if choice.lang and not reason:
            share = share_in_script(counts, languages()[choice.lang])
            if share < MIN_SCRIPT_SHARE:
                reason = "script_mismatch"
        score = min(1.0, self._score(choice))
        if reason:
            return Identification(UNDETERMINED, score, choice.lang, score, script, reason)
        guesses = (second, cld2, *others)
        other = next((guess for guess in guesses if guess.lang not in ("", choice.lang)), NO_GUESS)
        return Identification(choice.lang, score, other.lang, self._score(other), script, reason)

    def _decide(
        self, cld2: Guess, seen: str, script: str, text: str
    ) -> tuple[Guess, Guess, Reason]:
        """Return the best guess, CLD3's where it was asked, and why the best is not good enough.

        CLD3 takes five times as long as CLD2, and is asked only where CLD2 leaves a doubt.
        """
        group = cld2.lang in south_slavic.LANGUAGES
        alone = self._stands_alone(cld2)
        if alone and not group and cld2.points >= ROMANISED_POINTS:
            return cld2, NO_GUESS, self._listed(cld2)
        cld3 = self._ask_cld3(seen, latin=script == "Latn")
        policy = self._policies.get(cld3.lang)
        if policy and policy.decided_by == "cld3" and self._sure(cld3) and not self._foreign(cld2):
            return cld3, cld3, ""
        if group and (self._has_points(cld2) or cld3.lang in south_slavic.LANGUAGES):
            return self._by_cues(cld3, cld2, text), cld3, ""
        if alone:
            return cld2, cld3, self._listed(cld2)
        reason = self._doubt(cld3, cld2)
        return cld3 if reason == "identifiers_disagree" else cld2, cld3, reason

    def _doubt(self, cld3: Guess, cld2: Guess) -> Reason:
        """Why the two guesses do not settle a language between them, or "" if they do."""
        if not cld3.lang:
            return "low_confidence" if cld2.lang else "no_guess"
        if cld3.lang != cld2.lang:
            return "identifiers_disagree"
        if not self._has_points(cld2):
            return "few_points"
        return "" if self._sure(cld3) else "low_confidence"

    def _ask_cld3(self, text: str, *, latin: bool) -> Guess:
        found = self._cld3.FindLanguage(text=text)
        if found.language == UNDETERMINED:
            return NO_GUESS
        return Guess(_code(found.language, latin), found.probability)

    def _sure(self, cld3: Guess) -> bool:
        policy = self._policies.get(cld3.lang)
        return policy is not None and cld3.share >= policy.cld3_probability

    def _listed(self, guess: Guess) -> Reason:
        return "" if guess.lang in self._policies else "other_language"

    def _score(self, guess: Guess) -> float:
        """The share of a language's usual points; without points, what the guess itself says."""
        policy = self._policies.get(guess.lang)
        if guess.points and policy and policy.cld2_points:
            return min(1.0, guess.points / policy.cld2_points)
        return guess.share

    def _has_points(self, guess: Guess) -> bool:
        policy = self._policies.get(guess.lang)
        usual = policy.cld2_points if policy else 0.0
        return guess.points >= MIN_POINTS_SHARE * usual

    def _stands_alone(self, cld2: Guess) -> bool:
        """Whether CLD2 needs no second voice: nearly all the text, and the usual points."""
        whole = cld2.reliable and cld2.share * 100 >= MIN_CLD2_PERCENT
        return whole and self._has_points(cld2)

    def _foreign(self, cld2: Guess) -> bool:
        """Whether CLD2 is too sure for text in a language that it lacks."""
        return cld2.reliable and cld2.points >= ROMANISED_POINTS

    def _by_cues(self, cld3: Guess, cld2: Guess, text: str) -> Guess:
        """Tell Croatian, Bosnian and Latin-script Serbian apart; both labels count a little."""
        odds = south_slavic.probabilities(text[: 3 * MAX_CHARACTERS])
        for guess in (cld3, cld2):
            if guess.lang in odds:
                odds[guess.lang] *= AGREEMENT_ODDS
        best = max(odds, key=lambda lang: odds[lang])
        return Guess(best, odds[best] / sum(odds.values()))


def _code(code: str, latin: bool) -> str:
    """An identifier's code as languages.csv has it; neither identifier splits Serbian by script."""
    code = _CLD2_CODES.get(code, code)
    return "sr-Latn" if code == "sr" and latin else code


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyLanguageAndScript(LanguageRule):
    """Labels pages by CLD2, by CLD3 where it is in doubt, and by their script."""

    columns: ClassVar[Mapping[str, str]] = {
        "lang_second": "string",
        "lang_second_score": "float32",
        "script": "string",
    }

    @functools.cached_property
    def _identifiers(self) -> TwoIdentifiers:
        return TwoIdentifiers()

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the language of a page and the score that `Identification` describes."""
        found = self._identifiers.identify(page.text)
        page.columns |= {
            "lang_second": found.second,
            "lang_second_score": found.second_score,
            "script": found.script,
            "_undetermined": found.reason,
        }
        return found.lang, found.score

    def detail(self, page: Page) -> str:
        """Return the guess, or why there is none, with its score, then the text."""
        said = page.columns.get("_undetermined") or page.lang
        return f"{said} {page.lang_score:.3f}: {page.text}"

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the guess, the second guess and the script."""
        return {**super().describe(page), "undetermined": page.columns["_undetermined"]}
