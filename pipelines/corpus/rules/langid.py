"""Language identification by CLD2, CLD3 and script.

CLD3 alone (as in mC4, `langid_mc4`) gives confident labels to languages that it does not know, and
misses Croatian, Bosnian and Latin-script Serbian. CLD2 knows 60 more languages, and returns the
points per kB of a text in its best language. These points separate a language from relatives
without a label: they are nearly equal in software messages and legal prose of a language, and
relatives reach about half of them. `language_policy.csv` has the points of each language, and which
identifier decides. docs/explain/language-identification.md has the measurements.
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
from mswitch.pipelines.corpus.rules.text_script import (
    count_scripts,
    find_main_script,
    measure_script_share,
)
from mswitch.pipelines.languages import UNDETERMINED, languages
from mswitch.pipelines.own_tables import read_own_table
from mswitch.pipelines.records import Page, list_columns

#: Why the language of a text is undetermined; "" if it is known.
Reason = Literal[
    "",
    "no_guess",
    "low_confidence",
    "few_points",
    "identifiers_disagree",
    "other_language",
    "script_mismatch",
]
#: mC4's codes by CLD2's codes, if these differ. Nynorsk counts as Norwegian, and traditional
#: Chinese as Chinese.
_CLD2_CODES = {"jw": "jv", "tl": "fil", "zh-Hant": "zh", "nn": "no"}
#: Characters that CLD2 refuses: control characters and noncharacters.
_REFUSED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)

#: CLD3 has no answer for shorter text.
MIN_BYTES = 100
#: CLD2 and CLD3 get at most this many characters of a text. From longer text, `sample` takes three
#: pieces. Words typical of a South Slavic language are rare, so they are searched in the first
#: 3 * MAX_CHARACTERS characters.
MAX_CHARACTERS = 3_000
#: Lowest accepted share of a text's letters in the script of the text's language.
MIN_SCRIPT_SHARE = 0.5
#: CLD2 must give a text at least this share of the points that are usual for the language. Text in
#: related languages that have no label reaches 0.3 to 0.6 of the usual points. Text in the language
#: itself reaches 0.75 and more. Pages may be less tidy than the pages used to choose the limit.
MIN_POINTS_SHARE = 0.6
#: CLD2 must find one language in at least this percentage of a text to decide alone.
MIN_CLD2_PERCENT = 90
#: If CLD2's best guess has at least this number of points, CLD2 knows the text's language.
ROMANISED_POINTS = 450
#: A guess of CLD2 or CLD3 multiplies the odds of the guessed South Slavic language by this factor.
AGREEMENT_ODDS = 1.5


@dataclasses.dataclass(frozen=True)
class LanguagePolicy:
    """One row of language_policy.csv.

    Attributes:
        decided_by: `cld2`: CLD2, or both if it is in doubt; `cld3`: CLD3, since CLD2 has no label
            for the language; `cues`: `mswitch.pipelines.corpus.rules.south_slavic`.
        cld3_probability: lowest accepted probability of CLD3's label.
        cld2_points: CLD2's usual points per kB for text in this language.
    """

    decided_by: str
    cld3_probability: float
    cld2_points: float


@functools.cache
def read_language_policies() -> Mapping[str, LanguagePolicy]:
    """Read the policy of each language, by its code in languages.csv."""
    return MappingProxyType(
        {
            row["code"]: LanguagePolicy(
                row["decided_by"], float(row["cld3_probability"]), float(row["cld2_points"])
            )
            for row in read_own_table("corpus/rules/language_policy.csv")
        }
    )


class Identification(NamedTuple):
    """The language of a text, and a second guess of the language.

    Attributes:
        lang: a code of languages.csv, or `und`.
        score: from 0 to 1. Depending on the identifier that decided: the share of the language's
            usual CLD2 points, CLD3's probability, or the cues' probability. For `und`, the score of
            `second`.
        second: the best label except `lang`; for `und`, the best guess. A code of languages.csv or
            another code of CLD2; "" if there is none.
        second_score: score of `second`, as above.
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
    """An identifier's guess of a text's language.

    Attributes:
        lang: a code of languages.csv or another code of CLD2; "" without a guess.
        share: CLD3's probability, CLD2's share of the text, or the cues' probability.
        points: CLD2's points per kB of text.
        reliable: whether CLD2 calls its answer reliable.
    """

    lang: str
    share: float
    points: float = 0.0
    reliable: bool = True


NO_GUESS = Guess("", 0.0, reliable=False)


def ask_cld2(text: str, *, latin: bool) -> list[Guess]:
    """Return CLD2's guesses of the language, at least one; the first covers most of the text.

    Args:
        text: any text that UTF-8 can encode; characters that CLD2 refuses become spaces.
        latin: whether the text is mostly in Latin script, to distinguish the two forms of Serbian.
    """
    import pycld2

    try:
        reliable, _, details = pycld2.detect(text, isPlainText=True, bestEffort=True)
    except pycld2.error:
        # Replace refused characters only after an error, because searching every text takes longer.
        cleaned = _REFUSED.sub(" ", text)
        reliable, _, details = pycld2.detect(cleaned, isPlainText=True, bestEffort=True)
    guesses = [
        Guess(_find_code(code, latin), percent / 100, points, reliable)
        for _, code, percent, points in details
        if code != "un"
    ]
    return guesses or [NO_GUESS]


def sample(text: str, characters: int) -> str:
    """Return a text; if it is longer than `characters`, return its beginning, middle and end."""
    if len(text) <= characters:
        return text
    piece = characters // 3
    last = len(text) - piece
    return "\n".join(text[start : start + piece] for start in (0, last // 2, last))


class TwoIdentifiers:
    """Labels text with codes of languages.csv. An instance serves one thread at a time."""

    def __init__(self):
        self._cld3 = gcld3.NNetLanguageIdentifier(
            min_num_bytes=MIN_BYTES, max_num_bytes=4 * MAX_CHARACTERS
        )
        self._policies = read_language_policies()

    def identify(self, text: str) -> Identification:
        """Return the language of `text`; if it is uncertain, `und` and the reason."""
        seen = sample(text, MAX_CHARACTERS).encode("utf-8", "replace").decode()
        counts = count_scripts(seen)
        script = find_main_script(counts)
        cld2, *others = ask_cld2(seen, latin=script == "Latn")
        choice, second, reason = self._decide(cld2, seen, script, text)
        if choice.lang and not reason:
            share = measure_script_share(counts, languages()[choice.lang])
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
        """Return the best guess, CLD3's guess, and the reason to refuse the best guess ("": none).

        CLD3 takes five times as long as CLD2, so it is asked only if CLD2 leaves a doubt.
        Otherwise, CLD3's guess is `NO_GUESS`.
        """
        group = cld2.lang in south_slavic.LANGUAGES
        whole = cld2.reliable and cld2.share * 100 >= MIN_CLD2_PERCENT
        alone = whole and self._has_points(cld2)
        if alone and not group and cld2.points >= ROMANISED_POINTS:
            return cld2, NO_GUESS, self._listed(cld2)
        cld3 = self._ask_cld3(seen, latin=script == "Latn")
        policy = self._policies.get(cld3.lang)
        is_foreign = cld2.reliable and cld2.points >= ROMANISED_POINTS
        if policy and policy.decided_by == "cld3" and self._sure(cld3) and not is_foreign:
            return cld3, cld3, ""
        if group and (self._has_points(cld2) or cld3.lang in south_slavic.LANGUAGES):
            return self._by_cues(cld3, cld2, text), cld3, ""
        if alone:
            return cld2, cld3, self._listed(cld2)
        reason = self._doubt(cld3, cld2)
        return cld3 if reason == "identifiers_disagree" else cld2, cld3, reason

    def _doubt(self, cld3: Guess, cld2: Guess) -> Reason:
        """Return why the guesses of CLD2 and CLD3 do not determine the language, or ""."""
        if not cld3.lang:
            return "low_confidence" if cld2.lang else "no_guess"
        if cld3.lang != cld2.lang:
            return "identifiers_disagree"
        if not self._has_points(cld2):
            return "few_points"
        return "" if self._sure(cld3) else "low_confidence"

    def _ask_cld3(self, text: str, *, latin: bool) -> Guess:
        guess = self._cld3.FindLanguage(text=text)
        if guess.language == UNDETERMINED:
            return NO_GUESS
        return Guess(_find_code(guess.language, latin), guess.probability)

    def _sure(self, cld3: Guess) -> bool:
        policy = self._policies.get(cld3.lang)
        return policy is not None and cld3.share >= policy.cld3_probability

    def _listed(self, guess: Guess) -> Reason:
        return "" if guess.lang in self._policies else "other_language"

    def _score(self, guess: Guess) -> float:
        """Return CLD2's points for the text, divided by the usual points in the guessed language.

        Without points, return the guess's share of the text.
        """
        policy = self._policies.get(guess.lang)
        if guess.points and policy and policy.cld2_points:
            return min(1.0, guess.points / policy.cld2_points)
        return guess.share

    def _has_points(self, guess: Guess) -> bool:
        policy = self._policies.get(guess.lang)
        usual = policy.cld2_points if policy else 0.0
        return guess.points >= MIN_POINTS_SHARE * usual

    def _by_cues(self, cld3: Guess, cld2: Guess, text: str) -> Guess:
        """Choose Croatian, Bosnian or Latin Serbian by words; CLD2 and CLD3 have a small weight."""
        odds = south_slavic.probabilities(text[: 3 * MAX_CHARACTERS])
        for guess in (cld3, cld2):
            if guess.lang in odds:
                odds[guess.lang] *= AGREEMENT_ODDS
        best = max(odds, key=lambda lang: odds[lang])
        return Guess(best, odds[best] / sum(odds.values()))


def _find_code(code: str, latin: bool) -> str:
    """Convert a language code of CLD2 or CLD3 to mswitch's; both have one code for Serbian."""
    code = _CLD2_CODES.get(code, code)
    return "sr-Latn" if code == "sr" and latin else code


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyLanguageAndScript(LanguageRule):
    """Labels pages by CLD2, by CLD3 if CLD2 is in doubt, and by their script."""

    columns: ClassVar[Mapping[str, str]] = list_columns("language")

    @functools.cached_property
    def _identifiers(self) -> TwoIdentifiers:
        return TwoIdentifiers()

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the language of a page and its score, as in `Identification`."""
        answer = self._identifiers.identify(page.text)
        page.columns |= {
            "lang_second": answer.second,
            "lang_second_score": answer.second_score,
            "script": answer.script,
            "_undetermined": answer.reason,
        }
        return answer.lang, answer.score

    def set_unidentified(self, page: Page) -> None:
        super().set_unidentified(page)
        counts = count_scripts(sample(page.text, MAX_CHARACTERS))
        page.columns |= {"script": find_main_script(counts), "_undetermined": ""}

    def detail(self, page: Page) -> str:
        """Return the language, or why it is undetermined; then its score and the text."""
        said = page.columns.get("_undetermined") or page.lang
        return f"{said} {page.lang_score:.3f}: {page.text}"

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the language, the second guess of the language, and the script."""
        return {**super().describe(page), "undetermined": page.columns["_undetermined"]}
